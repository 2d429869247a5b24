"""The runners: order, bounds, errors, and processes that do not outlive them."""

import gzip
import itertools
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest

import pretrain_data
from t5_pegasus.data.cleaning import CleaningConfig
from t5_pegasus.data.documents import read_blocks
from t5_pegasus.data.gap_sentences import GapSentenceConfig
from t5_pegasus.data.pretraining_pairs import CorpusConfig, OutputConfig, Recipe, write_pairs
from t5_pegasus.data.runners import RunnerConfig
from t5_pegasus.data.runners.local import run_local
from t5_pegasus.data.runners.spark import run_spark
from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.locations import ROOT


def square(number):
    return number * number


def fail_at_seven(number):
    if number == 7:
        raise ZeroDivisionError("seven")
    return number


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize(("workers", "chunk"), [(1, 32), (1, 1), (4, 1), (2, 7), (3, 1000)])
def test_order_is_that_of_the_items(workers, chunk):
    assert list(run_local(square, iter(range(50)), workers, chunk)) == [(n, n * n) for n in range(50)]
    assert list(run_local(square, [], workers, chunk)) == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_endless_stream_is_read_a_bounded_way_ahead(workers):
    read = itertools.count()
    results = run_local(square, (next(read) for _ in itertools.count()), workers, chunk=3)
    assert list(itertools.islice(results, 100)) == [(n, n * n) for n in range(100)]
    assert next(read) <= 100 + 4 * 3 * workers
    results.close()
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("workers", [1, 2])
def test_an_exception_comes_through_with_the_item_named(workers):
    with pytest.raises(ZeroDivisionError, match="seven") as caught:
        list(run_local(fail_at_seven, range(20), workers, chunk=4))
    assert caught.value.__notes__ == ["while working on 7"]
    assert multiprocessing.active_children() == []


def test_a_killed_worker_is_an_error_not_a_hang():
    with pytest.raises(PegasusError, match="worker process was killed"):
        list(run_local(die, range(3), 2))


def test_errors_name_the_rule_and_the_value():
    with pytest.raises(OptionError, match="workers must be at least 1, got 0"):
        RunnerConfig(workers=0)
    with pytest.raises(OptionError, match="runner must be one of local, spark, got moon"):
        RunnerConfig(runner="moon")
    with pytest.raises(OptionError, match="spark_master is only for runner spark, got local"):
        RunnerConfig(spark_master="local")


# Spark: one session for all tests, since it takes seconds to start.


@pytest.fixture(scope="module")
def spark():
    if shutil.which("java") is None and "JAVA_HOME" not in os.environ:
        pytest.skip("no Java is installed, which Spark needs (Debian: apt-get install openjdk-17-jre-headless)")
    sql = pytest.importorskip("pyspark.sql")
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    session = (
        sql.SparkSession.builder.master("local[2]")
        .config("spark.ui.enabled", "false")
        .config("spark.ui.showConsoleProgress", "false")
        .getOrCreate()
    )
    yield session
    session.stop()


@pytest.mark.slow
def test_spark_gives_the_same_pairs_in_the_same_order(spark, tmp_path):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    texts = ["。".join(f"第{n}篇第{i}句说{i * n % 7}和{i * i % 5}" for i in range(9)) for n in range(3000)]
    texts[100], texts[2900] = texts[99], texts[50] + "！"
    (corpus / "a.txt").write_text("\n".join(texts[:2000]), encoding="utf-8")

    (corpus / "b.txt.gz").write_bytes(gzip.compress("\n".join(texts[2000:]).encode()))
    recipe = Recipe(
        CorpusConfig(),
        CleaningConfig(deduplicate="near"),
        GapSentenceConfig("hybrid", sentence_split="sentences", mask_rates="0.5,0.2,0.2,0.1"),
        OutputConfig(),
    )
    counts = {}
    for runner in ("local", "spark"):
        output = tmp_path / f"{runner}.jsonl"
        counts[runner] = write_pairs(corpus, output, recipe, RunnerConfig(runner=runner))
    assert (tmp_path / "spark.jsonl").read_bytes() == (tmp_path / "local.jsonl").read_bytes()
    assert counts["spark"] == counts["local"]
    assert counts["local"]["documents"] == 3000
    assert 2 <= counts["local"]["duplicates"] < 3000
    assert {path.name for path in tmp_path.iterdir()} == {"corpus", "local.jsonl", "spark.jsonl"}


@pytest.mark.slow
def test_spark_keeps_the_order_and_tells_a_user_s_error_in_one_line(spark):
    def raise_on_three(number):
        if number == 3:
            raise DataError("a.txt:3: no such thing")
        return number * number

    assert list(run_spark(raise_on_three, iter([0, 1, 2]))) == [(0, 0), (1, 1), (2, 4)]
    assert list(run_spark(raise_on_three, [])) == []
    with pytest.raises(DataError, match=r"^a\.txt:3: no such thing$"):
        list(run_spark(raise_on_three, range(5)))


def test_the_first_error_ends_a_spark_job(spark, tmp_path):
    def fail_on_one(number):
        (tmp_path / str(number)).touch()
        if number == 1:
            open("/nowhere/at/all")
        time.sleep(0.2)

    with pytest.raises(PegasusError, match=r"^/nowhere/at/all: No such file or directory$"):
        list(run_spark(fail_on_one, range(200)))
    assert len(list(tmp_path.iterdir())) < 100


@pytest.mark.slow
def test_a_killed_spark_run_is_finished_without_loss_or_double(spark, tmp_path):
    corpus = tmp_path / "a.txt"
    text = "。".join(f"第{i}句说{i * i % 17}种模型，在{i * 7 % 5}号数据上训练" for i in range(60))
    corpus.write_text("".join(f"{n}。{text}\n" for n in range(5000)), encoding="utf-8")
    command = [sys.executable, ROOT / "pretrain_data.py", "--input_file", corpus, "--output_file", tmp_path / "b.jsonl"]
    flags = ["--runner", "spark", "--spark_master", "local[2]"]
    parts = tmp_path / "b.jsonl.parts"
    # A group of its own, so that its Java ends with it.
    process = subprocess.Popen([*command, *flags], stderr=subprocess.DEVNULL, start_new_session=True)
    while len(list(parts.glob("*.npz"))) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    finished = len(list(parts.glob("*.npz")))
    assert not (tmp_path / "b.jsonl").exists()
    pretrain_data.main([*map(str, command[2:]), "--runner", "spark"])
    pretrain_data.main([*map(str, command[2:4]), "--output_file", str(tmp_path / "whole.jsonl")])
    assert finished < len(list(read_blocks(corpus)))
    assert (tmp_path / "b.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert not parts.exists()


def test_without_pyspark_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyspark", None)
    with pytest.raises(OptionError, match=r'pip install "t5-pegasus\[spark\]"'):
        list(run_spark(square, [1]))
