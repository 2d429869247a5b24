"""What training without the cross-attention's position bias costs: two trainings from scratch on CSL, equal but for it.

    python benchmarks/cross_position_bias.py            # trains what is not trained yet, scores, writes the pages
    python benchmarks/cross_position_bias.py --tables   # the pages alone, from the committed JSON
    python benchmarks/cross_position_bias.py --check    # exit code 1 if a page is not up to date

T5-PEGASUS adds the decoder's relative position bias to cross-attention, which Hugging Face's T5 cannot express. Both
models have the tiny model's shape (4 + 4 layers when the committed figures were made), vocabulary and decoding options,
and `finetune.py` trains both from the same seed on csl/train.tsv in the folder that T5_PEGASUS_DATA names; ROUGE-L on
rows of csl/dev.tsv chooses the epoch, and csl/test.tsv is scored with 4 beams. A stopped training goes on.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import make_parser, report, require_public_data
from tables import update_pages

import finetune
from t5_pegasus import AutoTitle, cli, read_examples
from t5_pegasus.errors import DataError, PegasusError
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import FINE_TUNED, ROOT, TINY_MODEL_DIR
from t5_pegasus.metrics import score_each, score_names
from t5_pegasus.metrics.statistics import compare, mean_measure

RESULTS = ROOT / "benchmarks" / "results" / "cross_position_bias.json"
BEGIN, END = "<!-- made by benchmarks/cross_position_bias.py -->", "<!-- end of what cross_position_bias.py made -->"
FOLDERS = {"without": False, "with": True}  # cross_position_bias, by the name of the model's folder
TRAINING = {
    "epochs": "10",
    "metric_for_best_model": "rouge-l",
    "max_eval_samples": "100",
    "mixed_precision": "bfloat16",
}

WORDS = {
    "docs/results.md": {
        "head": "| trained from scratch | ROUGE-1 | ROUGE-2 | ROUGE-L | 95 % interval | BLEU |",
        "with": "with the bias",
        "without": "without it",
        "difference": "without less with",
    },
    "docs/zh/results.md": {
        "head": "| 从头训练 | ROUGE-1 | ROUGE-2 | ROUGE-L | 95 % 区间 | BLEU |",
        "with": "有偏置",
        "without": "无偏置",
        "difference": "无减有",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Train and score both, write the JSON and the tables; or write or check the tables alone."""
    parser = make_parser("Train with and without the cross-attention's position bias.", repeated=False)
    parser.add_argument("--work_dir", default=str(ROOT / "build" / "cross_position_bias"), help="folder of both models")
    parser.add_argument("--only", choices=tuple(FOLDERS), help="train this one and end")
    parser.add_argument("--tables", action="store_true", help="only write the tables, from the committed JSON")
    parser.add_argument("--check", action="store_true", help="only look whether the tables are up to date")
    flags = parser.parse_args(argv)
    if not flags.tables and not flags.check:
        folder = require_public_data() / "csl"
        models = {name: Path(flags.work_dir) / name for name in FOLDERS}
        for name in [flags.only] if flags.only else FOLDERS:
            train(models[name], FOLDERS[name], folder)
        if flags.only:
            return 0
        result = {"benchmark": "cross_position_bias", "training": TRAINING, **measure(models, folder)}
        report(result, ("tensorflow", "bert4keras", "numpy"), flags.output or str(RESULTS))
    try:
        result = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {RESULTS}: {error}") from error
    return update_pages({name: section(result, words) for name, words in WORDS.items()}, flags.check, (BEGIN, END))


def train(model: Path, cross_position_bias: bool, csl: Path) -> None:
    """Make a folder of the tiny model's shape and train it, or go on; `best_model.weights` and the log stay there."""
    model.mkdir(parents=True, exist_ok=True)
    for name in ("vocab.txt", "generation_config.json"):
        shutil.copyfile(TINY_MODEL_DIR / name, model / name)
    config = json.loads((TINY_MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    with atomic_text(model / "config.json") as file:
        json.dump({**config, "cross_position_bias": cross_position_bias}, file, indent=2)
    code = finetune.main(
        [
            *("--model_dir", str(model), "--from_scratch", "--output_dir", str(model), "--resume", "--scale_parameter"),
            *("--train_file", str(csl / "train.tsv"), "--validation_file", str(csl / "dev.tsv")),
            *(word for name, value in TRAINING.items() for word in (f"--{name}", value)),
        ]
    )
    if code:
        raise PegasusError(f"finetune.py ended with {code}")


def measure(models: dict[str, Path], csl: Path) -> dict[str, Any]:
    """Return scores of both, and their differences, in percent: [mean, low, high], the interval of 95 %; p by ROUGE-L.

    The intervals are by bootstrap, the p-value by paired randomization.
    """
    examples = list(read_examples(csl / "test.tsv"))
    references = [each.title for each in examples]
    scores = []
    for model in models.values():
        title = AutoTitle.load(model, model / FINE_TUNED, "keras")
        scores.append(score_each(title.generate([each.content for each in examples], num_beams=4), references))
    found = compare(
        [mean_measure(name, np.array([[each[name] for each in system] for system in scores])) for name in score_names()]
    )
    rows: dict[str, Any] = {
        name: {key: percent(tested.intervals[index]) for key, tested in found.items()}
        for index, name in enumerate(models)
    }
    rows["difference"] = {key: percent(tested.pairs[0].difference) for key, tested in found.items()}
    pair = found["rouge-l"].pairs[0]
    detectable = round(100 * pair.detectable, 2)
    return {"rows": len(examples), "scores": rows, "p": round(pair.randomization, 4), "detectable": detectable}


def percent(values: Sequence[float]) -> list[float]:
    """Return shares in percent, to two digits."""
    return [round(100 * float(value), 2) for value in values]


def section(result: dict[str, Any], words: dict[str, str]) -> str:
    """Return the table in Markdown."""
    lines = [words["head"], f"|{'---|' * (words['head'].count('|') - 1)}"]
    for name, row in result["scores"].items():
        is_score = name in FOLDERS
        _, low, high = row["rouge-l"]
        interval = f"{low:.1f}–{high:.1f}" if is_score else f"{low:+.1f} … {high:+.1f}, p = {result['p']:.2f}"
        rouge = [f"{row[key][0]:{'.2f' if is_score else '+.2f'}}" for key in ("rouge-1", "rouge-2", "rouge-l", "bleu")]
        lines.append(f"| {' | '.join([words[name], *rouge[:3], interval, rouge[3]])} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    cli.run(main)
