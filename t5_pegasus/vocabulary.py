"""Build a word vocabulary: `python -m t5_pegasus.vocabulary --size 50000 --input_file corpus.jsonl`."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import tqdm

from . import cli
from .data.documents import SEPARATORS, Document, read_documents
from .errors import OptionError
from .files import atomic_text, check_apart, check_target, to_json
from .text.segmentation import Cut, load_cut
from .text.tokenizer import PegasusTokenizer, read_vocabulary
from .text.words import Coverage, VocabularyConfig, build_vocabulary, count_words, measure_coverage

HELD_OUT_EVERY = 100


def _count_corpus(
    documents: Iterable[Document], held_out: Iterable[Document] | None, cut: Cut
) -> tuple[Counter[str], Counter[str]]:
    """Return the counts of the words to choose from and of those to measure with, in one pass over each.

    Without a held-out text, every `HELD_OUT_EVERY`th document is kept out of the choice and measured with.
    """
    kept_back: Counter[str] = Counter()

    def others() -> Iterator[str]:
        for number, document in enumerate(documents, start=1):
            if held_out is None and number % HELD_OUT_EVERY == 0:
                kept_back.update(count_words([document.text], cut))
            else:
                yield document.text

    counts = count_words(others(), cut)
    return counts, kept_back if held_out is None else count_words((document.text for document in held_out), cut)


def _show_coverage(coverages: Mapping[str, tuple[int, Coverage]]) -> None:
    """Print a table, a row for each vocabulary with its size, and the same as JSON in the last line."""
    rows = {name: {"size": size, **coverage.to_dict()} for name, (size, coverage) in coverages.items()}
    characters = next(iter(rows.values()))["characters"]
    width = max(map(len, rows))
    print(f"on {characters} characters of held-out text, white space left out:")
    print(f"{'':{width}}  tokens  coverage  whole words  tokens a character")
    for name, row in rows.items():
        print(
            f"{name:{width}}  {row['size']:6d}  {row['coverage']:8.3%}  {row['whole_word_share']:11.2%}"
            f"  {row['tokens_per_character']:18.4f}"
        )
    print(to_json(rows))


def main(argv: Sequence[str] | None = None) -> int:
    """Write a vocabulary file and print how it cuts the held-out text, beside other vocabularies."""
    parser = cli.make_parser(
        "Build a vocabulary from jieba's dictionary, a corpus and another vocabulary; the latter two may be left out."
    )
    parser.add_argument("--input_file", help="corpus: .txt or .jsonl, also .gz, or a folder; - is standard input")
    parser.add_argument("--text_column", help="column of the document; found by its usual names if not given")
    parser.add_argument("--skip_bad_lines", action="store_true", help="leave out lines that cannot be used")
    parser.add_argument(
        "--document_separator", default="line", choices=SEPARATORS, help="what sets documents of a .txt apart"
    )
    parser.add_argument(
        "--held_out_file",
        help=f"documents to measure the coverage on; every {HELD_OUT_EVERY}th of the corpus if not given",
    )
    parser.add_argument("--existing_vocab", help="vocabulary whose tokens go before others of their kind")
    parser.add_argument("--compare", nargs="+", default=[], help="vocabularies to measure beside the new one")
    parser.add_argument("--user_dict", help="jieba user dictionary that the model will be trained with")
    parser.add_argument("--output_file", default="vocab.txt", help="file to write, one token a line")
    cli.add_flags(parser, VocabularyConfig)
    flags = parser.parse_args(argv)
    config = cli.config_from(flags, VocabularyConfig)
    measured = bool(flags.input_file or flags.held_out_file)
    if flags.compare and not measured:
        raise OptionError("--compare needs a text to measure on: give --held_out_file or --input_file")
    check_target(flags.output_file)
    if measured:
        cli.require_stdout()
    names = ("input_file", "held_out_file", "existing_vocab", "compare", "user_dict")
    check_apart("output_file", flags.output_file, **{name: getattr(flags, name) for name in names})
    existing = [] if flags.existing_vocab is None else read_vocabulary(flags.existing_vocab)
    # Read before the long work, so that what is wrong with them is reported first.
    compared = {path: PegasusTokenizer(path, flags.user_dict) for path in flags.compare}

    skipped: Counter[str] = Counter()

    on_bad_line = (lambda _: skipped.update(lines=1)) if flags.skip_bad_lines else None

    def documents(path: str | None) -> Iterator[Document]:
        if path is None:
            return iter(())
        found = read_documents(path, flags.text_column, on_bad_line, flags.document_separator)
        return iter(tqdm.tqdm(found, unit=" documents", disable=None, leave=False))

    counts, held_out = Counter[str](), Counter[str]()
    if measured:
        test = documents(flags.held_out_file) if flags.held_out_file else None
        counts, held_out = _count_corpus(documents(flags.input_file), test, load_cut(flags.user_dict))
    tokens = build_vocabulary(config, counts, existing)
    with atomic_text(flags.output_file) as file:
        file.writelines(f"{token}\n" for token in tokens)
    print(f"{len(tokens)} tokens in {flags.output_file}", file=sys.stderr)
    if skipped:
        print(f"{skipped['lines']} bad lines skipped", file=sys.stderr)
    if existing:
        kept = len(set(existing) & set(tokens))
        print(f"{kept} of the {len(existing)} tokens of {flags.existing_vocab} among them", file=sys.stderr)
    if held_out:
        tokenizers = {flags.output_file: PegasusTokenizer(flags.output_file, flags.user_dict), **compared}
        _show_coverage({path: (each.vocab_size, measure_coverage(each, held_out)) for path, each in tokenizers.items()})
    elif measured:
        print(
            f"no held-out text: {flags.held_out_file or flags.input_file} has "
            + (
                "nothing in it"
                if flags.held_out_file
                else f"fewer than {HELD_OUT_EVERY} documents; give --held_out_file"
            ),
            file=sys.stderr,
        )
    return 0


if __name__ == "__main__":
    cli.run(main)
