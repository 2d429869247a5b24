"""The statistics of a comparison: intervals and paired tests of 350 texts and 6 systems, ours beside sacrebleu's.

The texts are CSL's test set (in the folder that T5_PEGASUS_DATA names) or those of data/, repeated; the systems are
rules. Ours tests every pair on every score; sacrebleu tests five systems against the first on BLEU and chrF alone.
"""

import itertools
import time
from collections.abc import Sequence

from common import make_parser, median_seconds, print_table, public_data, report
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from t5_pegasus import cli
from t5_pegasus.data.examples import read_examples
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.metrics.comparison import Case, corpus_measures, score_case, text_measures
from t5_pegasus.metrics.statistics import compare
from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system

TEXTS, RESAMPLES = 350, 10_000
SYSTEMS = ("lead", "lead?unit=sentence", "textrank", "lexrank", "compress", "oracle")


def main(argv: Sequence[str] | None = None) -> int:
    """Time both sides on the same titles."""
    flags = make_parser(__doc__ or "").parse_args(argv)
    data = public_data()
    folder = data / "csl" if data else DATA_DIR
    pairs = itertools.cycle(read_examples(folder / "test.tsv", keep_duplicates=True))
    texts = [Text(pair.content, (pair.title,)) for pair in itertools.islice(pairs, TEXTS)]
    titles = [[each.title for each in make_system(parse_spec(name)).write(texts, 0)] for name in SYSTEMS]
    references = [text.references for text in texts]
    scores = [
        [score_case(Case(title, text.references, text.content)) for title, text in zip(of_system, texts, strict=True)]
        for of_system in titles
    ]
    measures = [*text_measures(scores), *corpus_measures(titles, references)[0]]
    ours = median_seconds({"ours": lambda: compare(measures, RESAMPLES)}, flags.repeats)["ours"]
    start = time.perf_counter()
    for test in ("bs", "ar"):
        named: list[tuple[str, Sequence[str]]] = list(zip(SYSTEMS, titles, strict=True))
        metrics = {"BLEU": BLEU(tokenize="zh"), "chrF": CHRF()}
        PairedTest(named, metrics, [[each for (each,) in references]], test, RESAMPLES)()
    theirs = time.perf_counter() - start
    tested = {"ours": len(measures) * len(list(itertools.combinations(SYSTEMS, 2))), "sacrebleu": 2 * len(SYSTEMS[1:])}
    print_table(
        f"{TEXTS} texts, {len(SYSTEMS)} systems, {RESAMPLES:,} resamples",
        {"ours, every pair and score": ours, "sacrebleu, BLEU and chrF against one": theirs},
        "seconds",
    )
    result = {
        "benchmark": "significance",
        "data": folder.name,
        "texts": TEXTS,
        "systems": len(SYSTEMS),
        "resamples": RESAMPLES,
        "differences_tested": tested,
        "seconds": round(ours, 2),
        "sacrebleu_seconds": round(theirs, 2),
        "repeats": flags.repeats,
    }
    report(result, ("numpy", "sacrebleu"), flags.output)
    return 0


if __name__ == "__main__":
    cli.run(main)
