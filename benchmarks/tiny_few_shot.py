"""Titles after fine-tuning on a few pairs: the pretrained weights before they have seen a title of an abstract of CSL.

    python benchmarks/tiny_few_shot.py --weights pretrained.safetensors --output benchmarks/results/tiny_few_shot.json
    python benchmarks/tiny_few_shot.py --tables    # the tables of docs/results.md and its Chinese page, from that file
    python benchmarks/tiny_few_shot.py --check     # exit code 1 if a page is not up to date

Each size is drawn several times from csl/train.tsv in the folder that T5_PEGASUS_DATA names. `finetune.py` trains, with
the epoch chosen by ROUGE-L on 50 rows of csl/dev.tsv, and csl/test.tsv is scored with the model's own generation
options. Draws that the output file has are not made again, so that a stopped run goes on.
"""

import json
import random
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import make_parser, report, require_public_data
from tables import update_pages

import finetune
from t5_pegasus import AutoTitle, cli, read_examples, score
from t5_pegasus.data.examples import Example
from t5_pegasus.errors import OptionError, PegasusError
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR

EPOCHS = {10: 40, 100: 20, 1000: 6}  # by pairs: 40, 140 and 378 steps
VALIDATED = 50
RESULTS = ROOT / "benchmarks" / "results" / "tiny_few_shot.json"
MARKERS = ("<!-- made by benchmarks/tiny_few_shot.py -->", "<!-- end of what benchmarks/tiny_few_shot.py made -->")
HEADS = {
    "docs/results.md": "| pairs | draws | ROUGE-1 | ROUGE-2 | ROUGE-L | its range | BLEU |",
    "docs/zh/results.md": "| 数据对 | 抽样次数 | ROUGE-1 | ROUGE-2 | ROUGE-L | ROUGE-L 的范围 | BLEU |",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Fine-tune on each draw and print means over draws."""
    parser = make_parser("Fine-tune on a few pairs of CSL.", repeated=False)
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, help="config.json and vocab.txt")
    parser.add_argument("--weights", help="weights that have seen no title of an abstract of CSL")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(EPOCHS), choices=tuple(EPOCHS), help="pairs")
    parser.add_argument("--draws", type=int, default=3, help="draws of each size")
    parser.add_argument("--tables", action="store_true", help="only write the tables, from the committed results")
    parser.add_argument("--check", action="store_true", help="only look whether the tables are up to date")
    flags = parser.parse_args(argv)
    if flags.tables or flags.check:
        draws = json.loads(RESULTS.read_text(encoding="utf-8"))["draws"]
        return update_pages({page: table(draws, head) for page, head in HEADS.items()}, flags.check, MARKERS)
    if flags.weights is None:
        raise OptionError("weights must be given: those of pretraining, before they have seen a title of an abstract")
    folder = require_public_data()
    train, dev, test = (list(read_examples(folder / "csl" / f"{part}.tsv")) for part in ("train", "dev", "test"))
    result: dict[str, Any] = {"benchmark": "tiny_few_shot", "draws": {}}
    if flags.output and Path(flags.output).exists():
        result["draws"] = json.loads(Path(flags.output).read_text(encoding="utf-8"))["draws"]
    for size in flags.sizes:
        for draw in range(flags.draws):
            name = f"{size} pairs, draw {draw}"
            if name not in result["draws"]:
                pairs = random.Random(draw).sample(train, size)
                scores = fine_tune(flags.model_dir, flags.weights, pairs, dev[:VALIDATED], test, EPOCHS[size])
                result["draws"][name] = {key: round(100 * value, 2) for key, value in scores.items()}
                report(result, ("tensorflow", "bert4keras", "onnxruntime"), flags.output)
    print(table(result["draws"], HEADS["docs/results.md"]))
    return 0


def table(draws: dict[str, dict[str, float]], head: str) -> str:
    """Return the means over draws, and the smallest and largest ROUGE-L, in Markdown."""
    lines = [head, f"|{'---|' * (head.count('|') - 1)}"]
    for size in EPOCHS:
        rows = [row for name, row in draws.items() if name.startswith(f"{size} pairs")]
        if rows:
            rouge_1, rouge_2, rouge_l, bleu = (
                f"{statistics.mean(row[key] for row in rows):.1f}" for key in ("rouge-1", "rouge-2", "rouge-l", "bleu")
            )
            ends = [f"{end(row['rouge-l'] for row in rows):.1f}" for end in (min, max)]
            lines.append(
                f"| {size:,} | {len(rows)} | {rouge_1} | {rouge_2} | {rouge_l} | {' – '.join(ends)} | {bleu} |"
            )
    return "\n".join([*lines, ""])


def fine_tune(
    model_dir: str | Path,
    weights: str,
    train: Sequence[Example],
    valid: Sequence[Example],
    test: Sequence[Example],
    epochs: int,
) -> dict[str, float]:
    """Return the test scores of the weights that `finetune.py` leaves."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, examples in (("train", train), ("valid", valid)):
            with atomic_text(folder / f"{name}.tsv") as file:
                file.writelines(f"{each.title}\t{each.content}\n" for each in examples)
        code = finetune.main(
            [
                *("--model_dir", str(model_dir), "--weights", weights, "--output_dir", str(folder / "run")),
                *("--train_file", str(folder / "train.tsv"), "--valid_file", str(folder / "valid.tsv")),
                *("--epochs", str(epochs), "--scale_parameter", "--metric_for_best_model", "rouge-l"),
            ]
        )
        if code:
            raise PegasusError(f"finetune.py ended with {code}")
        title = AutoTitle.load(model_dir, folder / "run" / "best_model.weights", "keras")
        titles = title.generate([each.content for each in test])
    return score(titles, [each.title for each in test])


if __name__ == "__main__":
    cli.run(main)
