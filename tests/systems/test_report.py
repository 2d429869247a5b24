"""The report in a real Chromium: a file that asks nobody, on a desk, on a phone and printed."""

import json
import re
import shutil

import pytest
from playwright.sync_api import expect, sync_playwright

from t5_pegasus.systems.comparison import Entry, find
from t5_pegasus.systems.protocol import Text, Written
from t5_pegasus.systems.report import about_data, write_report
from t5_pegasus.systems.running import Run
from t5_pegasus.systems.slices import make_slices

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXTS = [Text(f"第{number}篇讲图网络的调度方法，提高了效率。", (f"图网络调度{number}",)) for number in range(30)]
TITLES = {
    "甲": [f"图网络调度{number}" for number in range(30)],
    "乙<b>": ["图网络的调度", "", "调度39", *(f"讲图网络{number}" for number in range(3, 30))],
}


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """Return the folder of a report."""
    folder = tmp_path_factory.mktemp("report")
    entries = [
        Entry(name, "lead", Run([Written(title) for title in titles], 0.1 * number + 0.1, 2**28, None))
        for number, (name, titles) in enumerate(TITLES.items())
    ]
    findings = find(entries, TEXTS, make_slices(TEXTS), about_data("test.tsv", TEXTS), resamples=200)
    write_report(folder, findings, entries, TEXTS)
    return folder


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_report(browser, report):
    """Return a function that opens the report; in the end it may have complained of nothing, and asked nobody."""
    contexts, complaints = [], []

    def open_report(locale="zh-CN", **options):
        contexts.append(browser.new_context(locale=locale, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: complaints.append(request.url) if "index.html" not in request.url else None)
        page.goto((report / "index.html").as_uri())
        page.wait_for_selector("html[data-ready]")
        return page

    yield open_report
    for context in contexts:
        context.close()
    assert complaints == []


def test_the_tables_have_the_scores_of_the_json(open_report, report):
    page = open_report()
    summary = json.loads((report / "scores.json").read_text(encoding="utf-8"))
    (rouge,) = (row for row in summary["scores"] if row["name"] == "rouge-l")
    cells = page.locator("#scores tbody tr", has=page.get_by_role("rowheader", name="rouge-l", exact=True)).locator(
        "td"
    )
    assert page.locator("#scores thead th").all_text_contents()[1:] == list(TITLES)
    for number, (score, low, high) in enumerate(rouge["systems"].values()):
        cell = cells.nth(number)
        assert cell.locator("span").text_content() == f"{100 * score:.2f}"
        assert cell.locator("small").text_content() == f"{100 * low:.2f}–{100 * high:.2f}"
    assert page.locator("#scores span.best").first.text_content() == "100.00"
    pair = page.locator("#pairs tbody tr")
    assert pair.locator("th").text_content() == "甲 − 乙<b>"
    assert pair.locator("td").nth(1).text_content() == "30/0/0"
    assert pair.locator("td").nth(4).text_content() == "是"
    page.locator("#pairs-score").select_option("bleu")
    (bleu,) = (row for row in summary["scores"] if row["name"] == "bleu")
    assert pair.locator("td").first.text_content().startswith(f"+{100 * bleu['pairs'][0]['difference'][0]:.2f}")
    assert page.locator("figure svg").count() == 5
    assert "甲" in page.locator("#plot-intervals svg").text_content()


def test_texts_are_found_filtered_and_coloured(open_report):
    page = open_report("en-GB")
    items = page.locator("#texts > li")
    expect(items).to_have_count(20)
    page.get_by_role("button", name="Show more").click()
    expect(items).to_have_count(30)
    page.get_by_label("Search").fill("第7篇 图网络")
    expect(items).to_have_count(1)
    expect(page.locator("#count")).to_contain_text("1 text of 30")
    titles = items.locator("dd")
    assert titles.nth(1).locator("mark").count() == 0  # 甲 wrote the reference
    assert titles.nth(2).locator("mark").all_text_contents() == ["讲"]
    page.get_by_label("Search").fill("")
    page.locator("#filter").select_option("invented")
    expect(items).to_have_count(1)
    assert items.locator("mark.invented").text_content() == "39"
    expect(items).to_contain_text("✗ 39")
    page.locator("#filter").select_option("empty")
    expect(items).to_have_count(1)
    page.locator("#filter").select_option("worst")
    page.locator("#system").select_option("乙<b>")
    expect(items.first.locator(".note")).to_have_text("2")


@pytest.mark.slow
def test_language_and_theme_can_be_chosen(open_report):
    page = open_report(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert page.locator("html").get_attribute("lang") == "zh-CN"
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("heading", name="Slices")).to_be_visible()
    page.get_by_role("button", name="System").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    chinese, english = page.evaluate("['zh', 'en'].map((name) => Object.keys(TEXTS[name]).sort())")
    assert chinese == english
    assert (
        page.evaluate("[...document.querySelectorAll('[data-text]')].filter((each) => !each.textContent).length") == 0
    )


@pytest.mark.slow
def test_the_keyboard_reaches_everything(open_report):
    page = open_report()
    reached = set()
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.className"))
    assert {"language", "theme", "wide", "pairs-score", "slices-score", "search", "filter", "system", "more"} <= reached


@pytest.mark.slow
def test_nothing_sticks_out_on_a_phone_or_on_paper(open_report):
    page = open_report(viewport={"width": 320, "height": 640})
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page = open_report(color_scheme="dark", viewport={"width": 720, "height": 1000})
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.evaluate("getComputedStyle(document.body).color") == "rgb(35, 33, 29)"
    assert not page.get_by_label("搜索").is_visible()
    width = page.evaluate("Math.max(...[...document.querySelectorAll('table')].map((each) => each.scrollWidth))")
    assert width <= 720


def test_english_texts_are_counted_and_coloured_by_words(browser, tmp_path):
    texts = [Text("Nick asks Grace for an umbrella. She has one.", ("Grace lends Nick an umbrella.",))] * 3
    titles = ["Grace's umbrella, Anna's car.", "Grace lends Nick an umbrella.", ""]
    entry = Entry("x", "lead", Run([Written(title) for title in titles], 0.1, 2**28, None))
    slices = make_slices(texts, language="en")
    findings = find([entry], texts, slices, about_data("test.tsv", texts), resamples=100, language="en")
    write_report(tmp_path, findings, [entry], texts)
    context = browser.new_context(locale="en-GB")
    page = context.new_page()
    page.goto((tmp_path / "index.html").as_uri())
    page.wait_for_selector("html[data-ready]")
    assert "Lengths of titles: words" in page.locator("#plot-lengths figcaption").text_content()
    assert page.locator("#scores").get_by_role("rowheader", name="rouge-lsum", exact=True).count() == 1
    assert page.locator("#slices").get_by_role("rowheader", name="words of the text").count() == 1
    assert "characters" not in page.locator("main").inner_text()
    first = page.locator("#texts > li").first.locator("dd").nth(1)
    assert first.locator("mark.invented").all_text_contents() == ["Grace's", ",", "Anna's", "car"]
    assert page.locator("#texts > li").nth(1).locator("mark").count() == 0
    page.get_by_role("button", name="中文").click()
    assert "标题词数的分布" in page.locator("#plot-lengths figcaption").text_content()
    context.close()


def test_every_word_of_the_page_is_its_own(report):
    """What the page may do is in its policy: no request, and one script, by its hash."""
    page = (report / "index.html").read_text(encoding="utf-8")
    (policy,) = re.findall(r'http-equiv="Content-Security-Policy" content="([^"]+)"', page)
    assert policy.startswith("default-src 'none'; ")
    assert re.search(r"script-src 'sha256-[\w+/=]+'$", policy)
