"""pretrain_data.py from the command line: what it writes, and what it leaves when it cannot."""

import functools
import gzip
import json
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

import pretrain_data
from t5_pegasus.data.gap_sentences import GapSentenceConfig, pseudo_pairs
from t5_pegasus.data.shards import open_shards
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.text.sentences import gather_chunks, split_pieces
from t5_pegasus.text.tokenizer import PegasusTokenizer
from tests.paths import UNTRAINED_MODEL_DIR

SCRIPT = Path(pretrain_data.__file__)
# A document of two chunks.
TEXT = "\n".join(f"第{n}段说的是第{n * n % 17}种模型。它在{n * 7 % 5}号数据上训练。" for n in range(45))


def write_documents(path, count):
    path.parent.mkdir(exist_ok=True)
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
    assert re.fullmatch(
        rf"pseudo.jsonl: 264 documents read, {len(pairs)} pairs written, 1 documents too short \(fewer than 3 pieces\)",
        done.stderr.splitlines()[-1],
    )


def test_pairs_are_written_in_the_order_of_the_documents_whatever_the_workers(tmp_path, capsys):
    # Several blocks, of every kind of file.
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = [f"{n}号文章。" + "。".join(TEXT.split("\n")[n % 40 : n % 40 + n % 5]) for n in range(6000)]
    (corpus / "a.txt").write_text("\n".join(texts[:3000]), encoding="utf-8")
    lines = "".join(json.dumps({"content": text}) + "\n" for text in texts[3000:])
    (corpus / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    config = GapSentenceConfig("hybrid", 0.5, max_length=64, mask_rates="0.8,0.1,0.05,0.05")
    expected = [{"source": source, "target": target} for text in texts for source, target in pseudo_pairs(text, config)]
    flags = ["--gap_sentence_strategy", "hybrid", "--mask_rates", "0.8,0.1,0.05,0.05"]
    for workers in (1, 3):
        output = tmp_path / f"{workers}.jsonl"
        flags += ["--gap_sentence_ratio", "0.5", "--max_length", "64", "--min_document_length", "0"]
        files = ["--input_file", str(corpus), "--output_file", str(output), "--workers", str(workers)]
        assert pretrain_data.main([*files, *flags]) == 0
        assert read_pairs(output) == expected
        pieces = [split_pieces(text.strip()) for text in texts]
        short = sum(len(each) < 3 for each in pieces)
        taken = sum(len(chunk) for each in pieces for chunk in gather_chunks(each, 96))
        tail = sum(len(each) for each in pieces if len(each) >= 3) - taken
        told = capsys.readouterr().err.splitlines()[-1]
        assert f"6000 documents read, {len(expected)} pairs written, {short} documents too short" in told
        assert f"{tail} pieces left over" in told
        assert short > 0
        assert tail > 0


def test_everything_dropped_is_counted_and_told(tmp_path, capsys):
    documents = write_documents(tmp_path / "a.jsonl", 2)
    with documents.open("a", encoding="utf-8") as file:
        for content in ("太短的一篇文章就是这一篇。", "短。", f"0。\u3000{TEXT}", f"责任编辑：某\n\x00 7。{TEXT}"):
            file.write(json.dumps({"content": content}) + "\n")
        file.write('{"content": 1}\nnot JSON\n')
    output = tmp_path / "b.jsonl"
    flags = ["--input_file", str(documents), "--output_file", str(output), "--skip_bad_lines", "--deduplicate", "exact"]
    assert pretrain_data.main(flags) == 0
    assert capsys.readouterr().err.splitlines()[-1] == (
        f"{output}: 6 documents read, 6 pairs written, 1 documents too short (fewer than 3 pieces), "
        "1 documents nearly empty, 1 duplicate documents, 2 bad lines skipped, 1 control characters removed, "
        "1 boilerplate lines removed"
    )
    assert len(read_pairs(output)) == 6


def test_a_document_all_of_whose_text_is_in_gaps_is_not_called_short(tmp_path, capsys):
    documents = write_documents(tmp_path / "corpus" / "a.jsonl", 3)
    (tmp_path / "corpus" / "notes.md").write_text("无")
    flags = ["--input_file", str(documents.parent), "--output_file", str(tmp_path / "b.jsonl")]
    with pytest.raises(DataError, match=r"^no pair in .*: 3 documents read, 6 chunks whose .* blank, 1 files not"):
        pretrain_data.main([*flags, "--gap_sentence_strategy", "lead", "--gap_sentence_ratio", "1"])
    assert pretrain_data.main(flags) == 0
    assert "3 documents read, 6 pairs written, 1 files not read (neither .txt nor .jsonl)" in capsys.readouterr().err


def test_near_duplicates_are_dropped_and_the_first_is_kept(tmp_path):
    texts = [
        f"{n}号文章。" + "".join(f"第{i}句说{(i * n) % 97}、{i * i % 89 + n}。" for i in range(40)) for n in range(30)
    ]
    copies = [text.replace("第7句", "第七句") for text in texts]
    (tmp_path / "a.txt").write_text("\n".join([*texts, *copies]), encoding="utf-8")
    flags = ["--input_file", str(tmp_path / "a.txt"), "--output_file", str(tmp_path / "b.jsonl")]
    for deduplicate, kept in (("near", texts), ("exact", [*texts, *copies])):
        assert pretrain_data.main([*flags, "--deduplicate", deduplicate]) == 0
        expected = [{"source": source, "target": target} for text in kept for source, target in pseudo_pairs(text)]
        assert read_pairs(tmp_path / "b.jsonl") == expected


def test_shards_hold_the_ids_of_the_pairs(tmp_path):
    flags = ["--gap_sentence_strategy", "random", "--sentence_split", "sentences", "--mask_rates", "0.7,0.1,0.1,0.1"]
    text, ids = tmp_path / "a.jsonl.gz", tmp_path / "ids"
    vocab_file = UNTRAINED_MODEL_DIR / "vocab.txt"
    assert pretrain_data.main(["--output_file", str(text), *flags]) == 0
    lengths = ["--max_source_length", "60", "--max_target_length", "40", "--pairs_per_shard", "100"]
    to_ids = ["--output_format", "tfrecord", "--output_file", str(ids), "--vocab_file", str(vocab_file), *lengths]
    assert pretrain_data.main([*to_ids, *flags]) == 0
    tokenizer = PegasusTokenizer(vocab_file)
    shards = open_shards(ids, tokenizer)
    with gzip.open(text, "rt", encoding="utf-8") as file:
        pairs = [json.loads(line) for line in file]
    assert len(shards) == len(pairs) == shards.manifest["counts"]["pairs"] > 200
    assert shards.manifest["options"]["mask_rates"] == "0.7,0.1,0.1,0.1"
    masks, cut = 0, Counter()
    for pair, (source_ids, target_ids) in zip(pairs, shards, strict=True):
        assert target_ids.tolist() == tokenizer.encode(pair["target"], 40)
        # Each [MASK] is id 103 and nothing else is; what stands between is encoded as by itself.
        parts = [tokenizer.encode(part)[1:-1] for part in pair["source"].split("[MASK]")]
        expected = [101, *functools.reduce(lambda left, right: [*left, 103, *right], parts)]
        assert source_ids.tolist() == [*expected[:59], 102]
        masks += source_ids.tolist().count(103)
        cut.update(cut_sources=len(expected) > 59, cut_targets=len(tokenizer.encode(pair["target"])) > 40)
    assert masks > 80
    assert {name: shards.manifest["counts"][name] for name in cut} == cut
    assert all(cut.values())


@pytest.mark.parametrize("rates", ["0.7,0.1,0.1,0.1", "0,0,0,1"])
def test_training_reads_the_same_ids_from_text_and_from_shards(tmp_path, rates):
    """Also where the text itself has [MASK], which is no mask, and where two documents are one."""
    from t5_pegasus.training import open_pairs

    documents = tmp_path / "a.txt"
    documents.write_text("\n".join(f"{n % 8}号[MASK]文章，" + TEXT.replace("\n", "[MASK]\u2028 ") for n in range(9)))
    vocab_file = UNTRAINED_MODEL_DIR / "vocab.txt"
    flags = ["--input_file", str(documents), "--gap_sentence_strategy", "hybrid", "--mask_rates", rates]
    to_ids = ["--output_format", "tfrecord", "--vocab_file", str(vocab_file), "--max_source_length", "200"]
    for output in (["b.jsonl"], ["ids", *to_ids]):
        assert pretrain_data.main([*flags, "--output_file", str(tmp_path / output[0]), *output[1:]]) == 0
    tokenizer, data = PegasusTokenizer(vocab_file), DataConfig(max_source_length=200, max_target_length=128)
    text, ids = (open_pairs(tmp_path / name, tokenizer, data) for name in ("b.jsonl", "ids"))
    assert text.lengths.tolist() == ids.lengths.tolist()
    masks = 0
    for row in range(len(ids)):
        assert [part.tolist() for part in text[row]] == [part.tolist() for part in ids[row]]
        masks += ids[row][0].tolist().count(103)
    assert bool(masks) == (rates != "0,0,0,1")
    with pytest.raises(OptionError, match="skip_bad_lines is only for a file of text, not shards, got True"):
        open_pairs(tmp_path / "ids", tokenizer, DataConfig(skip_bad_lines=True))


def test_masks_need_a_vocabulary_that_has_them(tmp_path):
    vocab_file = tmp_path / "vocab.txt"
    vocab_file.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", encoding="utf-8")
    flags = ["--output_format", "tfrecord", "--vocab_file", vocab_file, "--mask_rates", "1,0,0,0", "--output_file", "s"]
    done = run_script(*flags, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr == f"error: mask_rates 1,0,0,0 needs a vocabulary with [MASK], got {vocab_file}\n"


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
        ([], '{"content": "a"}\n{"content": 1}\n', "{path}:2: content must be text, got 1; --skip_bad_lines"),
        ([], '{"title": "a"}\n', "{path}:1: needs columns content or text or "),
        ([], '{"content": "太短"}\n', "no pair in {path}: 1 documents read, 1 documents nearly empty"),
        ([], "", "no pair in {path}: 0 documents read"),
        (
            ["--boilerplate_pattern", "a", "--clean", "control"],
            "",
            "boilerplate_pattern is only for clean with boil",
        ),
        (["--near_duplicate_threshold", "0.7"], "", "near_duplicate_threshold is only for deduplicate near, got 0.7"),
        (["--max_source_length", "99"], "", "max_source_length is only for output_format tfrecord, got 99"),
        (["--vocab_file", "v"], "", "vocab_file is only for output_format tfrecord, got v"),
        (["--document_separator", "blank_line"], "", "document_separator is only for .txt files, got blank_line"),
        (["--mask_span", "joined"], "", "mask_span is only for mask_rates with masks, got joined"),
        (["--seed", "7"], "", "seed is only for strategies and mask_rates that draw, got 7"),
        (["--runner", "spark", "--workers", "99"], "", "workers is only for runner local, got 99"),
        (["--spark_master", "local[2]"], "", "spark_master is only for runner spark, got local[2]"),
        (["--workers", "0"], "", "workers must be at least 1, got 0"),
        (["--gap_sentence_ratio", "2"], "", "gap_sentence_ratio must be above 0 and at most 1, got 2.0"),
        (["--output_file", "a.jsonl"], "", "output_file must not be the input_file or in it, got a.jsonl"),
        (["--input_file", "."], "", "output_file must not be the input_file or in it, got pseudo.jsonl"),
        (["--clean", "soap"], "", "clean must be of control, boilerplate, or no, got soap"),
        (["--mask_rates", "1,1,0,0"], "", "mask_rates must be 4 numbers that make 1 (mask, random, intact, remove)"),
        (["--output_format", "tfrecord", "--output_file", "."], "", "shards are written to a new folder"),
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


def start_long_run(tmp_path, *flags):
    """Start a run over about 20 blocks; return it and the folder of its parts when three are finished."""
    documents = tmp_path / "a.jsonl"
    if not documents.exists():
        write_documents(documents, 2000)
    command = ["--input_file", documents, "--output_file", tmp_path / "b.jsonl", "--workers", "2", *flags]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    parts = tmp_path / "b.jsonl.parts"
    assert wait_for(lambda: len(list(parts.glob("*.npz"))) >= 3)
    return process, parts, [str(flag) for flag in command]


@pytest.mark.parametrize("kind", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_killed_run_is_finished_without_loss_or_double(tmp_path, capsys, kind):
    process, parts, flags = start_long_run(tmp_path, "--deduplicate", "exact")
    process.send_signal(kind)
    assert process.wait(timeout=20) == (-kind if kind == signal.SIGKILL else 130)
    # Standard error ends when the last process that holds it has gone: a worker left behind would time out.
    told = process.communicate(timeout=20)[1].decode()
    assert "Traceback" not in told
    assert kind == signal.SIGKILL or "the same command goes on from there" in told
    assert not (tmp_path / "b.jsonl").exists()
    finished = len(list(parts.glob("*.npz")))
    assert 3 <= finished < 18
    assert pretrain_data.main(flags) == 0
    assert f"going on from {finished} finished parts" in capsys.readouterr().err
    assert pretrain_data.main([*flags, "--output_file", str(tmp_path / "whole.jsonl")]) == 0
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert {path.name for path in tmp_path.iterdir()} == {"a.jsonl", "b.jsonl", "whole.jsonl"}


def test_what_was_finished_is_used_for_the_same_options_and_input_only(tmp_path, capsys):
    process, parts, flags = start_long_run(tmp_path)
    process.kill()
    process.communicate()
    # The second document is another now, so the part of the first block is made anew; the others are kept.
    documents = tmp_path / "a.jsonl"
    whole = documents.read_bytes()
    documents.write_bytes(whole.replace("1。第".encode(), "九。第".encode(), 1))
    assert pretrain_data.main(flags) == 0
    assert pretrain_data.main([*flags, "--output_file", str(tmp_path / "c.jsonl")]) == 0
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()
    capsys.readouterr()
    parts.mkdir()
    (parts / "options.json").write_text("{}", encoding="utf-8")
    (parts / "000000-00.npz").write_bytes(b"")
    assert pretrain_data.main(flags) == 0
    assert "starting anew" in capsys.readouterr().err
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "c.jsonl").read_bytes()


# Runs again and again in a fork that ends at its n-th change or listing of a folder, each time followed by a whole run.
KILLED = """
import itertools, os, pathlib, sys, pretrain_data
def mortal(function, count, last):
    def call(*arguments, **options):
        if next(count) == last:
            os._exit(9)
        return function(*arguments, **options)
    return call
output, flags = pathlib.Path(sys.argv[1]), ["--output_file", *sys.argv[1:]]
for moment in itertools.count(1):
    if not (child := os.fork()):
        count = itertools.count(1)
        for name in ("mkdir", "rmdir", "unlink", "rename", "replace", "scandir"):
            setattr(os, name, mortal(getattr(os, name), count, moment))
        pretrain_data.main(flags)
        os._exit(0)
    was_killed = os.waitpid(child, 0)[1]
    pretrain_data.main(flags)
    assert os.listdir(output.parent) == [output.name], moment
    print(moment, output.read_text(encoding="utf-8"))
    if not was_killed:
        break
    output.unlink()
"""


def test_a_kill_at_any_moment_stands_in_no_later_run_s_way(tmp_path):
    documents = write_documents(tmp_path / "a.jsonl", 1)
    flags = [tmp_path / "out" / "b.jsonl", "--input_file", documents, "--workers", "1"]
    command = [sys.executable, "-c", KILLED, *map(str, flags)]
    done = subprocess.run(command, cwd=SCRIPT.parent, capture_output=True, encoding="utf-8", check=True)
    outputs = re.findall(r"^\d+ (.*\n.*\n)", done.stdout, re.MULTILINE)
    assert len(outputs) > 20
    assert set(outputs) == {(tmp_path / "out" / "b.jsonl").read_text(encoding="utf-8")}


def test_a_worker_does_not_outlive_a_run_that_reads_a_pipe(tmp_path):
    flags = ["--input_file", "-", "--output_file", tmp_path / "b.jsonl", "--workers", "2"]
    with subprocess.Popen([sys.executable, SCRIPT, *flags], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdin.write((json.dumps({"content": TEXT}) + "\n").encode() * 4000)
        process.stdin.flush()
        assert wait_for(lambda: list((tmp_path / "b.jsonl.parts").glob("*.npz")))
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 130
        assert b"Traceback" not in process.communicate(timeout=20)[1]
    assert not (tmp_path / "b.jsonl").exists()


def wait_for(condition, seconds=20):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("workers", "suffix"),
    [(1, ".jsonl"), *(pytest.param(2, suffix, marks=pytest.mark.slow) for suffix in (".jsonl", ".jsonl.gz"))],
)
def test_memory_does_not_grow_with_the_corpus(tmp_path, workers, suffix):
    # 20 times as many documents take no more, but for what is read ahead of a .gz: 4 blocks of 256 kB a worker.
    code = (
        "import resource, sys, pretrain_data; pretrain_data.main(sys.argv[1:]);"
        # Its own is VmHWM, since ru_maxrss counts what the process that started it held.
        "own = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'));"
        "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    peaks = []
    for count in (300, 6000):
        documents = write_documents(tmp_path / f"{count}.jsonl", count)
        size = documents.stat().st_size
        if suffix == ".jsonl.gz":
            documents.with_suffix(suffix).write_bytes(gzip.compress(documents.read_bytes(), 1))
        flags = [
            "--input_file",
            documents.with_suffix(suffix),
            "--output_file",
            tmp_path / "b.jsonl",
            "--workers",
            workers,
        ]
        command = [sys.executable, "-c", code, *map(str, flags)]
        done = subprocess.run(command, cwd=SCRIPT.parent, check=True, capture_output=True)
        peaks.append([int(kilobytes) for kilobytes in done.stdout.split()])
    assert size > 15 * 2**20
    assert all(large - small < 4 * 1024 for small, large in zip(*peaks, strict=True)), peaks
