"""Titles are kept as they are written: a stopped comparison goes on, and nothing that has changed is taken for kept."""

import dataclasses
import json
import multiprocessing.spawn
import shutil

import pytest

from t5_pegasus.errors import DataError, PegasusError
from t5_pegasus.systems import running
from t5_pegasus.systems.protocol import LocalSystem, Text, Written
from t5_pegasus.systems.running import peak_memory, run_system, title_file
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system
from t5_pegasus.systems.titles import Chunk, TitleFile

TEXTS = [Text(f"第{number}篇", ("参考",)) for number in range(7)]


class Fake(LocalSystem):
    """Writes titles of two texts at a time, and fails at a text if told so."""

    chunk_size = 2
    runs_here = False

    def __init__(self, version=1, fail_at=None, price=None):
        self.version, self.fail_at, self.price, self.asked = version, fail_at, price, []

    def identity(self):
        return {"kind": "fake", "version": self.version}

    def write(self, texts, start):
        self.asked += range(start, start + len(texts))
        if self.fail_at in range(start, start + len(texts)):
            raise DataError("no more")
        return [Written(f"题{text.content}", number == 3, number, 1) for number, text in enumerate(texts, start)]

    def cost(self, written):
        return None if self.price is None else self.price * sum(each.output_tokens for each in written)


def run(system, folder, texts=TEXTS, **options):
    return run_system(parse_spec("lead?name=fake"), system, texts, folder, progress=False, **options)


def test_titles_are_in_order_and_written_once(tmp_path):
    first, second = Fake(price=0.5), Fake(price=0.5)
    found = run(first, tmp_path)
    assert found.titles == [f"题{text.content}" for text in TEXTS]
    assert [each.refused for each in found.written] == [False] * 3 + [True] + [False] * 3
    assert found.cost == 3.5
    assert found.seconds > 0
    assert run(second, tmp_path) == found
    assert (first.asked, second.asked) == (list(range(7)), [])


def test_a_failed_comparison_goes_on_where_it_was(tmp_path):
    with pytest.raises(DataError, match=r"^fake: no more$"):
        run(Fake(fail_at=4), tmp_path)
    system = Fake()
    assert run(system, tmp_path).titles == [f"题{text.content}" for text in TEXTS]
    assert system.asked == [4, 5, 6]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-5],  # half a line
        lambda data: data[:-1],  # a line without its end
        lambda data: data.replace(b'"seconds"', b'"second"', 3)[:-1] + b"\n{}\n",
        lambda data: data + b'{"written": [{"name": "x"}], "seconds": 1, "peak_bytes": null}\n',
    ],
)
def test_what_a_killed_process_left_is_dropped(tmp_path, damage):
    whole = run(Fake(), tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    found = run(Fake(), tmp_path)
    assert found.titles == whole.titles
    assert all(json.loads(line) for line in path.read_text(encoding="utf-8").splitlines())
    assert len(path.read_text(encoding="utf-8").splitlines()) == 1 + 4


def test_other_options_texts_and_versions_are_other_titles(tmp_path, monkeypatch):
    run(Fake(), tmp_path)
    for system, texts in ((Fake(2), TEXTS), (Fake(), TEXTS[:3])):
        run(system, tmp_path, texts)
        assert system.asked == list(range(len(texts)))
    monkeypatch.setattr(running, "__version__", "next")
    again = Fake()
    run(again, tmp_path)
    assert again.asked
    assert len(list(tmp_path.iterdir())) == 4


def test_references_matter_to_an_oracle_only(tmp_path):
    others = [dataclasses.replace(text, references=("别的",)) for text in TEXTS]
    for spec, same in (("oracle", False), ("lead", True)):
        system = make_system(parse_spec(spec))
        files = {title_file(system, texts, tmp_path).path for texts in (TEXTS, others)}
        assert (len(files) == 1) is same


def test_half_a_surrogate_pair_is_kept(tmp_path):
    file = TitleFile(tmp_path, {"system": {"kind": "x"}})
    chunk = Chunk([Written("半\ud800", output_tokens=2)], 0.5, 7)
    file.append(chunk)
    assert file.read() == [chunk]


def test_a_system_that_runs_here_has_a_process_of_its_own(tmp_path):
    spec = parse_spec("lead?unit=characters&n=2")
    found = run_system(spec, make_system(spec), TEXTS, tmp_path, progress=False)
    assert found.titles == [text.content[:2] for text in TEXTS]
    assert 10 * 2**20 < found.peak_bytes < peak_memory()  # without what this process has loaded


def test_an_error_in_its_process_is_told(tmp_path, monkeypatch):
    spec = parse_spec("title:tiny?user_dict=gone")
    with pytest.raises(PegasusError, match=r"title:tiny\?user_dict=gone: .*gone: No such file"):
        run_system(spec, make_system(spec), TEXTS[:1], tmp_path, progress=False)


def test_a_process_that_dies_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(running, "_work", _die)
    spec = parse_spec("lead")
    with pytest.raises(PegasusError, match="lead: the system's process ended with code 3, perhaps for lack of memory"):
        run_system(spec, make_system(spec), TEXTS[:1], tmp_path, progress=False)


def test_a_process_that_dies_before_it_reads_is_told(tmp_path, monkeypatch):
    """With more texts than a pipe holds, which nobody will ever read."""
    command = multiprocessing.spawn.get_executable()
    multiprocessing.set_executable(shutil.which("false"))
    spec, texts = parse_spec("lead"), [Text(str(number) * 100, ("题",)) for number in range(1000)]
    try:
        with pytest.raises(PegasusError, match="lead: the system's process ended with code 1"):
            run_system(spec, make_system(spec), texts, tmp_path, progress=False)
    finally:
        multiprocessing.set_executable(command)


def _die(*arguments):
    raise SystemExit(3)
