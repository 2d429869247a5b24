"""Compare one model as it is, fully fine-tuned, and with LoRA adapters, on the same pairs.

    python benchmarks/adapters.py --folder csl --work_dir /tmp/adapters --output benchmarks/results/adapters.json

Every way is trained with several learning rates, and the one with the best ROUGE-L on dev.tsv counts. The titles of
test.tsv are scored with their differences to full fine-tuning, with the weights that were trained, minutes, peak memory
and size on disk; of one text all titles are shown. Each training is a process of its own; one that has finished in
`--work_dir` is not repeated.
"""

import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common

from t5_pegasus import cli
from t5_pegasus.data.examples import read_examples
from t5_pegasus.errors import DataError
from t5_pegasus.locations import BEST_ADAPTER, FINE_TUNED, ROOT, TINY_MODEL_DIR, Weights
from t5_pegasus.metrics import score

UNITS = {"rate": "rate", "minutes": "minutes", "peak_mb": "MB at most", "disk_mb": "MB on disk"}
NAMES = ("rouge-1", "rouge-2", "rouge-l", "bleu")


def main(argv: Sequence[str] | None = None) -> int:
    """Train every way, score it on the test pairs and print the table."""
    parser = common.make_parser("Compare full fine-tuning with adapters.", repeated=False)
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, type=Path, help="model to start from")
    parser.add_argument("--folder", default=ROOT / "data", type=Path, help="train.tsv, dev.tsv or valid.tsv, test.tsv")
    parser.add_argument("--work_dir", default=ROOT / "build" / "adapters", type=Path, help="where the runs are kept")
    parser.add_argument("--ranks", default="4,8,32", help="r of the adapters")
    parser.add_argument("--targets", default="all-linear", help="--lora_target_modules of the adapters")
    parser.add_argument("--full_rates", default="1e-4,3e-4,1e-3", help="learning rates of full fine-tuning")
    parser.add_argument("--lora_rates", default="1e-3,3e-3,1e-2", help="learning rates of adapters")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of every training")
    parser.add_argument("--num_beams", type=int, default=1, help="beams for the test titles")
    parser.add_argument("--shown", type=int, default=0, help="row of test.tsv whose titles are shown")
    flags = parser.parse_args(argv)
    ways: dict[str, tuple[list[str], list[str]]] = {"full": (["--method", "full"], flags.full_rates.split(","))}
    for rank in flags.ranks.split(","):
        lora = ["--method", "lora", "--lora_r", rank, "--lora_alpha", rank, "--lora_target_modules", flags.targets]
        ways[f"LoRA r {rank}"] = (lora, flags.lora_rates.split(","))
    test = list(read_examples(flags.folder / "test.tsv"))
    # All training first: a child's peak begins with the memory of this process, which scoring makes large.
    runs = {name: [train(flags, name, arguments, rate) for rate in rates] for name, (arguments, rates) in ways.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, tried in {**runs, "zero-shot": []}.items():
        best = max(tried, key=lambda run: float(run["dev_rouge_l"]), default={"trained": 0})
        rows[name] = {**best, "tried": {run["rate"]: run["dev_rouge_l"] for run in tried}, **scored(flags, test, best)}
        print_row(name, rows[name], rows["full"])
    print(f"\nreference: {test[flags.shown].title}")
    for name, row in rows.items():
        print(f"{name:>12}: {row['shown']}")
    settings = {name: str(getattr(flags, name)) for name in ("folder", "epochs", "num_beams", "targets")}
    settings["model"] = flags.model_dir.name
    common.report({"settings": settings, "rows": rows}, ("tensorflow", "tf-keras", "numpy"), flags.output)
    return 0


def train(flags: Any, name: str, arguments: list[str], rate: str) -> dict[str, Any]:
    """Fine-tune with a learning rate, unless that was done; return what it took and its best score on dev."""
    run_dir = flags.work_dir / f"{name.replace(' ', '_')}_{rate}"
    done = run_dir / "run.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    dev = next(path for path in (flags.folder / "dev.tsv", flags.folder / "valid.tsv") if path.is_file())
    command = [sys.executable, ROOT / "finetune.py", "--model_dir", flags.model_dir, "--output_dir", run_dir]
    command += ["--train_file", flags.folder / "train.tsv", "--valid_file", dev, "--epochs", flags.epochs]
    command += ["--metric_for_best_model", "rouge-l", "--learning_rate", rate, *arguments]
    start = time.perf_counter()
    run_dir.mkdir(parents=True, exist_ok=True)
    log = run_dir / "log.txt"
    with log.open("w", encoding="utf-8") as file:
        process = subprocess.Popen(list(map(str, command)), stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    lines = log.read_text(encoding="utf-8").splitlines()
    if status:
        raise DataError(f"training {name} failed: {lines[-1]}")
    with (run_dir / "training_log.csv").open(encoding="utf-8") as file:
        best = max(float(row["rouge-l"]) for row in csv.DictReader(file))
    written = run_dir / (BEST_ADAPTER if "lora" in arguments else FINE_TUNED)
    files = [written] if written.is_file() else list(written.iterdir())
    line = next((line for line in lines if line.startswith("trainable parameters: ")), None)
    run = {
        "rate": rate,
        "run_dir": str(run_dir),
        "dev_rouge_l": round(best, 4),
        "minutes": round((time.perf_counter() - start) / 60, 2),
        "peak_mb": usage.ru_maxrss // 1024,
        "disk_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "trained": int(line.split()[2].replace(",", "")) if line else None,
    }
    done.write_text(json.dumps(run), encoding="utf-8")
    return run


def scored(flags: Any, test: Sequence[Any], run: dict[str, Any]) -> dict[str, Any]:
    """Return the scores of the test titles of a run, or of the model as it is."""
    from t5_pegasus import AutoTitle

    folder = Path(run.get("run_dir", ""))
    if "run_dir" not in run:
        title = AutoTitle.load(flags.model_dir, Weights.PRETRAINED, "keras")
    elif (folder / BEST_ADAPTER).is_dir():
        title = AutoTitle.load(flags.model_dir, engine="keras", adapter=folder / BEST_ADAPTER)
    else:
        title = AutoTitle.load(flags.model_dir, folder / FINE_TUNED, "keras")
    titles = title.generate([example.content for example in test], num_beams=flags.num_beams)
    found = score(titles, [example.title for example in test])
    return {**{name: round(100 * found[name], 2) for name in NAMES}, "shown": titles[flags.shown]}


def print_row(name: str, row: dict[str, Any], full: dict[str, Any] | None) -> None:
    """Print the scores of a way, with their differences to full fine-tuning."""
    cells = [f"{row[key]:6.2f} ({row[key] - full[key]:+.2f})" if full else f"{row[key]:6.2f}" for key in NAMES]
    trained = "all" if row["trained"] is None else f"{row['trained']:,}"
    print(
        f"{name:>12} {' '.join(cells)}  {trained} weights, {row['minutes']} min, {row['disk_mb']} MB on disk",
        flush=True,
    )


if __name__ == "__main__":
    cli.run(main)
