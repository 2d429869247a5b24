"""Memory and time of `python -m t5_pegasus.check` for data sets of several sizes, each in a process of its own.

    python benchmarks/checking.py --rows 10000 100000 1000000

The rows are random words of the shipped vocabulary, the frequent ones more often; of a thousand, ten are copies of an
earlier one, half of these with a few words changed, and ten have HTML around them.
"""

import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path

from common import make_parser, report

from t5_pegasus import cli
from t5_pegasus.errors import OptionError
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR
from t5_pegasus.text.tokenizer import read_vocabulary

_WORDS = 60  # of a content
_KEPT = 5000  # rows that may be copied later

# What the process does that is measured: its last line is its largest resident set, which the kernel keeps count of.
_MEASURED = """
import sys
from t5_pegasus import check
check.main(sys.argv[1:])
print(open("/proc/self/status").read())
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Print kilobytes and seconds for each size."""
    parser = make_parser("Measure the check of data.", repeated=False)
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the data sets")
    flags = parser.parse_args(argv)
    if min(flags.rows) < 1:
        raise OptionError(f"rows must be at least 1, got {min(flags.rows)}")
    results = {}
    for rows in flags.rows:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "rows.tsv"
            write_rows(path, rows)
            results[str(rows)] = measure(path)
        print(f"{rows:>12,} rows: {results[str(rows)]}", flush=True)
    report({"checking": results}, ("numpy",), flags.output)
    return 0


def write_rows(path: Path, rows: int) -> None:
    """Write a file of random pairs; the same number of rows are the same rows."""
    draw = random.Random(0)
    words = [word for word in read_vocabulary(TINY_MODEL_DIR / "vocab.txt") if "一" <= word[:1] <= "\u9fff"]
    weights = list(accumulate(1 / (rank + 10) for rank in range(len(words))))
    kept: list[tuple[str, str]] = []
    with atomic_text(path) as file:
        for _ in range(rows):
            kind = draw.random()
            chosen = draw.choices(words, cum_weights=weights, k=_WORDS)
            title, content = "".join(chosen[:8]), "，".join("".join(chosen[at : at + 7]) for at in range(0, _WORDS, 7))
            if kind < 0.01 and kept:
                title, copied = draw.choice(kept)
                content = copied if kind < 0.005 else copied[:50] + chosen[0] + copied[53:]
            elif kind > 0.99:
                content = f"<p>{content}。</p>&nbsp;"
            elif len(kept) < _KEPT:
                kept.append((title, content))
            file.write(f"{title}\t{content}\n")


def measure(path: Path) -> dict[str, float]:
    """Return the largest resident set in kilobytes and the seconds of a check with --write and --page."""
    outputs = ["--write", str(path.with_name("clean.tsv")), "--page", str(path.with_name("page.html"))]
    command = [sys.executable, "-c", _MEASURED, str(path), *outputs]
    start = time.perf_counter()
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    peak = re.search(r"^VmHWM:\s+(\d+) kB$", ran.stdout, re.MULTILINE)
    if peak is None:
        raise OptionError("the memory of a process can be measured on Linux only")
    return {"peak_kb": int(peak[1]), "seconds": round(time.perf_counter() - start, 1)}


if __name__ == "__main__":
    cli.run(main)
