"""evaluation.py from the outside: titles of a file or of a (stand-in) model, what it prints and what it refuses."""

import csv
import gzip
import json
import math
import subprocess
import sys
import types

import pytest

import evaluation
from t5_pegasus.commands.title import as_json
from t5_pegasus.data.predictions import read_predictions
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.metrics import corpus_bleu, score
from t5_pegasus.title import Answer, Hypothesis

CONTENTS = ["针对免疫算法,提出一种分层方法。", '给出一个"例子",\t含\t制表符。', "=1+1 是一个式子。"]
REFERENCES = ["分层免疫算法", "一个例子", "一个式子"]
PREDICTIONS = ["免疫算法", "", "半个\ud800式子"]


@pytest.fixture
def pairs(tmp_path):
    path = tmp_path / "pairs.jsonl"
    rows = [{"content": content, "title": title} for content, title in zip(CONTENTS, REFERENCES, strict=True)]
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def write_titles(path, titles):
    """Write what test.py writes with two titles for each text: the better one first."""
    lines = [
        json.dumps({"id": "one for all", "rank": rank, "title": text, "score": -rank})
        for title in titles
        for rank, text in enumerate((title, "次"), 1)
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run_script(*arguments):
    return subprocess.run(
        [sys.executable, ROOT / "evaluation.py", *arguments], capture_output=True, text=True, encoding="utf-8"
    )


def test_titles_of_a_file_are_scored(pairs, tmp_path, capsys):
    titles = write_titles(tmp_path / "titles.jsonl", PREDICTIONS)
    table = tmp_path / "scores.csv"
    arguments = ["--predictions", str(titles), "--references", str(pairs), "--output_csv", str(table)]
    assert evaluation.main(arguments) == 0

    *text, last = capsys.readouterr().out.splitlines()
    means = json.loads(last)
    assert means == score(PREDICTIONS, REFERENCES)
    assert list(means) == ["rouge-1", "rouge-2", "rouge-l", "bleu"]
    assert text[0] == "3 examples, mean length 3.0 characters, of the references 4.7"
    value, signature = corpus_bleu(PREDICTIONS, REFERENCES)
    assert text[1] == f"corpus BLEU {value:.2f} ({signature})"
    assert "rouge|lang:zh|tok:chars|case:lower|f|" in text[2]
    assert "bleu|lang:zh|tok:chars|case:lower|" in text[2]

    assert table.read_bytes().startswith(b"\xef\xbb\xbf")
    with table.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["content"] for row in rows] == CONTENTS
    assert [row["reference"] for row in rows] == REFERENCES
    assert [row["prediction"] for row in rows] == [*PREDICTIONS[:2], "半个?式子"]
    for name, mean in means.items():
        assert sum(float(row[name]) for row in rows) / len(rows) == pytest.approx(mean)


def test_english_titles_are_scored_by_words(tmp_path, capsys):
    predictions, references = ["The dogs were running.", ""], ["A dog runs in the park.", "Rain is expected."]
    rows = [{"id": number, "article": "A text.", "highlights": each} for number, each in enumerate(references)]
    (tmp_path / "pairs.json").write_text(json.dumps(rows), encoding="utf-8")
    titles = write_titles(tmp_path / "titles.jsonl", predictions)
    files = ["--predictions", str(titles), "--references", str(tmp_path / "pairs.json")]
    assert evaluation.main([*files, "--language", "en"]) == 0
    *text, last = capsys.readouterr().out.splitlines()
    assert json.loads(last) == score(predictions, references, "en")
    assert list(json.loads(last)) == ["rouge-1", "rouge-2", "rouge-l", "rouge-lsum", "bleu"]
    assert text[0] == "2 examples, mean length 2.0 words, of the references 4.5"
    value, signature = corpus_bleu(predictions, references, "en")
    assert text[1] == f"corpus BLEU {value:.2f} ({signature})"
    assert "rouge|lang:en|tok:rouge-score|" in text[2]
    with pytest.raises(OptionError, match="argument --language: invalid choice: 'fr'"):
        evaluation.main([*files, "--language", "fr"])
    with pytest.raises(OptionError, match="--source_prefix would change no title of --predictions"):
        evaluation.main([*files, "--source_prefix", "summarize: "])


def test_scoring_loads_no_tensorflow(pairs, tmp_path):
    titles = write_titles(tmp_path / "titles.jsonl", PREDICTIONS)
    code = (
        f"import sys, evaluation; evaluation.main(['--predictions', {str(titles)!r}, '--references', {str(pairs)!r}]);"
        "sys.exit('tensorflow' in sys.modules or 'bert4keras' in sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


def test_titles_are_generated_by_the_model_that_the_flags_name(pairs, monkeypatch, capsys):
    calls = []

    class AutoTitle:
        @classmethod
        def load(cls, *arguments, **options):
            calls.append((arguments, options))
            return cls()

        def iterate(self, contents, generation, data, progress):
            calls.append((contents, generation, data, progress))
            return [Answer([Hypothesis(title, 0.0, ())], 9, False) for title in REFERENCES]

    stand_in = types.ModuleType("t5_pegasus.title")
    stand_in.AutoTitle = AutoTitle
    stand_in.rerank_answers = lambda answers, reranking, generation: answers
    monkeypatch.setitem(sys.modules, "t5_pegasus.title", stand_in)
    for name in ("config.json", "vocab.txt"):
        (pairs.parent / name).write_text("{}")
    flags = ["--model_dir", str(pairs.parent), "--weights", "w", "--user_dict", "u", "--run_dir", "o"]
    flags += ["--topk", "3", "--max_source_length", "99"]
    assert evaluation.main(["--test_file", str(pairs), *flags]) == 0
    loaded, (contents, generation, data, progress) = calls
    assert loaded == ((pairs.parent, "w", "auto", "u", "o", None, False), {})  # no adapter
    assert contents == CONTENTS
    assert (generation.num_beams, data.max_source_length, progress) == (3, 99, True)
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == score(REFERENCES, REFERENCES)


def test_references_that_are_twice_in_a_file_count_twice(tmp_path, capsys):
    (tmp_path / "pairs.tsv").write_text("题一\t正文一\n题一\t正文一\n题二\t正文二\n", encoding="utf-8")
    (tmp_path / "titles.txt").write_text("题一\n题一\n无\n", encoding="utf-8")
    flags = ["--predictions", str(tmp_path / "titles.txt"), "--references", str(tmp_path / "pairs.tsv")]
    assert evaluation.main(flags) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rouge-1"] == pytest.approx(2 / 3)


def test_a_table_that_cannot_be_written_is_told_before_the_work(pairs, tmp_path):
    with pytest.raises(OptionError, match="must not be a directory"):
        evaluation.main(["--test_file", str(pairs), "--output_csv", str(tmp_path)])


def test_predictions_and_references_go_together():
    with pytest.raises(OptionError, match="go together"):
        evaluation.main(["--predictions", "titles.jsonl"])


def test_users_errors_are_one_line_and_exit_code_2(pairs, tmp_path):
    two = write_titles(tmp_path / "two.jsonl", PREDICTIONS[:2])
    empty = tmp_path / "empty.jsonl"
    empty.write_text("", encoding="utf-8")
    for predictions, references, message in (
        (tmp_path / "none.jsonl", pairs, "none.jsonl: No such file"),
        (two, tmp_path / "none.tsv", "none.tsv: No such file"),
        (two, pairs, "titles for 2 texts"),
        (empty, pairs, "titles for 0 texts"),
        (two, empty, "empty.jsonl holds no example"),
    ):
        ran = run_script("--predictions", predictions, "--references", references)
        assert (ran.returncode, ran.stdout) == (2, "")
        assert ran.stderr.startswith("error: ")
        assert len(ran.stderr.splitlines()) == 1
        assert message in ran.stderr


def test_plain_predictions_keep_empty_lines(tmp_path):
    path = tmp_path / "titles.txt.gz"
    path.write_bytes(gzip.compress("甲\u2028乙\r\n\n丙".encode()))
    assert read_predictions(path) == ["甲\u2028乙", "", "丙"]


def test_titles_that_the_options_forbade_count_as_empty(tmp_path):
    path = tmp_path / "titles.jsonl"
    lines = [as_json("a", 1, Hypothesis("题", -1.5, (7,))), as_json("b", 1, Hypothesis("", -math.inf, ()))]
    reason = "the options forbid every title"
    assert json.loads(lines[1]) == {"id": "b", "rank": 1, "title": None, "score": None, "reason": reason}
    path.write_text("\n".join(lines), encoding="utf-8")
    assert read_predictions(path) == ["题", ""]


def test_ids_with_half_of_a_surrogate_pair_are_written_with_escapes():
    line = as_json("\ud800文", 1, Hypothesis("题", -1.5, (7,)))
    assert line.encode() == b'{"id": "\\ud800\\u6587", "rank": 1, "title": "\\u9898", "score": -1.5}'


def test_titles_without_a_rank_stand_alone(tmp_path):
    path = tmp_path / "titles.jsonl"
    path.write_text('{"title": "甲"}\n\n{"title": "乙"}\n{"rank": 1, "title": "丙"}\n{"rank": 2, "title": "丁"}\n')
    assert read_predictions(path) == ["甲", "乙", "丙"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"title": "x"}\n{"title": 1}\n', "a\\.jsonl:2: title must be text, got 1$"),
        ("a.jsonl", b"title\n", "a\\.jsonl:1: not JSON: Expecting value at character 1$"),
        ("a.jsonl", b'["x"]', r"a\.jsonl:1: expected a JSON object, got \[\"x\"\]$"),
        ("a.jsonl", b"[" * 100_000, "a\\.jsonl:1: not JSON: maximum recursion"),
        ("a.txt", b"\xff\xfe", "cannot read .*a.txt: not UTF-8 but UTF-16"),
        ("a.txt.gz", gzip.compress(b"abc" * 100, mtime=0)[:-9], "cannot read .*a.txt.gz"),
        ("a.txt.gz", b"abc", "cannot read .*a.txt.gz"),
        ("a.csv", b"", "predictions must be in a file of .jsonl or .txt"),
    ],
)
def test_prediction_files_that_cannot_be_read_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_predictions(path)
