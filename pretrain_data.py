"""Make pairs for pretraining from raw documents: source and pseudo-summary, by the official greedy LCS."""

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from tqdm import tqdm

from t5_pegasus.cli import add_flags, config_from, make_parser, run
from t5_pegasus.corpus import MIN_PIECES, Document, read_documents
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import atomic_text
from t5_pegasus.gap_sentences import GapSentenceConfig, pseudo_pairs
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.runners.local import run_local

Pairs = list[tuple[str, str]]


def document_pairs(document: Document, config: GapSentenceConfig) -> Pairs:
    """Return the (source, target) pairs of a document."""
    return list(pseudo_pairs(document.text, config.gap_sentence_ratio, config.max_length))


def write_pairs(input_file: str | Path, output_file: str | Path, config: GapSentenceConfig) -> Counter[str]:
    """Write a JSON line {"source", "target"} for every pair of the documents, in their order; return what was counted.

    Raises DataError where the input cannot be used or gives no pair; nothing is left of `output_file` then.
    """
    counts: Counter[str] = Counter()
    documents = read_documents(
        input_file, config.text_column, (lambda _: counts.update(bad=1)) if config.skip_bad_lines else None
    )
    results = run_local(partial(document_pairs, config=config), documents, config.workers)
    size = os.path.getsize(input_file) if os.path.isfile(input_file) else None
    with atomic_text(output_file) as file:
        for pairs in _show_progress(results, size):
            counts.update(documents=1, pairs=len(pairs), short=not pairs)
            for source, target in pairs:
                file.write(json.dumps({"source": source, "target": target}, ensure_ascii=False) + "\n")
        if not counts["pairs"]:
            raise DataError(f"no pair in {input_file}: none of {counts['documents']} documents has {MIN_PIECES} pieces")
    return counts


def _show_progress(results: Iterator[tuple[Document, Pairs]], size: int | None) -> Iterator[Pairs]:
    """Yield the pairs of each document, drawing how much of the input's `size` bytes is done; of a pipe, documents."""
    bar = None
    try:
        for document, pairs in results:
            # Drawn with the first result, so that an error in the first lines is the only line on the screen.
            if bar is None:
                bar = tqdm(total=size, unit="B" if size else " documents", unit_scale=True)
            bar.update(document.end - bar.n if size else 1)
            yield pairs
    finally:
        if bar is not None:
            bar.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, write the pairs, say on standard error what was read and written."""
    parser = make_parser(__doc__ or "")
    parser.add_argument(
        "--input_file",
        default=str(DATA_DIR / "articles.jsonl"),
        help="documents, one a line: .txt or .jsonl, also .gz; - is standard input",
    )
    parser.add_argument("--output_file", default="pseudo.jsonl", help='JSON lines {"source", "target"}')
    add_flags(parser, GapSentenceConfig)
    flags = parser.parse_args(argv)
    if os.path.realpath(flags.output_file) == os.path.realpath(flags.input_file):
        raise OptionError(f"output_file must not be the input_file, got {flags.output_file}")
    counts = write_pairs(flags.input_file, flags.output_file, config_from(flags, GapSentenceConfig))
    print(
        f"{counts['documents']} documents read, {counts['pairs']} pairs written to {flags.output_file}, "
        f"{counts['short']} documents too short (fewer than {MIN_PIECES} pieces), {counts['bad']} bad lines skipped",
        file=sys.stderr,
    )
    return 0


if __name__ == "__main__":
    run(main)
