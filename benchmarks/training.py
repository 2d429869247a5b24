"""Time training against Hugging Face's MT5 with torch's AdamW, and against bert4keras's own loop; measure its memory.

    make bench-deps                                              # once: the peers, into .venv-bench
    python benchmarks/training.py --output benchmarks/results/training.json

The same sizes, pairs and batch size for all, float32, dropout 0.1, all cores, random weights. Each side is a process
of its own and goes over the pairs once, after two steps that do not count. In `equal` all pairs have the same lengths;
in `csl` they are those of the CSL data set, 16 a batch: the peers take them in random order and pad to the longest, as
their default collators do, ours as `finetune.py` does; in `vocabulary` there are 50,000 tokens, and memory counts: the
peak of the process, less what it had after its imports. In `adapters`, of base size, an adapter (LoRA of rank 8 on
queries and values) is trained beside frozen weights: ours is compared with our full fine-tuning and with PEFT on torch.
`--cell` runs one of them and keeps the others in the output.
"""

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np

from t5_pegasus import cli
from t5_pegasus.data.examples import read_examples
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR
from t5_pegasus.text.tokenizer import PegasusTokenizer

WORKER = Path(__file__).resolve().parent / "training_worker.py"
MODEL = {
    "hidden_size": 256,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 640,
    "vocab_size": 8000,
}
BASE = {
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 2048,
    "vocab_size": 50_000,
}
# The sides of each cell; the first is compared with the others.
SIDES = ("ours", "transformers", "bert4keras")
CELLS = {"equal": SIDES, "csl": SIDES, "vocabulary": SIDES, "adapters": ("lora", "ours", "peft")}
ON_TORCH = ("transformers", "peft")


def main(argv: Sequence[str] | None = None) -> int:
    """Run every cell, each side in turn, and print seconds, tokens per second and memory."""
    parser = common.make_parser("Time and weigh training.")
    parser.set_defaults(repeats=1)
    parser.add_argument("--cell", choices=tuple(CELLS), help="run only this one")
    parser.add_argument("--pairs", type=int, default=480, help="pairs of CSL to train on")
    parser.add_argument(
        "--peers_python", default=ROOT / ".venv-bench" / "bin" / "python", type=Path, help="has torch and transformers"
    )
    flags = parser.parse_args(argv)
    if not flags.peers_python.exists():
        raise OptionError(
            f"peers_python must be a Python with the peers, got {flags.peers_python}; run make bench-deps"
        )
    path = Path(flags.output) if flags.output else None
    cells: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["cells"] if path and path.exists() else {}
    for name in CELLS:
        if flags.cell in (None, name):
            cells[name] = run_cell(name, flags)
    print_tables(cells)
    common.report({"model": MODEL, "cells": cells}, ("tensorflow", "tf-keras", "bert4keras", "numpy"), flags.output)
    return 0


def make_pairs(name: str, count: int) -> tuple[list[tuple[list[int], list[int]]], int]:
    """Return the pairs of a cell, from [CLS] to [SEP], and how many there are in a batch."""
    if name == "csl":
        folder = common.public_data()
        if folder is None:
            raise DataError("set T5_PEGASUS_DATA to the folder of public data sets, which has csl/train.tsv")
        examples = list(read_examples(folder / "csl" / "train.tsv"))[:count]
        tokenizer = PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")
        sources = tokenizer.encode_batch([example.content for example in examples], 256)
        return list(zip(sources, tokenizer.encode_batch([each.title for each in examples], 32), strict=True)), 16
    lengths, pairs, vocab_size = ((96, 27), 16 * 12, 8000) if name == "equal" else ((256, 33), 16 * 4, 50_000)
    size = 16
    if name == "adapters":
        lengths, pairs, size = (128, 33), 4 * 4, 4
    random = np.random.default_rng(0)
    return [
        tuple([101, *random.integers(106, vocab_size, length - 2).tolist(), 102] for length in lengths)  # type: ignore[misc]
        for _ in range(pairs)
    ], size


def run_cell(name: str, flags: Any) -> dict[str, Any]:
    """Return what each side needed, the medians of the repeats, and our share of the peers' time and memory."""
    pairs, batch_size = make_pairs(name, flags.pairs)
    model = {**MODEL, "vocab_size": 50_000} if name == "vocabulary" else BASE if name == "adapters" else MODEL
    sides = CELLS[name]
    tokens = sum(len(source) + len(target) - 1 for source, target in pairs)
    results: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    for _ in range(flags.repeats):
        for side in sides:
            spec = {"side": side, "model": model, "pairs": pairs, "batch_size": batch_size}
            python = str(flags.peers_python) if side in ON_TORCH else sys.executable
            done = subprocess.run(
                [python, str(WORKER)], input=json.dumps(spec), capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise DataError(f"{side} failed in {name}: {done.stderr.strip().splitlines()[-1]}")
            results[side].append(json.loads(done.stdout.splitlines()[-1]))
    cell: dict[str, Any] = {"pairs": len(pairs), "batch_size": batch_size, "sides": {}}
    for side, runs in results.items():
        median = {
            key: statistics.median(run[key] for run in runs)
            for key in ("seconds", "loss", "memory_mb", "memory_with_imports_mb")
        }
        rate = {"tokens_per_second": round(tokens / median["seconds"])}
        cell["sides"][side] = {
            **{key: round(value, 3) for key, value in median.items()}, **rate, "versions": runs[0]["versions"]
        }  # fmt: skip
    for peer in sides[1:]:
        for key in ("seconds", "memory_mb", "memory_with_imports_mb"):
            share = cell["sides"][sides[0]][key] / cell["sides"][peer][key]
            cell.setdefault(f"{sides[0]}_to_{peer}", {})[key] = round(share, 3)
    return cell


def print_tables(cells: dict[str, Any]) -> None:
    """Print a line a cell and side."""
    print(f"{'':28}{'seconds':>10}{'tokens/s':>10}{'MB':>8}{'with imports':>14}")
    for name, cell in cells.items():
        for side, row in cell["sides"].items():
            print(
                f"{name + ', ' + side:28}{row['seconds']:10.2f}{row['tokens_per_second']:10,}"
                f"{row['memory_mb']:8,.0f}{row['memory_with_imports_mb']:14,.0f}"
            )


if __name__ == "__main__":
    cli.run(main)
