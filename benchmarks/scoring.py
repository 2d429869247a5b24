"""Scoring 10,000 titles: ours against the plain loop over `rouge` and nltk. The last line of the output is JSON.

The references are the titles of CSL (in the folder that T5_PEGASUS_DATA names) or else of data/; the predictions are a
clause of each content, near the title in length and words. Needs no model.
"""

import importlib.metadata
import itertools
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge import Rouge

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from t5_pegasus import cli
from t5_pegasus.examples import read_examples
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.metrics import average, score_each

PAIRS = 10_000
PLAIN_PAIRS = 1_000  # the plain loop is timed on these and scaled


def main(argv: Sequence[str] | None = None) -> int:
    """Time both sides on the same pairs, compare what they return, print and, if asked, write the result."""
    parser = cli.make_parser("Time scoring against the plain loop. The last line of the output is JSON.")
    parser.add_argument("--repeats", type=int, default=5, help="timed runs after one that is not; the median counts")
    parser.add_argument("--output", help="also write the result to this file")
    flags = parser.parse_args(argv)

    data = os.environ.get("T5_PEGASUS_DATA")
    folder = Path(data) / "csl" if data else DATA_DIR
    pairs = [(clause(each.content), each.title) for each in read_examples(folder / "train.tsv")]
    predictions, references = zip(*itertools.islice(itertools.cycle(pairs), PAIRS), strict=True)
    some = predictions[:PLAIN_PAIRS], references[:PLAIN_PAIRS]

    ours = median_seconds(lambda: score_each(predictions, references), flags.repeats)
    plain = median_seconds(lambda: plain_loop(*some), flags.repeats) * PAIRS / PLAIN_PAIRS
    means, expected = average(score_each(*some)), plain_loop(*some)
    lengths = [statistics.fmean(map(len, texts)) for texts in (predictions, references)]
    print(f"{'seconds for 10,000 pairs':26}{'median':>8}")
    print(f"{'t5_pegasus.metrics':26}{ours:8.2f}")
    print(f"{'rouge + nltk (scaled)':26}{plain:8.2f}")

    result = {
        "pairs": PAIRS,
        "data": folder.name,
        "mean_lengths": {"predictions": round(lengths[0], 1), "references": round(lengths[1], 1)},
        "seconds": round(ours, 3),
        "plain_loop_seconds": round(plain, 3),
        "ratio": round(plain / ours, 2),
        "largest_difference": max(abs(means[name] - expected[name]) for name in means),
        "repeats": flags.repeats,
        "python": platform.python_version(),
        "packages": {name: importlib.metadata.version(name) for name in ("rouge", "nltk")},
        "cpu_count": os.cpu_count(),
    }
    line = json.dumps(result)
    if flags.output is not None:
        with atomic_text(flags.output) as file:
            file.write(f"{line}\n")
    print(line)
    return 0


def clause(content: str) -> str:
    """Return what a content proposes: the clause after 提出, or else the first."""
    before, _, after = content.partition("提出")
    return re.split("[,;。\uff0c\uff1b]", after.lstrip("了") or before)[0]


def plain_loop(predictions: Sequence[str], references: Sequence[str]) -> dict[str, float]:
    """Return the mean scores as the published ones were computed; a prediction or title that is empty counts 0."""
    rouge, smooth = Rouge(), SmoothingFunction().method1
    totals = dict.fromkeys(("rouge-1", "rouge-2", "rouge-l", "bleu"), 0.0)
    for prediction, reference in zip(predictions, references, strict=True):
        words, reference_words = " ".join(prediction).lower(), " ".join(reference).lower()
        if not words.strip():
            continue
        answer = rouge.get_scores(hyps=words, refs=reference_words)[0]
        for name in ("rouge-1", "rouge-2", "rouge-l"):
            totals[name] += answer[name]["f"]
        totals["bleu"] += sentence_bleu([reference_words.split(" ")], words.split(" "), smoothing_function=smooth)
    return {name: total / len(predictions) for name, total in totals.items()}


def median_seconds(function: Callable[[], object], repeats: int) -> float:
    """Return the median wall time of calling `function`, after one call that is not timed."""
    seconds = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        function()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    cli.run(main)
