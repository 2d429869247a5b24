"""The page of a check: its figures are those of the JSON, its plots are whole, and it asks nobody."""

import html.parser
import re
import shutil

import pytest

from t5_pegasus import PegasusTokenizer, check
from t5_pegasus.data.check_page import to_page
from t5_pegasus.data.check_report import to_dict
from t5_pegasus.data.checking import CHECKS, CheckConfig, check_files
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR

LIMITS = {"max_source_length": 96, "max_target_length": 12}
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a file with faults, some of which look like HTML, and a file held out."""
    rows = (DATA_DIR / "train.tsv").read_text(encoding="utf-8").splitlines()[1:60]
    held_out = (DATA_DIR / "test.tsv").read_text(encoding="utf-8").splitlines()
    path = tmp_path_factory.mktemp("page") / "train<b>$x$.tsv"
    faults = ["欢迎订阅</li><script>alert(1)</script>\t" + "正文" * 9, rows[4], held_out[5], "一列"]
    path.write_text("title\tcontent\n" + "".join(f"{row}\n" for row in [*rows, *faults]), encoding="utf-8")
    return [path, DATA_DIR / "test.tsv"]


@pytest.fixture(scope="module")
def reports(files):
    return check_files(files, PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt"), CheckConfig())


@pytest.fixture(scope="module")
def page(reports):
    return to_page(reports, LIMITS)


class Tables(html.parser.HTMLParser):
    """The rows of all tables, as lists of texts; whatever is no HTML of the page's own is in there as text."""

    def __init__(self, page):
        super().__init__()
        self.rows, self.tags, self._text = [], [], None
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("th", "td"):
            self._text = ""

    def handle_endtag(self, tag):
        if tag in ("th", "td"):
            self.rows[-1].append(self._text)
            self._text = None

    def handle_data(self, data):
        if self._text is not None:
            self._text += data


def test_its_tables_have_the_numbers_of_the_json(reports, page):
    rows = Tables(page).rows
    cells = {row[0]: row[1:] for row in rows}
    told = to_dict(reports, LIMITS)
    assert rows[0][1:] == [report.path for report in reports]
    assert cells["rows"] == [f"{each['rows']:,}" for each in told]
    for name, each in CHECKS.items():
        found = [str(of_file["found"][name]) for of_file in told]
        assert cells.get(f"{name}: {each.summary}", ["0", "0"]) == found
    for label, name in (("characters of a title", "title"), ("tokens of a content", "content_tokens")):
        for end, share in (("in the middle", "0.5"), ("95 %", "0.95"), ("longest", "1")):
            assert cells[f"{label}, {end}"] == [str(of_file["lengths"][name][share]) for of_file in told]
    for flag, limit in LIMITS.items():
        assert cells[f"cut by --{flag} {limit}"] == [f"{of_file['cut'][flag]:.1%}" for of_file in told]
        assert cells[f"--{flag} suggested"] == [str(of_file["suggested"][flag]) for of_file in told]
    assert told[0]["cut"]["max_source_length"] > 0
    assert cells["copy rate"] == [f"{of_file['copy_rate']:.1%}" for of_file in told]
    assert {"leak", "notice", "duplicate", "unreadable"} <= {name for name, count in told[0]["found"].items() if count}


def test_its_plots_are_whole_and_their_ids_are_their_own(page):
    plots = re.findall(r"<figure id=\"plot-([^\"]*)\">.*?(<svg.*?</svg>)</figure>", page, re.DOTALL)
    assert [name for name, _ in plots] == [
        *("findings", "content", "content_tokens", "title", "title_tokens", "copied", "scripts")
    ]
    ids = [each for _, plot in plots for each in re.findall(r'\bid="([^"]*)"', plot)]
    assert len(ids) == len(set(ids))
    tokens = dict(plots)["content_tokens"]
    assert "--max_source_length 96" in tokens
    assert re.search(r"[\d,]+ suggested", tokens)


def test_the_bars_of_a_file_add_up_to_all_of_it(reports):
    from matplotlib.figure import Figure

    from t5_pegasus.data.check_page import _histograms

    axes = Figure().add_subplot()
    _histograms(axes, reports[:1], [reports[0].profile.lengths["content"]])
    assert sum(bar.get_height() for bar in axes.patches) == pytest.approx(100)


def test_the_same_files_give_the_same_bytes_and_texts_are_no_html(files, page, tmp_path):
    limits = [word for name, limit in LIMITS.items() for word in (f"--{name}", str(limit))]
    assert check.main([*map(str, files), "--page", str(tmp_path / "page.html"), *limits]) == 1
    assert (tmp_path / "page.html").read_bytes() == page.encode()
    assert "script" not in Tables(page).tags
    assert "://" not in page.replace("http://www.w3.org/", "")  # names of SVG, which nobody asks for


def test_of_a_file_that_cannot_be_read_there_are_no_figures(tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text("title\tcontent\n一列\n两列\n", encoding="utf-8")
    reports = check_files([path], PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt"), CheckConfig())
    (told,) = to_dict(reports, LIMITS)
    assert (told["rows"], told["lengths"], told["copy_rate"]) == (2, None, None)
    assert told["reason"] == "no row could be read"
    page = to_page(reports, LIMITS)
    assert ["copy rate", "–"] in Tables(page).rows
    assert page.count("<svg") == 1


@pytest.mark.slow
def test_a_browser_complains_of_nothing(page, tmp_path):
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    from playwright.sync_api import sync_playwright

    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    complaints = []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_page(viewport={"width": 360, "height": 640})
        shown.on("console", lambda message: complaints.append(message.text))
        shown.on("pageerror", lambda error: complaints.append(str(error)))
        shown.goto((tmp_path / "page.html").as_uri())
        assert shown.evaluate("document.documentElement.scrollWidth") <= 360
        assert shown.locator("figure svg").count() == 7
        browser.close()
    assert complaints == []
