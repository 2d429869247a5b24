"""Findings of a comparison against the functions behind them, and the files of a report."""

import csv
import io
import json
import re

import pytest

from t5_pegasus.metrics import corpus_bleu, score
from t5_pegasus.metrics.comparison import Score
from t5_pegasus.systems.comparison import Entry, TextScore, find
from t5_pegasus.systems.plots import draw
from t5_pegasus.systems.protocol import Text, Written
from t5_pegasus.systems.report import about_data, as_html, write_report
from t5_pegasus.systems.running import Run
from t5_pegasus.systems.slices import make_slices
from t5_pegasus.systems.tables import as_markdown, write_csv

TEXTS = [
    Text("针对调度问题提出一种图网络方法，误差降低15%。", ("基于图网络的调度方法",)),
    Text("《红楼梦》的研究</script>综述。", ("红楼梦研究综述", "《红楼梦》综述")),
    Text("本文介绍 BERT 的压缩。{{data}}", ("BERT压缩",)),
    Text("共享单车的需求预测。", ("单车需求预测",)),
]
TITLES = {
    "好": ["一种图网络调度方法", "《红楼梦》综述", "BERT的压缩", "单车需求预测"],
    "差": ["误差降低20%", "</script><b>", "GPT|4", ""],
}


@pytest.fixture(scope="module")
def entries():
    written = {
        name: [Written(title, refused=not title, input_tokens=9, output_tokens=2) for title in titles]
        for name, titles in TITLES.items()
    }
    return [
        Entry("好", "title:tiny?name=好", Run(written["好"], 0.25, 200 * 2**20, None)),
        Entry("差", "openai:x?name=差", Run(written["差"], 1.5, None, 0.02, asked_length=20)),
    ]


@pytest.fixture(scope="module")
def findings(entries):
    slices = make_slices(TEXTS, ["甲", "乙", "甲", "乙"], "主题")
    return find(entries, TEXTS, slices, about_data("folder/test.tsv", TEXTS), resamples=200)


def row(findings, name):
    return next(each for each in findings.summary["scores"] if each["name"] == name)


def test_scores_are_those_of_score(findings):
    single = [0, 2, 3]  # texts with one reference
    for number, titles in enumerate(TITLES.values()):
        expected = score([titles[text] for text in single], [TEXTS[text].references[0] for text in single])
        for name, value in expected.items():
            found = [findings.scores[number][text][name] for text in single]
            assert sum(found) / 3 == pytest.approx(value, abs=1e-6)
    assert row(findings, "exact")["systems"]["好"][0] == 0.5
    assert row(findings, "invented-numbers")["systems"]["差"][0] == 0.5
    assert [findings.inventions[1][text] for text in (0, 2, 3)] == [["20"], ["4", "gpt"], []]


def test_corpus_bleu_is_that_of_one_reference(entries):
    texts = [Text(each.content, each.references[:1]) for each in TEXTS]
    found = find(entries, texts, make_slices(texts), about_data("x.tsv", texts), resamples=100)
    value, signature = corpus_bleu(TITLES["好"], [each.references[0] for each in texts])
    assert 100 * row(found, "corpus-bleu")["systems"]["好"][0] == pytest.approx(value, abs=1e-3)
    assert any(signature in each for each in found.summary["signatures"])


def test_slices_and_differences(findings):
    slices = {(each["by"], each["value"]): each for each in findings.summary["slices"]}
    of_topic = slices["主题", "甲"]
    values = [findings.scores[0][text]["rouge-l"] for text in (0, 2)]
    assert of_topic["count"] == 2
    assert of_topic["scores"]["rouge-l"]["好"] == pytest.approx(sum(values) / 2, abs=1e-6)
    (difference,) = findings.summary["differences"]
    assert (difference["wins"], difference["ties"], difference["losses"]) == (4, 0, 0)
    assert difference["worst_texts"] == []
    gaps = {text: findings.scores[0][text]["rouge-l"] - findings.scores[1][text]["rouge-l"] for text in range(4)}
    assert difference["best_texts"][0] == max(gaps, key=gaps.__getitem__)


def test_a_further_score_is_tested_as_the_others(entries):
    length = TextScore(Score("bertscore", better=1), "bertscore|x", lambda titles, refs: [len(t) / 10 for t in titles])
    found = find(entries, TEXTS, make_slices(TEXTS), about_data("x.tsv", TEXTS), resamples=100, more=[length])
    assert row(found, "bertscore")["systems"]["好"][0] == pytest.approx(sum(map(len, TITLES["好"])) / 40)
    assert len(row(found, "bertscore")["pairs"]) == 1
    assert "| bertscore |" in as_markdown(found.summary)


def test_a_number_that_is_none_is_null_with_a_reason(entries, tmp_path):
    of_titles = {True: lambda titles, refs: [float("nan"), 1.0, 1.0, 1.0], False: lambda titles, refs: [0.5] * 4}
    undefined = TextScore(
        Score("bertscore", better=1), "bertscore|x", lambda titles, refs: of_titles["GPT|4" in titles](titles, refs)
    )
    found = find(entries, TEXTS, make_slices(TEXTS), about_data("x.tsv", TEXTS), resamples=100, more=[undefined])
    write_report(tmp_path, found, entries, TEXTS)

    def refuse(constant):
        raise AssertionError(constant)

    summary = json.loads((tmp_path / "scores.json").read_text(encoding="utf-8"), parse_constant=refuse)
    (scored,) = (each for each in summary["scores"] if each["name"] == "bertscore")
    assert scored["systems"] == {"好": [0.5, 0.5, 0.5], "差": [None, None, None]}
    assert scored["pairs"][0]["difference"] == [None, None, None]
    number = [each["name"] for each in summary["scores"]].index("bertscore")
    assert summary["impossible"][f"scores[{number}].systems.差[0]"] == "nan is no number of JSON"
    assert "| – |" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert (
        "NaN" not in (tmp_path / "index.html").read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0]
    )


def test_what_is_not_known_of_a_system_has_a_reason(findings):
    first, second = findings.summary["systems"]
    assert (first["cost"], first["reasons"]) == (
        *(None, {"cost": "no price is known", "asked_length": "no length was asked for"}),
    )
    assert (second["peak_bytes"], second["reasons"]) == (None, {"peak_bytes": "it has no process here"})


def test_the_table_of_titles_has_all_of_them(findings, entries):
    file = io.StringIO()
    write_csv(file, findings, entries)
    rows = list(csv.DictReader(io.StringIO(file.getvalue().lstrip("\ufeff"))))
    assert [(each["text"], each["system"]) for each in rows[:3]] == [("1", "好"), ("1", "差"), ("2", "好")]
    assert [each["title"] for each in rows[::2]] == TITLES["好"]
    assert float(rows[1]["rouge-l"]) == findings.scores[1][0]["rouge-l"]
    assert rows[1]["invented"] == "20"


def test_markdown_has_whole_tables(findings):
    text = as_markdown(findings.summary)
    tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
    assert len(tables) == 4
    for table in tables:
        assert len({line.count("|") - line.count("\\|") for line in table}) == 1
    assert "`差`: 0 empty, 1 refused" in text
    assert re.search(r"\| `差` \| 36 \| 8 \| 0.02 \| [\d.]+ \| 20 \|", text)
    assert "(SHA-256" in text
    assert "folder/" not in text


def test_the_same_titles_give_the_same_bytes(findings, entries, tmp_path):
    for name in ("one", "two"):
        slices = make_slices(TEXTS, ["甲", "乙", "甲", "乙"], "主题")
        again = find(entries, TEXTS, slices, about_data("other/test.tsv", TEXTS), resamples=200)
        write_report(tmp_path / name, again, entries, TEXTS, ["甲", "乙", "甲", "乙"])
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert sorted(one) == ["index.html", "report.md", "scores.csv", "scores.json"]
    assert one == two
    assert json.loads(one["scores.json"]) == findings.summary


def test_the_page_holds_texts_that_look_like_its_own(findings, entries):
    page = as_html(findings, entries, TEXTS)
    assert page.count("</script>") == 2
    assert "{{data}}" in page  # of a text
    assert "{{" not in page.replace("{{data}}", "")
    assert "<metadata" not in page
    assert "://" not in page.replace("http://www.w3.org/", "")  # names of SVG, which nobody asks for


def test_of_many_systems_the_best_ones_pairs_are_drawn(entries):
    written = [[Written(title) for title in TITLES["差"]] for _ in range(7)]
    many = [
        entries[0],
        *(Entry(f"差{number}", "lead", Run(each, 0.1, None, None)) for number, each in enumerate(written)),
    ]
    found = find(many, TEXTS, make_slices(TEXTS), about_data("x.tsv", TEXTS), resamples=100)
    plot = draw("wins", found, many, TEXTS)
    assert len(found.summary["differences"]) == 28
    assert [f">好 / 差{number}<" in plot for number in range(7)] == [True] * 7
    assert ">差0 / 差1<" not in plot
    few = find(many[:3], TEXTS, make_slices(TEXTS), about_data("x.tsv", TEXTS), resamples=100)
    assert ">差0 / 差1<" in draw("wins", few, many[:3], TEXTS)


def test_one_system_alone_has_no_pairs(entries, tmp_path):
    alone = [Entry("好", "lead", Run(entries[0].run.written[:1], None, None, None))]
    found = find(alone, TEXTS[:1], make_slices(TEXTS[:1]), about_data("x.tsv", TEXTS[:1]), resamples=100)
    write_report(tmp_path, found, alone, TEXTS[:1])
    assert row(found, "rouge-l")["pairs"] == []
    assert "## Pairs" not in (tmp_path / "report.md").read_text(encoding="utf-8")
