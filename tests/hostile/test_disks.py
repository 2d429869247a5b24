"""Every script whose output cannot be written, or stands under a name that is not UTF-8.

The line names what the user asked for, and nothing is left of it.
"""

import json
import os
from collections.abc import Callable, Iterator

import pytest

from t5_pegasus.locations import DATA_DIR
from tests.hostile.outcomes import files_in, outcome
from tests.hostile.scripts import main_of

resource = pytest.importorskip("resource")

TEXT = "\n".join(f"第{n}段说的是第{n * n % 17}种模型。它在{n * 7 % 5}号数据上训练。" for n in range(45))
DOCUMENTS = ["--input_file", "documents.txt", "--document_separator", "blank_line", "--workers", "1"]
TITLES = ["--predictions", "titles.txt", "--references", str(DATA_DIR / "valid.tsv")]

# A row a writer: the script, its flags, that of its output and the output, relative to a folder.
WRITERS = {
    "scores": ("t5_pegasus.commands.score", TITLES, "--output_csv", "out/scores.csv"),
    "pairs": ("pretrain_data", DOCUMENTS, "--output_file", "out/pairs.jsonl"),
    "pairs, compressed": ("pretrain_data", DOCUMENTS, "--output_file", "out/pairs.jsonl.gz"),
    "shards": ("pretrain_data", [*DOCUMENTS, "--output_format", "tfrecord"], "--output_file", "out/shards"),
    "vocabulary": ("t5_pegasus.vocabulary", ["--size", "3000"], "--output_file", "out/vocab.txt"),
}
NAMES = [pytest.param(name, marks=pytest.mark.slow if name == "vocabulary" else ()) for name in WRITERS]


@pytest.fixture
def inputs(shared_path, monkeypatch):
    """Return a folder with what the scripts read, and an empty one for what they write."""
    (shared_path / "documents.txt").write_text(TEXT, encoding="utf-8")
    references = (DATA_DIR / "valid.tsv").read_text(encoding="utf-8").splitlines()
    (shared_path / "titles.txt").write_text("题\n" * len(references), encoding="utf-8")
    (shared_path / "out").mkdir()
    monkeypatch.chdir(shared_path)
    return shared_path


@pytest.fixture
def small_files() -> Iterator[Callable[[], None]]:
    """Return a function after which no file can have more than some bytes, as on a disk that is nearly full."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (200, before[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("name", NAMES)
def test_a_full_disk_names_the_output(inputs, small_files, name):
    script, flags, flag, output = WRITERS[name]
    main = main_of(script)
    small_files()
    code, line = outcome(main, [*flags, flag, output])
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    assert code == 2
    assert line.removeprefix(os.path.realpath(inputs)).lstrip("/") == f"{output}: File too large"
    assert files_in(inputs / "out") == set()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_permission_names_the_output(inputs, other_user, name):
    script, flags, flag, output = WRITERS[name]
    main = main_of(script)
    (inputs / "out").chmod(0o755)
    with other_user():
        code, line = outcome(main, [*flags, flag, output])
    assert code == 2
    assert line.removeprefix(os.path.realpath(inputs)).lstrip("/") == f"{output}: Permission denied"
    assert files_in(inputs / "out") == set()


ODD = os.fsdecode("名字".encode("gbk"))
# A row a script: its flags, each name that begins with ODD one of a file that is not UTF-8; and what it writes.
NAMED = {
    "scores": (
        "t5_pegasus.commands.score",
        ["--predictions", f"{ODD}.txt", "--references", f"{ODD}.tsv", "--output_csv", f"{ODD}.csv"],
        [f"{ODD}.csv"],
    ),
    "comparison": (
        "t5_pegasus.commands.compare",
        ["--test_file", f"{ODD}.tsv", "--system", f"predictions:{ODD}.txt", "--output_dir", ODD, "--resamples", "100"],
        [f"{ODD}/index.html", f"{ODD}/scores.json"],
    ),
    "pairs": (
        "pretrain_data",
        ["--input_file", f"{ODD}_d.txt", *DOCUMENTS[2:], "--boilerplate_pattern", ODD, "--output_file", f"{ODD}.jsonl"],
        [f"{ODD}.jsonl"],
    ),
    "shards": (
        "pretrain_data",
        ["--input_file", f"{ODD}_d.txt", *DOCUMENTS[2:], "--output_format", "tfrecord", "--output_file", ODD],
        [f"{ODD}/manifest.json"],
    ),
    "check": ("t5_pegasus.check", [f"{ODD}.tsv", "--report", f"{ODD}.json"], [f"{ODD}.json"]),
}


@pytest.mark.parametrize("name", NAMED)
def test_a_name_that_is_not_utf_8_is_a_name(inputs, name):
    script, flags, written = NAMED[name]
    (inputs / f"{ODD}_d.txt").write_text(TEXT, encoding="utf-8")
    (inputs / f"{ODD}.tsv").write_bytes((DATA_DIR / "valid.tsv").read_bytes())
    (inputs / "titles.txt").rename(inputs / f"{ODD}.txt")
    code, line = outcome(main_of(script), flags)
    assert (code if name != "check" else 0, line) == (0, "")
    for file in written:
        content = (inputs / file).read_bytes()
        assert content
        if file.endswith(".json"):
            json.loads(content)
