"""pretrain_data.py from the command line: what it writes, and what it leaves when it cannot."""

import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pretrain_data
from t5_pegasus.gap_sentences import pseudo_pairs

SCRIPT = Path(pretrain_data.__file__)
# A document of two chunks.
TEXT = "\n".join(f"第{n}段说的是第{n * n % 17}种模型。它在{n * 7 % 5}号数据上训练。" for n in range(45))


def write_documents(path, count):
    with path.open("w", encoding="utf-8") as file:
        for n in range(count):
            file.write(json.dumps({"title": "题", "content": f"{n}。{TEXT}"}, ensure_ascii=False) + "\n")
    return path


def run_script(*flags, cwd=None):
    return subprocess.run(
        [sys.executable, SCRIPT, *map(str, flags)], cwd=cwd, capture_output=True, text=True, check=False
    )


def read_pairs(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_without_flags_it_runs_on_the_sample_articles(tmp_path):
    done = run_script(cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pairs = read_pairs(tmp_path / "pseudo.jsonl")
    assert pairs
    assert all(list(pair) == ["source", "target"] and len(pair["source"]) >= len(pair["target"]) for pair in pairs)
    assert done.stdout == ""
    assert "100%" in done.stderr
    assert re.fullmatch(
        rf"\d+ documents read, {len(pairs)} pairs written to pseudo.jsonl, "
        r"\d+ documents too short \(fewer than 3 pieces\), 0 bad lines skipped",
        done.stderr.splitlines()[-1],
    )


def test_pairs_are_written_in_the_order_of_the_documents_whatever_the_workers(tmp_path, capsys):
    documents = tmp_path / "a.txt"
    texts = [f"{n}号。" + "。".join(TEXT.split("\n")[n : n + n % 4]) for n in range(200)]
    documents.write_text("\n".join(texts), encoding="utf-8")
    expected = [
        {"source": source, "target": target} for text in texts for source, target in pseudo_pairs(text, 0.5, 64)
    ]
    for workers in (1, 3):
        output = tmp_path / f"{workers}.jsonl"
        flags = ["--input_file", documents, "--output_file", output, "--workers", workers]
        assert pretrain_data.main([*map(str, flags), "--gap_sentence_ratio", "0.5", "--max_length", "64"]) == 0
        assert read_pairs(output) == expected
        short = sum(not list(pseudo_pairs(text)) for text in texts)
        assert f"200 documents read, {len(expected)} pairs" in capsys.readouterr().err
        assert short > 0


def test_bad_lines_and_short_documents_are_counted(tmp_path, capsys):
    documents = write_documents(tmp_path / "a.jsonl", 2)
    with documents.open("a", encoding="utf-8") as file:
        file.write('{"content": "太短。"}\n{"content": 1}\nnot JSON\n')
    flags = ["--input_file", str(documents), "--output_file", str(tmp_path / "b.jsonl"), "--skip_bad_lines"]
    assert pretrain_data.main(flags) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"3 documents read, 4 pairs written to {tmp_path / 'b.jsonl'}, "
        "1 documents too short (fewer than 3 pieces), 2 bad lines skipped"
    )


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(tmp_path, method):
    documents, output = write_documents(tmp_path / "a.jsonl", 3), tmp_path / "b.jsonl"
    flags = ["--input_file", str(documents), "--output_file", str(output), "--workers", "2"]
    code = f"import multiprocessing, pretrain_data as p; multiprocessing.set_start_method({method!r}); p.main({flags})"
    subprocess.run([sys.executable, "-c", code], cwd=SCRIPT.parent, check=True, capture_output=True)
    assert len(read_pairs(output)) == 3 * 2


@pytest.mark.parametrize(
    ("flags", "content", "message"),
    [
        ([], None, "cannot read {path}: No such file or directory"),
        ([], '{"content": "a"}\n{"content": 1}\n', "{path}:2: content must be text, got int; --skip_bad_lines"),
        ([], '{"title": "a"}\n', "{path}:1: no column content"),
        ([], '{"content": "太短"}\n', "no pair in {path}: none of 1 documents has 3 pieces"),
        ([], "", "no pair in {path}: none of 0 documents has 3 pieces"),
        (["--workers", "0"], "", "workers must be at least 1, got 0"),
        (["--gap_sentence_ratio", "2"], "", "gap_sentence_ratio must be above 0 and at most 1, got 2.0"),
        (["--output_file", "a.jsonl"], "", "output_file must not be the input_file, got a.jsonl"),
    ],
)
def test_user_errors_are_one_line_and_leave_nothing(tmp_path, flags, content, message):
    path = tmp_path / "a.jsonl"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    done = run_script("--input_file", "a.jsonl", *flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("error: " + message.format(path="a.jsonl"))
    assert "Traceback" not in done.stderr
    assert [entry.name for entry in tmp_path.iterdir()] == ([] if content is None else ["a.jsonl"])


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_an_ended_run_leaves_no_process_and_no_output(tmp_path, kind):
    output = tmp_path / "out" / "b.jsonl"
    flags = ["--input_file", "-", "--output_file", output, "--workers", "2"]
    with subprocess.Popen([sys.executable, SCRIPT, *flags], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        # More than is read ahead: pairs are being written, and the script waits for more documents.
        process.stdin.write((json.dumps({"content": TEXT}) + "\n").encode() * 400)
        process.stdin.flush()
        assert wait_for(lambda: any(path.stat().st_size for path in output.parent.glob("*")))
        process.send_signal(kind)
        assert process.wait(timeout=20) == (-kind if kind == signal.SIGKILL else 130)
        # Standard error ends when the last process that holds it has gone: a worker left behind would time out.
        assert b"Traceback" not in process.communicate(timeout=20)[1]
    assert not output.exists()
    # Nobody can clean up after SIGKILL; all else leaves an empty folder.
    assert kind == signal.SIGKILL or list(output.parent.iterdir()) == []


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads ru_maxrss in kilobytes")
@pytest.mark.parametrize("workers", [1, 2])
def test_memory_does_not_grow_with_the_corpus(tmp_path, workers):
    # 300 documents fill all that is read ahead; 20 times as many take no more.
    code = (
        "import resource, sys, pretrain_data; pretrain_data.main(sys.argv[1:]);"
        "print(*(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"
    )
    peaks = []
    for count in (300, 6000):
        documents = write_documents(tmp_path / f"{count}.jsonl", count)
        flags = ["--input_file", documents, "--output_file", tmp_path / "b.jsonl", "--workers", workers]
        command = [sys.executable, "-c", code, *map(str, flags)]
        done = subprocess.run(command, cwd=SCRIPT.parent, check=True, capture_output=True)
        peaks.append([int(kilobytes) for kilobytes in done.stdout.split()])
    assert documents.stat().st_size > 15 * 2**20
    assert all(large - small < 3 * 1024 for small, large in zip(*peaks, strict=True)), peaks
