"""compare.py from the outside: what it writes, what it prints, and that bad input is a line and loses nothing."""

import json
import subprocess
import sys

import pytest

import compare
import evaluation
from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.locations import DATA_DIR, ROOT
from t5_pegasus.metrics import score

PAIRS = [
    ("单车需求预测", "共享单车很多。提出一种单车需求预测方法。", "交通"),
    ("红楼梦研究", "《红楼梦》的研究。综述。", "文学"),
]


@pytest.fixture
def pairs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rows = [dict(zip(("title", "content", "topic"), row, strict=True)) for row in PAIRS]
    (tmp_path / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    (tmp_path / "theirs.txt").write_text("单车预测\n红楼梦研究\n", encoding="utf-8")
    return tmp_path / "pairs.jsonl"


def run(*systems, flags=()):
    arguments = [word for system in systems for word in ("--system", system)]
    return compare.main(["--test_file", "pairs.jsonl", "--resamples", "100", *arguments, *flags])


def test_a_comparison_writes_a_report(pairs, tmp_path, capsys):
    assert run("predictions:theirs.txt?name=theirs", "lead", flags=["--group_by", "topic"]) == 0
    out = capsys.readouterr().out.splitlines()
    last = json.loads(out[-1])
    expected = score(["单车预测", "红楼梦研究"], [row[0] for row in PAIRS])
    assert last["rouge-l"]["theirs"][0] == pytest.approx(expected["rouge-l"], abs=1e-6)
    assert out[-2] == "the report is report/index.html"
    assert out[0].startswith("rouge|lang:zh|")
    assert {path.name for path in (tmp_path / "report").iterdir()} == {
        *("index.html", "report.md", "scores.csv", "scores.json", "titles")
    }
    summary = json.loads((tmp_path / "report" / "scores.json").read_text(encoding="utf-8"))
    assert [each["name"] for each in summary["systems"]] == ["theirs", "lead"]
    assert summary["systems"][0]["seconds_per_text"] is None
    assert summary["systems"][1]["peak_bytes"] > 0
    assert {each["value"] for each in summary["slices"] if each["by"] == "topic"} == {"交通", "文学"}


def test_english_is_scored_as_the_evaluation_script_does(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pairs = DATA_DIR / "dialogues_valid.jsonl"
    rows = [json.loads(line) for line in pairs.read_text(encoding="utf-8").splitlines()]
    titles = [" ".join([*row["dialogue"].split()[:6], *row["summary"].split()[::2]]) for row in rows]
    (tmp_path / "theirs.txt").write_text("".join(f"{title}\n" for title in titles), encoding="utf-8")
    systems = ["--system", "predictions:theirs.txt?name=theirs", "--system", "lead?unit=sentence"]
    flags = ["--test_file", str(pairs), "--language", "en", "--resamples", "100"]
    assert compare.main([*flags, *systems]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert evaluation.main(["--predictions", "theirs.txt", "--references", str(pairs), "--language", "en"]) == 0
    out = capsys.readouterr().out.splitlines()
    expected = json.loads(out[-1])
    assert {"rouge-1", "rouge-lsum", "bleu"} < expected.keys()
    for name, value in expected.items():
        assert found[name]["theirs"][0] == pytest.approx(value, abs=1e-6)
    assert f"corpus BLEU {100 * found['corpus-bleu']['theirs'][0]:.2f} (" in out[-3]
    summary = json.loads((tmp_path / "report" / "scores.json").read_text(encoding="utf-8"))
    mean = summary["systems"][0]["mean_length"]
    assert f"mean length {mean:.1f} words" in out[-4]
    # Each signature of the script, with what is said of several references.
    for signature in out[-2].removeprefix("means of ").split(", "):
        assert set(signature.split("|")) < {part for each in summary["signatures"] for part in each.split("|")}
    assert "invented-latin" not in found
    assert not any(each["by"] == "latin" for each in summary["slices"])


def test_more_references_count(pairs, tmp_path, capsys):
    (tmp_path / "more.txt").write_text("\n《红楼梦》的研究\n", encoding="utf-8")
    assert run("lead?unit=sentence", flags=["--more_references", "more.txt"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["exact"]["lead?unit=sentence"][0] == 0.5


def test_a_system_that_fails_loses_no_other(pairs, tmp_path, capsys):
    nobody = "service:http://127.0.0.1:9"
    with pytest.raises(PegasusError, match=rf"^{nobody}: no answer from .*; titles of the other systems are kept in"):
        run(nobody, "lead", "service:http://127.0.0.1:9?name=also")
    assert "error: also: no answer from http://127.0.0.1:9" in capsys.readouterr().err
    assert not (tmp_path / "report" / "index.html").exists()
    (kept,) = (tmp_path / "report" / "titles").iterdir()
    before = kept.stat().st_mtime_ns
    assert run("lead") == 0
    assert kept.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("systems", "flags", "error", "message"),
    [
        ([], [], OptionError, "give at least one --system"),
        (["lead", "lead"], [], OptionError, "two systems are called lead"),
        (["lead"], ["--test_file", "none.tsv"], DataError, "cannot read none.tsv"),
        (["lead"], ["--group_by", "year"], DataError, "pairs.jsonl:1: needs columns year"),
        (["lead"], ["--more_references", "one.txt"], DataError, "one.txt has references for 1 texts, .* has 2"),
        (["predictions:one.txt"], [], DataError, "predictions:one.txt: one.txt has titles for 1 texts"),
        (["predictions:gone.txt"], [], DataError, "predictions:gone.txt: cannot read gone.txt"),
        (["openai:gpt-x"], [], OptionError, "openai:gpt-x: OPENAI_API_KEY must hold the key"),
        (["compress"], ["--language", "en"], OptionError, "compress: compress has rules for Chinese only"),
        (["lead"], ["--language", "fr"], OptionError, "argument --language: invalid choice: 'fr'"),
        (["lead"], ["--resamples", "9"], OptionError, "resamples must be from 100 to 1000000, got 9"),
        (["lead"], ["--output_dir", "one.txt"], OptionError, "output_dir must be a folder, got one.txt"),
    ],
)
def test_bad_input_is_a_line(pairs, tmp_path, monkeypatch, systems, flags, error, message):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "one.txt").write_text("题\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        run(*systems, flags=flags)
    assert not (tmp_path / "report").exists()


def test_the_script_ends_with_code_2(pairs):
    ran = subprocess.run([sys.executable, ROOT / "compare.py", "--system", "lede"], capture_output=True, text=True)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: ")
    assert len(ran.stderr.splitlines()) == 1
    assert "Traceback" not in ran.stderr
