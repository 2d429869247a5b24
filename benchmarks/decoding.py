"""Time decoding against stock bert4keras, Hugging Face's generate and CTranslate2, and say which goals are met.

    make bench-deps                                                                # once: the peers, into .venv-bench
    python benchmarks/decoding.py --output benchmarks/results/decoding_base.json   # goes on where it was stopped
    python benchmarks/decoding.py --size flan-t5-base --repeats 3 --output benchmarks/results/decoding_flan_t5.json
    python benchmarks/decoding.py --size uer-pegasus-base --repeats 3 --output benchmarks/results/decoding_pegasus.json

Random weights of the same shapes, so that any size can be timed; the same sources, beams and number of new tokens, the
end token being forbidden. Every side runs in a process of its own (see `decoding_worker.py`), in turn with the others,
each first on a few tokens, which are not counted: start-up and compiling are apart. Medians of the runs.

`first` is the time to the first token: encoder, keys and values of the source, one step. What follows is the decoder:
`step = (call - first) / (new tokens - 1)`, and `encoder = first - step`, so that the same work counts for the same part
in every side (the encoder of bert4keras, whose first step is not like the others, is timed by itself). The limit that
memory sets to a step is what it must read at least once, the decoder's weights and the caches, over the bandwidth
measured in the same run.

The two last are folders that transformers writes with random weights, which it and our sides load: fewer cells, and
the goal is that of whole calls.

Every run is written into the output file at once. A run is taken again where versions, machine or (for our sides) the
code of engines and search have changed since. A side that is not installed is left out, and the result says so.
"""

import hashlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import common
import decoding_worker
import numpy as np
from decoding_summary import Cell, print_tables, summarize

from t5_pegasus import cli
from t5_pegasus.config import ModelConfig
from t5_pegasus.data.examples import read_examples
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import DATA_DIR, PACKAGE, ROOT

WORKER = Path(decoding_worker.__file__)
PEERS_PYTHON = ROOT / ".venv-bench" / "bin" / "python"

CELLS = [
    Cell(source_length, new_tokens, batch, beams)
    for source_length, new_tokens, batches in (
        (256, 32, (1, 8, 32)),
        (64, 32, (1, 8)),
        (512, 32, (1, 8)),
        (256, 128, (1, 8)),
    )
    for batch in batches
    for beams in (1, 4)
]
SHAPE_CELLS = [Cell(256, 32, batch, beams) for batch in (1, 8) for beams in (1, 4)]
SHAPE_SIDES = ("Hugging Face", "onnx float32", "onnx int8")
SIZES = ("base", "small", "tiny", *sorted(path.name for path in decoding_worker.SHAPES.iterdir()))
MEMORY_CELL = Cell(256, 32, 8, 4)
LONG_TITLE = Cell(256, 496, 1, 1)  # for a step at positions 32 and 480
STOCK_TEXTS = 10

# What each side is made of; the peers' are looked up in their own environment.
OUR_PACKAGES = {
    "bert4keras": ["bert4keras", "tensorflow", "tf-keras", "numpy"],
    "keras": ["tensorflow", "tf-keras", "numpy"],
    "onnx float32": ["onnxruntime", "onnx", "numpy"],
    "onnx int8": ["onnxruntime", "onnx", "numpy"],
}
PEER_PACKAGES = {
    "Hugging Face": ["transformers", "torch", "numpy"],
    "CTranslate2 float32": ["ctranslate2", "transformers"],
    "CTranslate2 int8": ["ctranslate2", "transformers"],
}
# A change in these is a change of what our sides do.
OUR_CODE = ("engines/*.py", "decoding/*.py", "networks/*description.py")


class Task(NamedTuple):
    """A measurement: `run()` returns the figures of one run; the results are kept under `key`."""

    key: str
    side: str
    run: Callable[[], dict[str, Any]]
    repeats: int


def main(argv: Sequence[str] | None = None) -> int:
    """Measure what is still to be measured, print tables, goals and JSON."""
    parser = common.make_parser("Time decoding.")
    parser.add_argument("--size", choices=SIZES, default="base", help="which config.json")
    parser.add_argument("--max_seconds", type=float, default=float("inf"), help="start no further run after so long")
    parser.add_argument("--cells", help="only these: parts of keys such as '256-32-8-4' or 'memory', with commas")
    parser.add_argument("--sides", help="only these, by name, with commas; all that are installed if not given")
    parser.add_argument("--peers_python", default=str(PEERS_PYTHON), help="Python of the peers' environment")
    parser.add_argument("--work_dir", default=str(ROOT / "build" / "decoding"), help="for models; a few GB")
    parser.add_argument("--fresh", action="store_true", help="forget what the output file has")
    flags = parser.parse_args(argv)
    if flags.repeats < 1:
        raise OptionError(f"repeats must be at least 1, got {flags.repeats}")
    bench = Bench(flags.size, Path(flags.work_dir), flags.peers_python, names(flags.sides))
    store = Store(flags.output, bench.settings(), bench.prints, flags.fresh)
    try:
        finished = measure(bench, store, flags.repeats, flags.max_seconds, names(flags.cells))
    finally:
        bench.close()
    result = {**store.state, "summary": summarize(store.state), "left_out": bench.left_out}
    print_tables(result["summary"])
    for side, why in bench.left_out.items():
        print(f"left out: {side}: {why}")
    if not finished:
        print("not finished: the same command goes on from here")
    store.save(result)
    print(json.dumps({**result["summary"], "finished": finished, "left_out": bench.left_out}, ensure_ascii=False))
    return 0


def names(value: str | None) -> list[str]:
    """Return what stands between the commas of a flag."""
    return [part.strip() for part in value.split(",")] if value else []


def measure(bench: "Bench", store: "Store", repeats: int, max_seconds: float, only: list[str]) -> bool:
    """Take the runs that are missing, one after the other of each side in turn; return whether none is left."""
    began = time.monotonic()
    for group in bench.groups(repeats):
        for number in range(max(task.repeats for task in group)):
            for task in group:
                if task.side in bench.left_out or (only and not any(part in task.key for part in only)):
                    continue
                runs = store.runs(task.key)
                if len(runs) > number or number >= wanted_runs(task.repeats, runs):
                    continue
                if time.monotonic() - began > max_seconds:
                    return False
                try:
                    run = task.run()
                except WorkerError as error:
                    bench.left_out[task.side] = str(error)
                    continue
                store.add(task.key, run)
                seconds = run.get("call")
                print(f"{task.key}: run {number + 1}" + (f", {seconds:.3f} s" if seconds else ""), flush=True)
    return True


def wanted_runs(repeats: int, runs: list[dict[str, Any]]) -> int:
    """Return how many runs a measurement gets: all for short ones, two at least for those of half a minute."""
    slowest = max((run.get("call", 0.0) for run in runs), default=0.0)
    return max(min(2, repeats), min(repeats, int(30 / max(slowest, 1e-3))))


class Store:
    """The output file: settings, and the runs of each measurement; written after every run.

    Args:
        path: the file, or None to keep nothing.
        settings: a file with others is begun anew.
        prints: what each side's figures depend on; runs of a side whose print has changed are dropped, not those of
            a side which lacks a package (None) now.
        fresh: begin anew in any case.
    """

    def __init__(self, path: str | None, settings: dict[str, Any], prints: dict[str, Any], fresh: bool) -> None:
        self.path = path
        self.state: dict[str, Any] = {"settings": settings, "prints": prints, "runs": {}}
        if path is None or fresh or not Path(path).is_file():
            return
        try:
            old = json.loads(Path(path).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}; --fresh begins anew") from error
        if old.get("settings") == settings:
            for side, value in prints.items():
                if side in old["prints"] and not all(value.values()):
                    # Not installed here and now: what was measured when it was stands.
                    self.state["prints"] = {**self.state["prints"], side: old["prints"][side]}
            same = {side for side, value in self.state["prints"].items() if old["prints"].get(side) == value}
            self.state["runs"] = {
                key: runs for key, runs in old["runs"].items() if side_of(key) in same or side_of(key) == "machine"
            }

    def runs(self, key: str) -> list[dict[str, Any]]:
        """Return the runs of a measurement so far."""
        found: list[dict[str, Any]] = self.state["runs"].get(key, [])
        return found

    def add(self, key: str, run: dict[str, Any]) -> None:
        """Keep a run, rounded to a microsecond."""
        rounded = {
            name: [round(each, 6) for each in value] if isinstance(value, list) else round(value, 6)
            for name, value in run.items()
        }
        self.state["runs"].setdefault(key, []).append(rounded)
        self.save(self.state)

    def save(self, result: dict[str, Any]) -> None:
        """Write the file, whole or not at all, a line a measurement."""
        if self.path is None:
            return
        with atomic_text(self.path) as file:
            file.write(f"{to_lines(result)}\n")


def to_lines(value: Any, depth: int = 0) -> str:
    """Return JSON with a line for each entry of the upper levels, so that a change of one shows as one."""
    if depth > 2 or not isinstance(value, dict | list) or not value:
        return json.dumps(value, ensure_ascii=False)
    indent, close = " " * (depth + 1), " " * depth
    if isinstance(value, list):
        lines, brackets = [to_lines(each, depth + 1) for each in value], "[]"
    else:
        lines = [f"{json.dumps(name, ensure_ascii=False)}: {to_lines(each, depth + 1)}" for name, each in value.items()]
        brackets = "{}"
    inner = f",\n{indent}".join(lines)
    return f"{brackets[0]}\n{indent}{inner}\n{close}{brackets[1]}"


def side_of(key: str) -> str:
    """Return the side of a measurement's key, `what|side`."""
    return key.rpartition("|")[2]


class WorkerError(Exception):
    """A side's process could not be started or has died; the message says where its log is."""


class Worker:
    """A side's process, answering one request at a time."""

    def __init__(self, python: str, arguments: list[str], log: Path) -> None:
        self.log = log
        with log.open("a", encoding="utf-8") as errors:
            self.process = subprocess.Popen(
                [python, str(WORKER), *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                encoding="utf-8",
                cwd=ROOT,
            )
        self.is_ready = False

    def ask(self, **request: Any) -> dict[str, Any]:
        """Send a request and return the answer."""
        assert self.process.stdin
        assert self.process.stdout
        try:
            if not self.is_ready:
                self._read()
                self.is_ready = True
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            return self._read()
        except (OSError, ValueError) as error:
            self.process.wait()
            lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise WorkerError(f"{lines[-1] if lines else error} (see {self.log})") from error

    def _read(self) -> dict[str, Any]:
        assert self.process.stdout
        answer: dict[str, Any] = json.loads(self.process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the process and wait for it."""
        assert self.process.stdin
        try:
            self.process.stdin.close()
            self.process.wait(20)
        except (OSError, subprocess.TimeoutExpired):
            self.process.kill()
            self.process.wait()


class Bench:
    """The sides that are there, their processes and models, and what is to be measured.

    Args:
        size: which config.json.
        work_dir: for models and logs; made.
        peers_python: Python of the environment with the peers.
        only: sides to take; all if empty.
    """

    def __init__(self, size: str, work_dir: Path, peers_python: str, only: list[str]) -> None:
        self.size, self.work_dir = size, work_dir.resolve()
        self.work_dir.mkdir(parents=True, exist_ok=True)
        unknown = sorted(set(only) - set(decoding_worker.SIDES))
        if unknown:
            raise OptionError(f"sides are {', '.join(decoding_worker.SIDES)}, got {', '.join(unknown)}")
        self.workers: dict[tuple[str, str], Worker] = {}
        self.warm: set[tuple[str, str]] = set()
        self.left_out = {side: "not asked for" for side in decoding_worker.SIDES if only and side not in only}
        self.is_shape = decoding_worker.is_hugging_face(size)
        if self.is_shape:
            self.left_out |= {side: "not of this size" for side in decoding_worker.SIDES if side not in SHAPE_SIDES}
        self.python = dict.fromkeys(OUR_PACKAGES, sys.executable) | dict.fromkeys(PEER_PACKAGES, peers_python)
        self.prints: dict[str, Any] = {}
        self._find_versions(peers_python)
        data = common.public_data()
        self.data = data if data and (data / "csl" / "test.tsv").is_file() else None
        vocab = data / "vocab" / "chinese_t5_pegasus.vocab.txt" if data else None
        self.vocab_file = str(vocab) if vocab and vocab.is_file() else ""

    def _find_versions(self, peers_python: str) -> None:
        versions = {side: decoding_worker.versions(packages) for side, packages in OUR_PACKAGES.items()}
        wanted = sorted({name for packages in PEER_PACKAGES.values() for name in packages})
        try:
            answer = subprocess.run(
                [peers_python, str(WORKER), "versions", *wanted], capture_output=True, text=True, check=True
            )
            found = json.loads(answer.stdout)
        except (OSError, subprocess.CalledProcessError, ValueError):
            found = {}
        for side, packages in PEER_PACKAGES.items():
            versions[side] = {name: found.get(name) for name in packages}
        for side, packages_found in versions.items():
            self.prints[side] = dict(packages_found)
            missing = [name for name, version in packages_found.items() if version is None]
            if missing:
                self.left_out.setdefault(side, f"{', '.join(missing)} not installed: make bench-deps")
            if side in OUR_PACKAGES and side != "bert4keras":
                self.prints[side]["code"] = code_print()

    def settings(self) -> dict[str, Any]:
        """Return what all figures depend on: size and machine."""
        return {
            "size": self.size,
            "model": ModelConfig.load(decoding_worker.model_dir(self.size)).to_dict(),
            "python": platform.python_version(),
            "vocabulary": "official" if self.vocab_file else "made-up words",
            "machine": machine(),
        }

    def groups(self, repeats: int) -> Iterator[list[Task]]:
        """Yield the measurements; those of a group are taken in turn."""
        yield [Task("bandwidth|machine", "machine", bandwidth, repeats)]
        if self.is_shape:
            for cell in SHAPE_CELLS:
                yield [Task(f"{cell.key}|{side}", side, self._decode(side, cell), repeats) for side in SHAPE_SIDES]
            return
        for cell in CELLS:
            sides = [side for side in decoding_worker.SIDES if cell.batch == 1 or side != "bert4keras"]
            yield [Task(f"{cell.key}|{side}", side, self._decode(side, cell), repeats) for side in sides]
        yield [
            Task(f"memory|{side}", side, lambda side=side: self._memory(side), 1)  # type: ignore[misc]
            for side in decoding_worker.SIDES
        ]
        yield [Task("long|onnx float32", "onnx float32", self._decode("onnx float32", LONG_TITLE), min(3, repeats))]
        yield [Task("start-up|onnx int8", "onnx int8", self._start_up, min(3, repeats))]
        text = next(iter(read_examples(DATA_DIR / "test.tsv"))).content
        yield [
            Task(f"tiny|{side}", side, self._title(side, "tiny", text, 1), repeats)
            for side in ("bert4keras", "onnx float32")
        ]
        if self.data:
            yield [Task("CSL|onnx int8", "onnx int8", self._test_script, 1)]
            texts = [example.content for example in read_examples(self.data / "csl" / "test.tsv")][:STOCK_TEXTS]
            for number, text in enumerate(texts):
                yield [Task(f"CSL-{number}|bert4keras", "bert4keras", self._title("bert4keras", self.size, text, 4), 1)]

    def _ask(self, side: str, size: str, **request: Any) -> dict[str, Any]:
        """Ask a side's process, started if there is none."""
        if (side, size) not in self.workers:
            self.workers[side, size] = self._start(side, size)
        return self.workers[side, size].ask(**request)

    def _start(self, side: str, size: str) -> Worker:
        self._prepare(side, size)
        log = self.work_dir / f"{side.replace(' ', '_')}.log"
        return Worker(self.python[side], [side, str(self.work_dir), size], log)

    def _prepare(self, side: str, size: str) -> None:
        """Make the files that a side loads, where they are not there."""
        if side in PEER_PACKAGES:
            folder, command, note = self.work_dir / f"peers_{size}", ["prepare_peers"], self.prints["CTranslate2 int8"]
            python, vocab = self.python[side], []
        else:
            folder, command, note = self.work_dir / f"ours_{size}", ["prepare_ours"], self.prints["onnx int8"]
            if decoding_worker.is_hugging_face(size):
                self._prepare("Hugging Face", size)  # whose weights are ours
            # The tiny model has a vocabulary of its own.
            own = decoding_worker.model_dir(size) / "vocab.txt"
            python, vocab = sys.executable, [str(own) if own.is_file() else self.vocab_file]
        made_from = folder / "made_from.json"
        if made_from.is_file() and json.loads(made_from.read_text(encoding="utf-8")) == note:
            return
        print(f"making {folder}", flush=True)
        log = self.work_dir / "prepare.log"
        with log.open("w", encoding="utf-8") as errors:
            done = subprocess.run(
                [python, str(WORKER), *command, str(self.work_dir), size, *vocab],
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=ROOT,
            )
        if done.returncode:
            raise WorkerError(f"its model could not be made (see {log})")
        made_from.write_text(json.dumps(note), encoding="utf-8")

    def _decode(self, side: str, cell: Cell) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            vocab_size = ModelConfig.load(decoding_worker.model_dir(self.size)).vocab_size
            random = np.random.default_rng(cell.source_length)
            sources = random.integers(106, vocab_size, (cell.batch, cell.source_length)).tolist()
            request = {"method": "decode", "sources": sources, "beams": cell.beams}
            if (side, cell.key) not in self.warm:
                self._ask(side, self.size, **request, new_tokens=3)
                self.warm.add((side, cell.key))
            time.sleep(0.3)  # threads of the side before may wait busily a moment for more to do
            found = self._ask(side, self.size, **request, new_tokens=cell.new_tokens)
            if cell is not LONG_TITLE:
                found.pop("steps", None)
            return found

        return run

    def _title(self, side: str, size: str, text: str, beams: int) -> Callable[[], dict[str, Any]]:
        def run() -> dict[str, Any]:
            if (side, size) not in self.warm:
                self._ask(side, size, method="title", text=text, new_tokens=3, beams=beams)
                self.warm.add((side, size))
            time.sleep(0.3)
            return self._ask(side, size, method="title", text=text, new_tokens=32, beams=beams)

        return run

    def _memory(self, side: str) -> dict[str, Any]:
        """Return the peak of a process that does nothing but load and decode one cell; and how long loading takes."""
        batch = 1 if side == "bert4keras" else MEMORY_CELL.batch
        self._prepare(side, self.size)
        start = time.perf_counter()
        worker = self._start(side, self.size)
        try:
            loaded = worker.ask(method="memory")
            load = time.perf_counter() - start
            sources = [[106] * MEMORY_CELL.source_length] * batch
            worker.ask(method="decode", sources=sources, new_tokens=MEMORY_CELL.new_tokens, beams=MEMORY_CELL.beams)
            return {**worker.ask(method="memory"), "loaded": loaded["peak"], "load": load}
        finally:
            worker.close()

    def _start_up(self) -> dict[str, Any]:
        """Return the time from starting `test.py` on an exported model to its first title."""
        self._prepare("onnx int8", self.size)
        text = next(iter(read_examples(DATA_DIR / "test.tsv"))).content
        log = self.work_dir / "start_up.log"
        with log.open("w", encoding="utf-8") as errors:
            start = time.perf_counter()
            process = subprocess.Popen(self._test_command(text), stdout=subprocess.PIPE, stderr=errors, cwd=ROOT)
            assert process.stdout
            title = process.stdout.readline()
            seconds = time.perf_counter() - start
            process.communicate()
        if process.returncode or not title:
            raise WorkerError(f"test.py failed (see {log})")
        return {"call": seconds}

    def _test_script(self) -> dict[str, Any]:
        """Return the time that `test.py` takes for the CSL abstracts, from start to end, and their number."""
        assert self.data
        self._prepare("onnx int8", self.size)
        abstracts = self.data / "csl" / "test.tsv"
        output = self.work_dir / "csl_titles.txt"
        command = self._test_command("--input_file", str(abstracts), "--output_file", str(output), "--num_beams", "4")
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
        seconds = time.perf_counter() - start
        if done.returncode:
            raise WorkerError(f"test.py failed: {done.stderr.strip().splitlines()[-1]}")
        return {"call": seconds, "texts": len(output.read_text(encoding="utf-8").splitlines())}

    def _test_command(self, *arguments: str) -> list[str]:
        exported = decoding_worker.exported_dir(self.work_dir, self.size, "int8")
        fixed = ["--model_dir", str(exported), "--min_new_tokens", "32", "--max_new_tokens", "32"]
        return [sys.executable, str(ROOT / "test.py"), *fixed, *arguments]

    def close(self) -> None:
        """End all processes."""
        for worker in self.workers.values():
            worker.close()


def code_print() -> str:
    """Return a hash of the code that our figures depend on."""
    files = [sorted(PACKAGE.glob(pattern)) for pattern in OUR_CODE]
    for pattern, found in zip(OUR_CODE, files, strict=True):
        if not found:  # moved code would drop out unnoticed
            raise DataError(f"no file of {PACKAGE.name} is {pattern}")
    return hashlib.sha256(b"".join(path.read_bytes() for found in files for path in found)).hexdigest()[:16]


def machine() -> dict[str, Any]:
    """Return what this machine is: processor, cores, the instruction sets that matter, memory."""
    fields: dict[str, str] = {}
    if Path("/proc/cpuinfo").is_file():
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        fields = {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    matter = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
    return {
        "processor": fields.get("model name", platform.processor()),
        "cores": os.cpu_count(),
        "instructions": [flag for flag in matter if flag in fields.get("flags", "").split()],
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        "system": platform.platform(terse=True),
    }


def bandwidth() -> dict[str, float]:
    """Return how many bytes a second all cores together read: products of a 1 GiB matrix and a vector."""
    matrix = np.ones((2**14, 2**14), np.float32)
    vector = np.ones(2**14, np.float32)
    seconds = []
    for _ in range(6):
        start = time.perf_counter()
        matrix @ vector
        seconds.append(time.perf_counter() - start)
    return {"bytes_per_second": matrix.nbytes / statistics.median(seconds[1:])}


if __name__ == "__main__":
    cli.run(main)
