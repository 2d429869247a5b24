"""Every script from its command line, as a user starts it, on the tiny model."""

import gzip
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from t5_pegasus import score
from t5_pegasus.locations import ROOT
from tests.paths import UNTRAINED_MODEL_DIR

TINY = str(UNTRAINED_MODEL_DIR)


def run(*arguments, cwd=ROOT, stdin=""):
    return subprocess.run(
        [sys.executable, str(ROOT / arguments[0]), *map(str, arguments[1:])],
        cwd=cwd,
        input=stdin,
        capture_output=True,
        text=True,
        timeout=300,
    )


def succeed(*arguments, **keywords):
    result = run(*arguments, **keywords)
    assert result.returncode == 0, result.stderr
    return result


def refuse(*arguments, **keywords):
    """Return the one line on standard error of a script that exits with 2."""
    result = run(*arguments, **keywords)
    lines = [
        line for line in result.stderr.splitlines() if not line.startswith("no weights in chinese_t5_pegasus_base")
    ]
    assert result.returncode == 2, result.stderr
    assert len(lines) == 1, result.stderr
    return lines[0]


def test_a_text_on_the_command_line(trained_dir, trained_title, sample_pairs):
    text = sample_pairs[0].content
    result = succeed("test.py", text, "--model_dir", trained_dir, "--run_dir", trained_dir)
    assert result.stdout == trained_title.generate(text) + "\n"
    assert result.stderr == f"using the weights {trained_dir / 'best_model.weights'}\n"


def test_a_file_to_json_lines_in_order_with_ids(trained_dir, trained_title, sample_pairs, tmp_path):
    articles = tmp_path / "articles.jsonl.gz"
    with gzip.open(articles, "wt", encoding="utf-8") as file:
        for number, example in enumerate(sample_pairs[:5]):
            file.write(json.dumps({"id": f"n{number}", "正文": example.content}, ensure_ascii=False) + "\n")
    titles = tmp_path / "titles.jsonl"
    flags = ("--num_beams", 3, "--num_return_sequences", 2, "--max_new_tokens", 12)
    succeed(
        *(
            *("test.py", "--model_dir", trained_dir),
            "--input_file",
            articles,
            "--output_file",
            titles,
            "--weights",
            trained_dir / "best_model.weights",
        ),
        *flags,
    )
    rows = [json.loads(line) for line in titles.read_text(encoding="utf-8").splitlines()]
    expected = trained_title.generate_n_best(
        [example.content for example in sample_pairs[:5]], num_beams=3, num_return_sequences=2, max_new_tokens=12
    )
    assert [row["id"] for row in rows] == [f"n{number}" for number in range(5) for _ in range(2)]
    assert [row["title"] for row in rows] == [hypothesis.text for best in expected for hypothesis in best]
    assert [row["score"] for row in rows] == pytest.approx([h.score for best in expected for h in best], abs=1e-4)


def test_standard_input_a_text_a_line(trained_dir, trained_title, sample_pairs):
    texts = [sample_pairs[0].content, "", sample_pairs[1].content]
    result = succeed(
        "test.py", "--model_dir", trained_dir, "--output_dir", trained_dir, stdin="".join(f"{text}\n" for text in texts)
    )
    assert result.stdout.split("\n") == [*trained_title.generate(texts), ""]


def test_texts_that_are_not_read_whole_are_counted(trained_dir, sample_pairs):
    texts = [sample_pairs[0].content, "短", sample_pairs[1].content]
    stdin = "".join(f"{text}\n" for text in texts)
    result = succeed(
        *("test.py", "--model_dir", trained_dir, "--output_dir", trained_dir, "--max_source_length", 30), stdin=stdin
    )
    assert "2 texts were longer than what is read of them (--max_source_length, --long_text)" in result.stderr


def test_without_flags_every_script_runs_the_shipped_model_on_the_sample_data(tmp_path):
    """The base model's weights are missing, and that is said."""
    result = succeed("test.py", cwd=tmp_path)
    assert len(result.stdout.splitlines()) == 40
    assert "no weights in chinese_t5_pegasus_base/, using chinese_t5_pegasus_tiny/" in result.stderr
    scores = json.loads(succeed("evaluation.py", cwd=tmp_path).stdout.splitlines()[-1])
    assert list(scores) == ["rouge-1", "rouge-2", "rouge-l", "bleu"]
    assert 0.1 < scores["rouge-1"] < 1


def test_predictions_are_scored_as_those_generated(trained_dir, tmp_path):
    titles, table = tmp_path / "titles.jsonl", tmp_path / "scores.csv"
    test_file = ROOT / "data" / "test.tsv"
    succeed(
        *(
            "test.py",
            "--model_dir",
            trained_dir,
            "--output_dir",
            trained_dir,
            "--input_file",
            test_file,
            "--output_file",
            titles,
        )
    )
    alone = succeed("evaluation.py", "--predictions", titles, "--references", test_file, "--output_csv", table)
    predictions = [json.loads(line)["title"] for line in titles.read_text(encoding="utf-8").splitlines()]
    references = [line.split("\t")[0] for line in test_file.read_text(encoding="utf-8").splitlines()]
    assert json.loads(alone.stdout.splitlines()[-1]) == score(predictions, references)
    assert len(table.read_text(encoding="utf-8-sig").splitlines()) == 41


def test_pretrain_data_makes_pairs_of_the_sample_articles(tmp_path):
    succeed("pretrain_data.py", "--output_file", tmp_path / "pseudo.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "pseudo.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) > 200
    assert all(len(row["target"]) <= len(row["source"]) for row in rows)


def train(model_dir, tmp_path, *flags):
    return (
        *("finetune.py", "--model_dir", model_dir, "--output_dir", tmp_path),
        *("--train_file", ROOT / "data" / "valid.tsv", "--max_source_length", 32, "--max_target_length", 8),
        *("--epochs", 1, "--max_eval_samples", 1, *flags),
    )


def test_finetune_then_resume_with_more_epochs(small_model_dir, tmp_path):
    first = succeed(*train(small_model_dir, tmp_path))
    assert "40 pairs to train, 40 to validate" in first.stdout
    assert "epoch 1, loss" in first.stdout
    assert "training texts were cut to max_source_length 32" in first.stderr
    assert "training from scratch" in first.stdout
    second = succeed(*train(small_model_dir, tmp_path, "--resume", "--num_train_epochs", 2))
    assert "going on after epoch 1" in second.stdout
    assert "epoch 2, loss" in second.stdout
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"best_model.weights", "training_log.csv", "training_state", "tensorboard"}


@pytest.mark.slow
def test_ctrl_c_in_training_leaves_whole_files(small_model_dir, tmp_path):
    arguments = [
        sys.executable,
        str(ROOT / "finetune.py"),
        *map(str, train(small_model_dir, tmp_path, "--epochs", 50)[1:]),
    ]
    process = subprocess.Popen(
        arguments,
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    while not (tmp_path / "training_log.csv").exists():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"Traceback" not in errors
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]
    succeed("test.py", "一段正文。", "--output_dir", tmp_path, "--model_dir", small_model_dir, "--max_new_tokens", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("test.py", "正文", "--input_file", "x.jsonl"), "give a text or --input_file, not both"),
        (("test.py", "--input_file", "missing.jsonl"), "cannot read missing.jsonl"),
        (
            ("test.py", "正文", "--num_beams", 1, "--num_return_sequences", 2),
            "num_return_sequences must be at most num_beams (1), got 2",
        ),
        (("test.py", "正文", "--model_dir", "nowhere"), "got nowhere without config.json"),
        (("test.py", "正文", "--weights", "nowhere"), "no weights at nowhere"),
        (("test.py", "正文", "--model_dir", TINY, "--output_dir", "/"), "python finetune.py --model_dir"),
        (("finetune.py", "--train_file", "missing.tsv"), "cannot read missing.tsv"),
        (("finetune.py", "--learning_rate", "0"), "learning_rate must be above 0, got 0.0"),
        (("finetune.py", "--learning_rate", "nan"), "learning_rate must be a finite number, got nan"),
        (("evaluation.py", "--predictions", "titles.jsonl"), "--predictions and --references go together"),
        (("pretrain_data.py", "--input_file", "missing.jsonl"), "missing.jsonl"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_what_cannot_work_is_one_line_and_exit_code_2(arguments, message, tmp_path):
    script, *flags = arguments
    assert message in refuse(script, *flags, cwd=tmp_path)
    assert not list(tmp_path.iterdir()), "something half-written is left"
