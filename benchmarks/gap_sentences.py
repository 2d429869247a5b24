"""How fast gap sentences are chosen: ours against the plain algorithm with pylcs and with rapidfuzz, on one core.

Reads lctt/dev.jsonl.gz in the folder T5_PEGASUS_DATA, or data/articles.jsonl where that is not set. Chunks are gathered
across documents, so that they have the full length with short documents, too.
"""

import statistics
from collections.abc import Callable, Sequence
from functools import partial

import pylcs
from common import make_parser, median_seconds, print_table, public_data, report
from rapidfuzz.distance import LCSseq

from t5_pegasus.cli import run
from t5_pegasus.corpus import gather_chunks, read_documents, split_pieces
from t5_pegasus.gap_sentences import CHARS_PER_TOKEN, pseudo_summary
from t5_pegasus.locations import DATA_DIR


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


def main(argv: Sequence[str] | None = None) -> int:
    """Time the three on the same chunks, and fail where they differ."""
    parser = make_parser(__doc__ or "")
    parser.add_argument("--chunks", type=int, default=200, help="chunks to time, spread over the file")
    flags = parser.parse_args(argv)

    data = public_data()
    path = data / "lctt" / "dev.jsonl.gz" if data else DATA_DIR / "articles.jsonl"
    pieces = (piece for document in read_documents(path) for piece in split_pieces(document.text))
    chunks = list(gather_chunks(pieces, 512 * CHARS_PER_TOKEN))
    chunks = chunks[:: max(1, len(chunks) // flags.chunks)][: flags.chunks]

    contestants: dict[str, Callable[[Sequence[str]], tuple[str, str]]] = {
        "plain_pylcs": partial(plain_pseudo_summary, lcs=pylcs.lcs),
        "plain_rapidfuzz": partial(plain_pseudo_summary, lcs=LCSseq.similarity),
        "ours": pseudo_summary,
    }
    pairs: dict[str, list[tuple[str, str]]] = {}

    def choose_all(name: str) -> None:
        pairs[name] = [contestants[name](chunk) for chunk in chunks]

    seconds = median_seconds({name: partial(choose_all, name) for name in contestants}, flags.repeats)
    medians = {name: value / len(chunks) * 1000 for name, value in seconds.items()}
    print_table(f"{len(chunks)} chunks of {path.name}", medians, "ms a chunk")
    result = {
        "benchmark": "gap_sentences",
        "data": path.name,
        "chunks": len(chunks),
        "characters_per_chunk": round(statistics.mean(sum(map(len, chunk)) for chunk in chunks)),
        "ms_per_chunk": {name: round(median, 4) for name, median in medians.items()},
        "times_as_fast_as_plain_pylcs": round(medians["plain_pylcs"] / medians["ours"], 1),
        "times_as_fast_as_plain_rapidfuzz": round(medians["plain_rapidfuzz"] / medians["ours"], 1),
        "same_pairs": all(other == pairs["ours"] for other in pairs.values()),
        "repeats": flags.repeats,
    }
    report(result, ("pylcs", "rapidfuzz"), flags.output)
    return 0 if result["same_pairs"] else 1


if __name__ == "__main__":
    run(main)
