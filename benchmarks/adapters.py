"""Compare one model as it is, fully fine-tuned, and with LoRA adapters, on the same pairs.

    python benchmarks/adapters.py --model_dir pretrained --folder csl --output benchmarks/results/adapters.json
    python benchmarks/adapters.py --tables   # the tables of docs/adapters.md and its Chinese page alone
    python benchmarks/adapters.py --check    # exit code 1 if a page is not up to date

Every way is trained with several learning rates, and the one with the best ROUGE-L on dev.tsv counts. The titles of
test.tsv are scored with their differences to full fine-tuning, with the weights that were trained, minutes of a core,
peak memory and size on disk; of one text all titles are shown. Each training is a process of its own; one that has
finished in `--work_dir` is not repeated. A model that has seen such titles already leaves little to learn: start from
one that was only pretrained, such as the folder `pretrained` that the README of the tiny model makes.

The tables also have the memory and time of `training.py --cell adapters`, and what `many_adapters.py` measured.
"""

import csv
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import common
from tables import update_pages

from t5_pegasus import cli
from t5_pegasus.data.examples import read_examples
from t5_pegasus.errors import DataError
from t5_pegasus.locations import BEST_ADAPTER, FINE_TUNED, ROOT, TINY_MODEL_DIR, Weights
from t5_pegasus.metrics import score

RESULTS = ROOT / "benchmarks" / "results"
BEGIN, END = "<!-- made by benchmarks/adapters.py -->", "<!-- end of what benchmarks/adapters.py made -->"
NAMES = ("rouge-1", "rouge-2", "rouge-l", "bleu")

WORDS = {
    "docs/adapters.md": {
        "scores": "| | ROUGE-1 | ROUGE-2 | ROUGE-L | BLEU | weights trained | rate | CPU min | peak MB | disk MB |",
        "all": "all",
        "setup": "`{folder}`, {pairs} pairs, epochs: {epochs}, {eval_pairs} validation pairs that choose rate and "
        "epoch, {test_pairs} test pairs, beams: {num_beams}; adapters on `{targets}`. In brackets, what is "
        "above full.",
        "tried": "ROUGE-L of the validation pairs by learning rate; s: with `--scale_parameter`",
        "text": "One text of the test pairs: ",
        "titles": "| | title |",
        "content": "text",
        "reference": "reference",
        "training": "| base size, batches of {batch_size} | s / step | MB | LoRA / this, time | memory |",
        "sides": {"lora": "LoRA, r 8 on q and v", "ours": "full fine-tuning", "peft": "PEFT on torch"},
        "each": "Many adapters in one batch, of {mb_each} MB each:",
        "many": "| {adapters} texts, r {rank} on q and v, base size | no adapters, ms a step | {adapters} adapters, "
        "ms a step | share |",
    },
    "docs/zh/adapters.md": {
        "scores": "| | ROUGE-1 | ROUGE-2 | ROUGE-L | BLEU | 训练的权重数 | 学习率 | CPU 分钟 | 峰值 MB | 磁盘 MB |",
        "all": "全部",
        "setup": "`{folder}`，{pairs} 对训练数据，{epochs} 个 epoch，用 {eval_pairs} 对验证数据选择学习率和 epoch，"
        "{test_pairs} 对测试数据，beam 数 {num_beams}；适配器加在 `{targets}` 上。括号内是与全量微调（full）的差。",
        "tried": "验证数据的 ROUGE-L（按学习率；s 表示使用 `--scale_parameter`）",
        "text": "测试集中的一条文本：",
        "titles": "| | 标题 |",
        "content": "正文",
        "reference": "参考标题",
        "training": "| base 规模，每批 {batch_size} 条 | 秒/步 | MB | LoRA / 本行，用时 | 内存 |",
        "sides": {"lora": "LoRA，q 和 v 上 r 8", "ours": "全量微调", "peft": "torch 上的 PEFT"},
        "each": "一批中的多个适配器，每个 {mb_each} MB：",
        "many": "| {adapters} 条文本，q 和 v 上 r {rank}，base 规模 | 无适配器，毫秒/步 | "
        "{adapters} 个适配器，毫秒/步 | 比 |",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train every way, score it on the test pairs and print the table; or write or check the tables of the pages."""
    parser = common.make_parser("Compare full fine-tuning with adapters.", repeated=False)
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, type=Path, help="model to start from")
    parser.add_argument("--folder", default=ROOT / "data", type=Path, help="train.tsv, dev.tsv or valid.tsv, test.tsv")
    parser.add_argument("--work_dir", default=ROOT / "build" / "adapters", type=Path, help="where the runs are kept")
    parser.add_argument("--ranks", default="4,8,32", help="r of the adapters")
    parser.add_argument("--targets", default="all-linear", help="--lora_target_modules of the adapters")
    told = "learning rates of full fine-tuning; with an s after it, with --scale_parameter"
    parser.add_argument("--full_rates", default="1e-4,3e-4,1e-3,3e-3s", help=told)
    parser.add_argument("--lora_rates", default="3e-4,1e-3,3e-3,1e-2", help="learning rates of adapters")
    parser.add_argument("--epochs", type=int, default=5, help="epochs of every training")
    parser.add_argument("--pairs", type=int, help="rows of train.tsv to train on, the first; all if not given")
    parser.add_argument("--eval_pairs", type=int, help="validation pairs that choose rate and epoch; all if not given")
    parser.add_argument("--test_pairs", type=int, help="rows of test.tsv that are scored, the first; all if not given")
    parser.add_argument("--num_beams", type=int, default=1, help="beams for the test titles")
    parser.add_argument("--shown", type=int, default=0, help="row of test.tsv whose titles are shown")
    parser.add_argument("--tables", action="store_true", help="only write the tables of the pages, from committed JSON")
    parser.add_argument("--check", action="store_true", help="only look whether the tables of the pages are up to date")
    flags = parser.parse_args(argv)
    if flags.tables or flags.check:
        return update_pages({name: section(words) for name, words in WORDS.items()}, flags.check, (BEGIN, END))
    compare(flags)
    return 0


def compare(flags: Any) -> None:
    """Train every way, score it and print the table."""
    ways: dict[str, tuple[list[str], list[str]]] = {"full": (["--method", "full"], flags.full_rates.split(","))}
    for rank in flags.ranks.split(","):
        lora = ["--method", "lora", "--lora_r", rank, "--lora_alpha", rank, "--lora_target_modules", flags.targets]
        ways[f"LoRA r {rank}"] = (lora, flags.lora_rates.split(","))
    test = list(read_examples(flags.folder / "test.tsv"))[: flags.test_pairs]
    # All training first: a child's peak begins with the memory of this process, which scoring makes large.
    runs = {name: [train(flags, name, arguments, rate) for rate in rates] for name, (arguments, rates) in ways.items()}
    rows: dict[str, dict[str, Any]] = {}
    for name, tried in {**runs, "zero-shot": []}.items():
        best = max(
            tried, key=lambda run: float(run["dev_rouge_l"]), default={"trained": 0, "minutes": 0.0, "disk_mb": 0.0}
        )
        found = {key: value for key, value in best.items() if key != "run_dir"}
        rows[name] = {**found, "tried": {run["rate"]: run["dev_rouge_l"] for run in tried}, **scored(flags, test, best)}
        print_row(name, rows[name], rows["full"])
    shown = {"content": test[flags.shown].content, "reference": test[flags.shown].title}
    print(f"\nreference: {shown['reference']}")
    for name, row in rows.items():
        print(f"{name:>12}: {row['shown']}")
    settings = {name: getattr(flags, name) for name in ("epochs", "pairs", "eval_pairs", "num_beams", "targets")}
    settings |= {"folder": flags.folder.name, "model": flags.model_dir.name, "test_pairs": len(test)}
    result = {"settings": settings, "rows": rows, "text": shown}
    common.report(result, ("tensorflow", "tf-keras", "numpy"), flags.output)


def train(flags: Any, name: str, arguments: list[str], rate: str) -> dict[str, Any]:
    """Fine-tune with a learning rate, unless that was done; return what it took and its best score on dev."""
    run_dir = flags.work_dir / f"{name.replace(' ', '_')}_{rate}"
    done = run_dir / "run.json"
    if done.is_file():
        found: dict[str, Any] = json.loads(done.read_text(encoding="utf-8"))
        return found
    run_dir.mkdir(parents=True, exist_ok=True)
    dev = next(path for path in (flags.folder / "dev.tsv", flags.folder / "valid.tsv") if path.is_file())
    command = [sys.executable, ROOT / "finetune.py", "--model_dir", flags.model_dir, "--output_dir", run_dir]
    command += ["--train_file", train_file(flags), "--valid_file", dev, "--epochs", flags.epochs]
    command += ["--metric_for_best_model", "rouge-l", "--learning_rate", rate.removesuffix("s"), *arguments]
    command += ["--scale_parameter"] if rate.endswith("s") else []
    command += [] if flags.eval_pairs is None else ["--max_eval_samples", flags.eval_pairs]
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
    words = line.replace(",", "").split() if line else []  # trainable parameters: … || all: … || … %
    run = {
        "rate": rate,
        "run_dir": str(run_dir),
        "dev_rouge_l": round(best, 4),
        "minutes": round((usage.ru_utime + usage.ru_stime) / 60, 2),
        "peak_mb": usage.ru_maxrss // 1024,
        "disk_mb": round(sum(path.stat().st_size for path in files) / 1e6, 2),
        "trained": int(words[2]) if words else None,
        "all": int(words[5]) if words else None,
    }
    done.write_text(json.dumps(run), encoding="utf-8")
    return run


def train_file(flags: Any) -> Path:
    """Return the file to train on: train.tsv, or as many rows of it as are asked for."""
    path: Path = flags.folder / "train.tsv"
    if flags.pairs is None:
        return path
    part: Path = flags.work_dir / "train.tsv"
    with path.open(encoding="utf-8") as file:
        part.write_text("".join(itertools.islice(file, flags.pairs)), encoding="utf-8")
    return part


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


def section(words: Any) -> str:
    """Return the tables in Markdown: scores and one text's titles, training at base size, many adapters in a batch."""
    compared, training, many = (
        json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
        for name in ("adapters", "training", "many_adapters")
    )
    rows, full, cell = compared["rows"], compared["rows"]["full"], training["cells"]["adapters"]
    scores, titles, tried = [], [[words["reference"], compared["text"]["reference"]]], []
    for name, row in rows.items():
        rates = sorted(row["tried"].items(), key=lambda each: (each[0].endswith("s"), float(each[0].removesuffix("s"))))
        if rates:
            tried.append([name, ", ".join(f"{rate}: {100 * value:.1f}" for rate, value in rates)])
        trained = words["all"]
        if row["trained"] is not None:
            trained = f"{row['trained']:,}" + (f" ({row['trained'] / row['all']:.1%})" if row["trained"] else "")
        cost = [str(row.get(key, "–")) for key in ("rate", "minutes", "peak_mb", "disk_mb")]
        marks = [f"{row[key]:.1f} ({row[key] - full[key]:+.1f})" for key in NAMES]
        scores.append([name, *marks, trained, *cost])
        titles.append([name, row["shown"]])
    costs = []
    for side, values in cell["sides"].items():
        shares = cell.get(f"lora_to_{side}")
        cost = [f"{values['seconds'] * cell['batch_size'] / cell['pairs']:.2f}", f"{values['memory_mb']:,.0f}"]
        costs.append(
            [
                words["sides"][side],
                *cost,
                *(f"{shares[key]:.2f}" if shares else "–" for key in ("seconds", "memory_mb")),
            ]
        )
    steps = []
    for name, ways in many["cells"].items():
        times = [f"{ways[way]['step_ms']:.1f}" for way in ("none", "all")]
        steps.append([name, *times, f"{ways['all_to_none']['step_ms']:.3f}"])
    parts = [
        words["setup"].format(**compared["settings"]),
        table(words["scores"], scores),
        table(f"| | {words['tried']} |", tried),
        f"{words['text']}{compared['text']['content']}",
        table(words["titles"], titles),
        table(words["training"].format(**cell), costs),
        words["each"].format(**many["settings"]),
        table(words["many"].format(**many["settings"]), steps),
    ]
    return "\n\n".join(parts) + "\n"


def table(head: str, rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown."""
    return "\n".join([head, f"|{'---|' * (head.count('|') - 1)}", *(f"| {' | '.join(row)} |" for row in rows)])


if __name__ == "__main__":
    cli.run(main)
