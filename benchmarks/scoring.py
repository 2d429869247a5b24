"""Scoring 10,000 titles: ours against the plain loop over `rouge` and nltk.

The references are the titles of CSL (in the folder that T5_PEGASUS_DATA names) or else of data/; the predictions are a
clause of each content, near the title in length and words. Needs no model.
"""

import itertools
import re
import statistics
from collections.abc import Sequence

from common import make_parser, median_seconds, print_table, public_data, report
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge import Rouge

from t5_pegasus.cli import run
from t5_pegasus.data.examples import read_examples
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.metrics import average, score_each

PAIRS = 10_000
PLAIN_PAIRS = 1_000  # the plain loop is timed on these and scaled


def main(argv: Sequence[str] | None = None) -> int:
    """Time both sides on the same pairs and compare what they return."""
    flags = make_parser(__doc__ or "").parse_args(argv)
    data = public_data()
    folder = data / "csl" if data else DATA_DIR
    pairs = [(clause(each.content), each.title) for each in read_examples(folder / "train.tsv")]
    predictions, references = zip(*itertools.islice(itertools.cycle(pairs), PAIRS), strict=True)
    some = predictions[:PLAIN_PAIRS], references[:PLAIN_PAIRS]

    contestants = {"ours": lambda: score_each(predictions, references), "plain": lambda: plain_loop(*some)}
    seconds = median_seconds(contestants, flags.repeats)
    ours, plain = seconds["ours"], seconds["plain"] * PAIRS / PLAIN_PAIRS
    means, expected = average(score_each(*some)), plain_loop(*some)
    lengths = [statistics.fmean(map(len, texts)) for texts in (predictions, references)]
    print_table(f"{PAIRS} pairs", {"t5_pegasus.metrics": ours, "rouge + nltk (scaled)": plain}, "seconds")
    result = {
        "benchmark": "scoring",
        "pairs": PAIRS,
        "data": folder.name,
        "mean_lengths": {"predictions": round(lengths[0], 1), "references": round(lengths[1], 1)},
        "seconds": round(ours, 3),
        "plain_loop_seconds": round(plain, 3),
        "ratio": round(plain / ours, 2),
        "largest_difference": max(abs(means[name] - expected[name]) for name in means),
        "repeats": flags.repeats,
    }
    report(result, ("rouge", "nltk"), flags.output)
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


if __name__ == "__main__":
    run(main)
