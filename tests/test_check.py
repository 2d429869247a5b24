"""`python -m t5_pegasus.check`: its files, its exit code, and what users have wrong."""

import json
import sys

import pytest

from t5_pegasus import check, read_examples
from t5_pegasus.__main__ import run_command
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import DATA_DIR

HEADER = "title\tcontent\n"


@pytest.fixture
def train(tmp_path):
    """Return a file of pairs of data/ with a duplicate, HTML and a pair of data/test.tsv."""
    pairs = (DATA_DIR / "train.tsv").read_text(encoding="utf-8").splitlines()[:12]
    held_out = (DATA_DIR / "test.tsv").read_text(encoding="utf-8").splitlines()
    title, _, content = pairs[3].partition("\t")
    lines = [*pairs, pairs[5], held_out[-1], f"{title}续\t<p>{content[:-9]}</p>".replace("续", "的续篇")]
    path = tmp_path / "train.tsv"
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return path


def test_files_are_written_with_what_became_of_each_row(train, tmp_path, capsys):
    out, report = tmp_path / "clean.tsv", tmp_path / "report.json"
    code = check.main([str(train), str(DATA_DIR / "test.tsv"), "--write", str(out), "--report", str(report)])
    assert code == 1
    text = capsys.readouterr().out
    assert f"serious (!): leak in {train}" in text
    changes = [line.split("\t") for line in (tmp_path / "clean.tsv.changes.tsv").read_text("utf-8").splitlines()]
    assert changes[0] == ["line", "action", "why", "detail"]
    reasons = {(int(line), action, why) for line, action, why, _ in changes[1:]}
    rows = len(train.read_text("utf-8").splitlines())
    assert {(rows - 2, "dropped", "duplicate"), (rows - 1, "dropped", "leak")} <= reasons
    kept = list(read_examples(out, keep_duplicates=True))
    dropped = {line for line, action, _ in reasons if action == "dropped"}
    assert dropped >= {rows - 2, rows - 1}
    assert not any("<p>" in pair.content for pair in kept)
    first, second = json.loads(report.read_text("utf-8"))
    assert (first["path"], second["serious"]) == (str(train), [])
    assert len(kept) == first["rows"] - len(dropped)
    assert f"{len(dropped)} dropped" in text
    # What was written has nothing serious in it any more.
    assert check.main([str(out), str(DATA_DIR / "test.tsv")]) == 0


def test_openais_files_are_written(train, tmp_path):
    check.main([str(train), "--write", str(tmp_path / "a.jsonl"), "--format", "openai"])
    chat, prompt = tmp_path / "a.chat.jsonl", tmp_path / "a.prompt.jsonl"
    assert list(read_examples(chat)) == list(read_examples(prompt))
    assert json.loads(chat.read_text("utf-8").splitlines()[0])["messages"][1]["role"] == "assistant"


def test_the_command_checks_files_and_without_them_the_installation(train, capsys, monkeypatch):
    assert run_command(["check", str(train)]) == check.main([str(train)])
    out = capsys.readouterr().out
    assert out[: len(out) // 2] == out[len(out) // 2 :]
    assert f"{train}: 15 rows, columns content/title" in out
    monkeypatch.setattr("t5_pegasus.commands.check.check", lambda: (["python 3"], []))
    assert run_command(["check"]) == 0
    assert capsys.readouterr().out == "python 3\neverything fits\n"


@pytest.mark.parametrize(
    ("flags", "error", "says"),
    [
        (["missing.tsv"], DataError, "cannot read .*missing.tsv"),
        ([], OptionError, "the following arguments are required: FILE"),
        (["TRAIN", "--format", "openai"], OptionError, "--format needs --write, got openai alone"),
        (["TRAIN", "--write", "TRAIN"], OptionError, "the file to write must not be the file to check"),
        (["TRAIN", "--report", "TRAIN"], OptionError, "the file to write must not be the file to check"),
        (["TRAIN", "--page", "TRAIN"], OptionError, "the file to write must not be the file to check"),
        (["TRAIN", "--write", "a.xlsx"], OptionError, "must end in .jsonl or .tsv, got a.xlsx"),
        (["TRAIN", "--summary_column", "题目"], DataError, "needs columns .*题目"),
        (["TRAIN", "--leak_overlap", "0"], OptionError, "leak_overlap must be"),
    ],
)
def test_what_users_have_wrong_is_one_line(train, tmp_path, monkeypatch, flags, error, says):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=says):
        check.main([each.replace("TRAIN", str(train)) for each in flags])
    assert [path.name for path in tmp_path.iterdir()] == ["train.tsv"]


def test_without_matplotlib_a_page_is_refused_before_the_work(train, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "t5_pegasus.data.check_page", None)
    with pytest.raises(OptionError, match=r"--page needs .*: `pip install '.\[compare\]'`"):
        check.main([str(train), "--page", str(tmp_path / "page.html")])


def test_a_file_without_rows_is_refused_and_nothing_is_written(tmp_path):
    (tmp_path / "empty.tsv").touch()
    with pytest.raises(DataError, match=r"empty.tsv holds no pair$"):
        check.main([str(tmp_path / "empty.tsv"), "--write", str(tmp_path / "clean.tsv")])
    assert [path.name for path in tmp_path.iterdir()] == ["empty.tsv"]


def test_of_another_encoding_the_command_that_converts_it_is_told(train, tmp_path, capsys):
    gbk = tmp_path / "gbk.tsv"
    gbk.write_bytes(train.read_text("utf-8").encode("gb18030"))
    assert check.main([str(gbk)]) == 1
    assert f"{gbk}: not UTF-8 but GB18030, convert it with `iconv -f GB18030" in capsys.readouterr().out
