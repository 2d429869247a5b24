"""How fast pairs for pretraining are made, and in how much memory.

Choosing gap sentences: ours against the plain algorithm with pylcs and with rapidfuzz, on one core and the same chunks.
`pretrain_data.py` as a whole: with one process and with two, and on a corpus 20 times as long. Reads lctt in the folder
T5_PEGASUS_DATA, or data/articles.jsonl where that is not set. Chunks are gathered across documents, so that they have
the full length with short documents, too.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pylcs
from common import make_parser, median_seconds, print_table, public_data, report
from rapidfuzz.distance import LCSseq

from t5_pegasus.cli import run
from t5_pegasus.data.documents import read_documents
from t5_pegasus.data.gap_sentences import CHARS_PER_TOKEN, pseudo_summary
from t5_pegasus.locations import DATA_DIR, ROOT
from t5_pegasus.text.sentences import gather_chunks, split_pieces

# A run of pretrain_data.py that tells the most memory, in kilobytes, that it and the largest of its workers held
# Its own is VmHWM, since ru_maxrss counts what the process that started it held.
MEASURED = (
    "import resource, sys, pretrain_data; pretrain_data.main(sys.argv[1:]);"
    "own = next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM'));"
    "print(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
)


def plain_pseudo_summary(sentences: Sequence[str], lcs: Callable[[str, str], int]) -> tuple[str, str]:
    """Return (source, target) by trying every sentence at every step."""
    left, taken = list(range(len(sentences))), list[int]()
    while True:
        scores = []
        for i in left:
            rest = "".join([sentences[j] for j in left if j != i])
            scores.append(lcs(rest, "".join([sentences[j] for j in sorted([*taken, i])])))
        taken = sorted([*taken, left.pop(scores.index(max(scores)))])
        source, target = "".join([sentences[i] for i in left]), "".join([sentences[i] for i in taken])
        if len(left) == 1 or len(target) / len(source) > 0.25:
            return (target, source) if len(source) < len(target) else (source, target)


def compare_choices(path: Path, count: int, repeats: int) -> dict[str, Any]:
    """Time the three on the same chunks."""
    pieces = (piece for document in read_documents(path) for piece in split_pieces(document.text))
    chunks = list(gather_chunks(pieces, 512 * CHARS_PER_TOKEN))
    chunks = chunks[:: max(1, len(chunks) // count)][:count]
    contestants: dict[str, Callable[[Sequence[str]], tuple[str, str]]] = {
        "plain_pylcs": partial(plain_pseudo_summary, lcs=pylcs.lcs),
        "plain_rapidfuzz": partial(plain_pseudo_summary, lcs=LCSseq.similarity),
        "ours": pseudo_summary,
    }
    pairs: dict[str, list[tuple[str, str]]] = {}

    def choose_all(name: str) -> None:
        pairs[name] = [contestants[name](chunk) for chunk in chunks]

    seconds = median_seconds({name: partial(choose_all, name) for name in contestants}, repeats)
    medians = {name: value / len(chunks) * 1000 for name, value in seconds.items()}
    print_table(f"{len(chunks)} chunks of {path.name}", medians, "ms a chunk")
    return {
        "chunks": len(chunks),
        "characters_per_chunk": round(statistics.mean(sum(map(len, chunk)) for chunk in chunks)),
        "ms_per_chunk": {name: round(median, 4) for name, median in medians.items()},
        "times_as_fast_as_plain_pylcs": round(medians["plain_pylcs"] / medians["ours"], 1),
        "times_as_fast_as_plain_rapidfuzz": round(medians["plain_rapidfuzz"] / medians["ours"], 1),
        "same_pairs": all(other == pairs["ours"] for other in pairs.values()),
    }


def write_corpus(path: Path, texts: Iterable[str], times: int) -> None:
    """Write the texts so many times over, each with its number, so that no two are equal."""
    with path.open("w", encoding="utf-8") as file:
        texts = list(texts)
        for copy in range(times):
            for number, text in enumerate(texts):
                file.write(json.dumps({"content": f"{copy}，{number}。{text}"}, ensure_ascii=False) + "\n")


def measure(corpus: Path, output: Path, *flags: str) -> tuple[float, int, bytes]:
    """Return the wall time in seconds, the peak memory in kilobytes, and what was written."""
    command = [sys.executable, "-c", MEASURED, "--input_file", str(corpus), "--output_file", str(output), *flags]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    seconds = time.perf_counter() - start
    return seconds, max(map(int, done.stdout.split())), output.read_bytes()


def measure_runs(path: Path, repeats: int) -> dict[str, Any]:
    """Run pretrain_data.py over the texts of a file with one process and two, and over them 20 times."""
    texts = [document.text for document in read_documents(path)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "1.jsonl", texts, 1)
        write_corpus(folder / "20.jsonl", texts, 20)
        seconds: dict[int, list[float]] = {1: [], 2: []}
        written = set()
        for _ in range(repeats):
            for workers, times in seconds.items():
                took, _, data = measure(folder / "20.jsonl", folder / "pairs.jsonl", "--workers", str(workers))
                times.append(took)
                written.add(data)
        median = {workers: statistics.median(times) for workers, times in seconds.items()}
        megabytes = (folder / "20.jsonl").stat().st_size / 1e6
        memory = {
            f"{deduplicate}_{times}x": round(
                measure(
                    *(folder / f"{times}.jsonl", folder / "pairs.jsonl", "--workers", "2"), "--deduplicate", deduplicate
                )[1]
                / 1024
            )
            for deduplicate in ("no", "exact", "near")
            for times in (1, 20)
        }
    print_table(f"{megabytes:.0f} MB of {path.name}", {f"{n} processes": value for n, value in median.items()}, "s")
    print_table("peak memory of a process", memory, "MiB")
    return {
        "megabytes": round(megabytes, 1),
        "documents": 20 * len(texts),
        "seconds": {f"{workers}_processes": round(value, 2) for workers, value in median.items()},
        "times_as_fast_with_2_processes": round(median[1] / median[2], 2),
        "same_file": len(written) == 1,
        "peak_mib_of_a_process": memory,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Measure both, and fail where the pairs differ."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--chunks", type=int, default=200, help="chunks to time, spread over the file")
    parser.add_argument("--run_repeats", type=int, default=3, help="timed runs of pretrain_data.py; the median counts")
    flags = parser.parse_args(argv)
    data = public_data()
    path = data / "lctt" / "dev.jsonl.gz" if data else DATA_DIR / "articles.jsonl"
    choices = compare_choices(path, flags.chunks, flags.repeats)
    runs = measure_runs(path, flags.run_repeats)
    result = {
        "benchmark": "gap_sentences",
        "data": path.name,
        **choices,
        "pretrain_data": runs,
        "repeats": flags.repeats,
    }
    report(result, ("pylcs", "rapidfuzz"), flags.output)
    return 0 if choices["same_pairs"] and runs["same_file"] else 1


if __name__ == "__main__":
    run(main)
