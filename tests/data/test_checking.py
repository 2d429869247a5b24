"""What each check finds and does not, on rows made for it, on data/, and on CSL."""

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus import PegasusTokenizer, read_examples
from t5_pegasus.data.check_report import histogram, to_dict, to_text
from t5_pegasus.data.checking import CHECKS, FIXES, Change, CheckConfig, check_files, copy_rate, fix
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR

LIMITS = {"max_source_length": 256, "max_target_length": 32}


@pytest.fixture(scope="module")
def tokenizer() -> PegasusTokenizer:
    return PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")


@pytest.fixture(scope="module")
def samples() -> list[tuple[str, str]]:
    """Return (title, content) of forty different texts, in which nothing is amiss."""
    return [(each.title, each.content.replace("\t", " ")) for each in read_examples(DATA_DIR / "train.tsv")][:40]


def write(path, rows):
    path.write_text("title\tcontent\n" + "".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    return path


def check(paths, tokenizer, on_change=None, **options):
    return check_files(paths, tokenizer, CheckConfig(**options), on_change=on_change)


def test_in_sound_data_nothing_is_found(tmp_path, samples, tokenizer):
    train, test = write(tmp_path / "train.tsv", samples[:30]), write(tmp_path / "test.tsv", samples[30:])
    changes: list[Change] = []
    reports = check([train, test], tokenizer, changes.append)
    assert [dict(report.found) for report in reports] == [{}, {}]
    assert [report.rows for report in reports] == [30, 10]
    assert [(change.example.title, change.example.content) for change in changes] == samples[:30]
    assert not any(change.reasons for change in changes)
    assert to_text(reports, LIMITS).endswith("\nnothing serious")


LONG = (
    "这是一段足够长的正文，讲的是如何检查数据里的错误，以及为什么要在训练之前检查它们。错误的标题会教坏模型，"
    "重复的文章会让它死记硬背，混进测试集的文章会使得分虚高，所以先花几分钟看一遍总是值得的。"
)
# Rows that a check is to find, behind the rows 0 to 3 of the samples, whose lines are 2 to 5; and what it says.
FOUND = {
    "empty": (["", LONG], "no title"),
    "equal": ([LONG, f" {LONG} "], "the title is the content"),
    "leak": (["held title", LONG], "title of held.tsv:2"),
    "near_leak": (["另一个检查数据的标题", "held content"], "100% in common with held.tsv:2"),
    "notice": (["欢迎订阅2011年《检查数据》", LONG], "欢迎订阅 in the title “欢迎订阅2011年《检查数据》”"),
    "duplicate": (["title 1", "content 1"], "as line 3"),
    "near_duplicate": (["检查数据的另一个标题", "almost content 1"], "as line 3"),
    "label_noise": (["奥运冠军昨晚凯旋回国", LONG], "“奥运冠军昨晚凯旋回国” has nothing of its text"),
    "longer_title": (
        ["检查数据里的错误检查数据里的错误", "检查数据里的错误。"],
        "title of 16 characters, content of 9",
    ),
    "mojibake": (["检查数据锟斤拷", LONG], "锟斤拷 in “检查数据锟斤拷”"),
    "same_content": (["检查数据的另一个标题", "content 1"], "as line 3"),
    "same_title": (["title 1", LONG], "as line 3"),
    "short": (["检查数据", "检查数据吧"], "content of 5 characters"),
    "language": (["How to check", "How to check data before training, and why."], "0% of the letters are Chinese"),
    "repetitive": (["检查数据", "检查数据" * 20], "content repeats itself"),
    "outlier": (["检查数据", LONG + "检查".join(map(chr, range(0x4E00, 0x5E00)))], "content of 12"),
}
# What else is told of such a row.
BESIDE = {
    "equal": {"outlier"},
    "leak": {"label_noise"},
    "near_leak": {"label_noise"},
    "near_duplicate": {"label_noise"},
    "same_content": {"label_noise"},
    "same_title": {"label_noise"},
    "longer_title": {"short", "outlier"},
    "language": {"outlier"},
    "repetitive": {"outlier"},
    "short": {"outlier"},
}


@pytest.mark.parametrize("name", FOUND)
def test_a_check_finds_what_it_is_for(name, tmp_path, samples, tokenizer):
    row, says = FOUND[name]
    texts = {f"title {number}": title for number, (title, _) in enumerate(samples)}
    texts |= {f"content {number}": content for number, (_, content) in enumerate(samples)}
    texts |= {"held title": samples[35][0], "held content": f"{LONG}{samples[35][1]}"}
    texts["almost content 1"] = f"新{samples[1][1][1:]}"
    row = [texts.get(each, each) for each in row]
    train = write(tmp_path / "train.tsv", [*samples[:30], row])
    held = write(tmp_path / "held.tsv", samples[35:])
    changes: list[Change] = []
    first, second = check([train, held], tokenizer, changes.append)
    assert second.found == Counter()
    assert first.found[name] == 1, first.examples
    assert set(first.found) - {name} <= BESIDE.get(name, set()), first.examples
    ((line, why),) = first.examples[name]
    assert line == 32
    assert says in why
    assert len(changes) == 31
    dropped = [change for change in changes if change.example is None]
    assert [change.line for change in dropped] == [32] * CHECKS[name].drops or set(first.found) != {name}
    if CHECKS[name].serious_above == 0:
        assert first.serious[0] == name
        assert f"serious (!): {name} in {train}" in to_text([first, second], LIMITS)


def test_every_check_has_its_row():
    assert CHECKS.keys() - {"unreadable", "encoding", "boilerplate"} == FOUND.keys()


def test_rows_that_cannot_be_read_are_told_and_dropped(tmp_path, samples, tokenizer):
    path = write(tmp_path / "train.tsv", samples[:9])
    with path.open("ab") as file:
        file.write("只有一列\n".encode() + "标题\t一篇正文".encode("gb18030") + b"\n")
    changes: list[Change] = []
    (report,) = check([path], tokenizer, changes.append)
    assert (report.rows, report.found["unreadable"], report.found["encoding"]) == (11, 1, 1)
    assert report.examples["unreadable"] == [(11, "expected 2 fields (title, content), got 1")]
    assert report.examples["encoding"] == [(12, "not UTF-8, convert the file first")]
    assert [change.line for change in changes if change.example is None] == [11, 12]
    assert {"unreadable", "encoding"} <= set(report.serious)


def test_a_sentence_that_many_rows_have_is_boilerplate(tmp_path, samples, tokenizer):
    phrase = "更多精彩内容请关注本报微信。"
    rows = [(title, content + (phrase if number % 3 == 0 else "")) for number, (title, content) in enumerate(samples)]
    path = write(tmp_path / "train.tsv", rows)
    (report,) = check([path], tokenizer)
    assert report.found["boilerplate"] == 14
    assert report.boilerplate == [(phrase, 14)]
    assert report.examples["boilerplate"][0] == (2, f"in 14 rows: “{phrase}”")
    (report,) = check([path], tokenizer, repeated_sentence_rows=15)
    assert report.boilerplate == []


FIXED = {
    "html": ("<p class='x'>检查&nbsp;数据</p><br/>A&amp;B，a<b 且 c>d", "检查 数据A&B，a<b 且 c>d"),
    "control": ("检\u200b查\x00数\ufeff据\x07", "检查数据"),
    "web_lines": ("检查数据。\n责任编辑：某某\n版权所有，未经许可不得转载\n", "检查数据。"),
}


@pytest.mark.parametrize("name", FIXES)
def test_a_repair_removes_what_it_is_for(name):
    dirty, clean = FIXED[name]
    assert fix(dirty) == (clean, [name])
    assert fix(clean) == (clean, [])


@given(st.text())
def test_a_repair_of_any_text_is_complete(text):
    fixed, names = fix(text)
    assert set(names) <= FIXES.keys()
    assert len(fixed) <= 2 * len(text)
    assert "&" in text or fix(fixed)[0] == fixed  # an entity may spell another


def test_what_was_fixed_is_compared_and_written(tmp_path, samples, tokenizer):
    title, content = samples[0]
    rows = [*samples[:9], (title, f"<b>{content}</b>"), (samples[20][0], f"<p>{samples[20][1]}")]
    changes: list[Change] = []
    (report,) = check([write(tmp_path / "train.tsv", rows)], tokenizer, changes.append)
    assert report.fixed == {"html": 2}
    assert changes[9].example is None
    assert changes[9].reasons == [("duplicate", "as line 2")]
    assert changes[10].example.content == samples[20][1]
    assert changes[10].reasons == [("html", FIXES["html"][1])]


@given(st.text("方法研究一二ab AB", max_size=12), st.text("方法研究一二ab AB", max_size=30))
def test_the_copy_rate_is_that_of_a_plain_loop(title, content):
    found = [title.lower()[start : start + 2] in content.lower() for start in range(len(title) - 1)]
    assert copy_rate(title, content) == (sum(found) / len(found) if found else float(title.lower() in content.lower()))


@given(st.dictionaries(st.integers(0, 5000), st.integers(1, 100), min_size=1))
def test_the_bars_of_a_plot_count_everything_once(counts):
    lines = list(histogram(Counter(counts)))
    assert len(lines) <= 13
    assert sum(int(line.split()[-1].replace(",", "")) for line in lines) == sum(counts.values())
    assert max(line.count("█") for line in lines) == 40


def test_the_report_is_text_and_an_object(tmp_path, samples, tokenizer):
    path = write(tmp_path / "train.tsv", [*samples, ("欢迎订阅", LONG)])
    reports = check([path], tokenizer)
    text = to_text(reports, LIMITS)
    assert f"{path}: 41 rows, columns content/title" in text
    assert "--max_source_length 256 cuts" in text
    (found,) = json.loads(json.dumps(to_dict(reports, LIMITS)))
    assert (found["rows"], found["serious"]) == (41, ["notice"])
    assert found["found"]["notice"] == 1
    assert found["lengths"]["title"]["1"] == max(len(title) for title, _ in samples)
    assert found["cut"]["max_target_length"] == 0


def test_limits_out_of_range_are_refused():
    for name, value in (("near_duplicate_threshold", 0.2), ("leak_overlap", 2.0), ("min_target_chars", -1)):
        with pytest.raises(OptionError, match=name):
            CheckConfig(**{name: value})


# --- public data ------------------------------------------------------------------------------------------------------


def test_in_csl_the_notices_and_the_title_in_train_and_test_are_found(public_data, tokenizer):
    train, test = check([public_data / "csl" / f"{part}.tsv" for part in ("train", "test")], tokenizer)
    assert (train.found["notice"], test.found["notice"]) == (8, 2)
    assert all("订阅" in why for _, why in train.examples["notice"])
    assert train.found["leak"] == 6
    assert train.examples["leak"][0] == (34, "title of test.tsv:222")
    assert {"leak", "notice"} <= set(train.serious)
