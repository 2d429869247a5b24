"""Compare systems on one test set: titles, scores with statistics, and a report that one file holds.

`--system KIND[:TARGET][?option=value&…]` once for each. The last line of the output is JSON.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import cli
from ..data.examples import Example, read_column, read_examples
from ..data.predictions import read_predictions
from ..decoding.options import DataConfig
from ..errors import DataError, OptionError, PegasusError
from ..files import check_apart, only_writer, to_json
from ..locations import DATA_DIR
from ..metrics.options import ScoringConfig
from ..systems.options import CompareConfig
from ..systems.protocol import System, Text
from ..systems.spec import Spec
from ..systems.table import SYSTEMS, make_system, parse_specs

if TYPE_CHECKING:
    from ..systems.comparison import Entry, TextScore


def main(argv: Sequence[str] | None = None) -> int:
    """Write or take the titles of every system, compare them and write the report."""
    parser = cli.make_parser("Compare systems that write titles. The last line of the output is JSON.")
    parser.add_argument("--test_file", default=DATA_DIR / "test.tsv", help="pairs of text and reference title")
    parser.add_argument(
        "--system",
        action="append",
        default=[],
        metavar="KIND[:TARGET][?OPTION=VALUE&…]",
        help=f"a system, once for each; kinds are {', '.join(SYSTEMS)}",
    )
    parser.add_argument(
        "--more_references",
        action="append",
        default=[],
        metavar="FILE",
        help="further reference titles, one for each text, .jsonl or .txt; once for each file",
    )
    cli.add_flags(parser, CompareConfig, ScoringConfig)
    cli.add_flags(parser, DataConfig, only=("text_column", "summary_column"))
    flags = parser.parse_args(argv)
    config = cli.config_from(flags, CompareConfig)
    language = cli.config_from(flags, ScoringConfig).language
    specs = parse_specs(flags.system, language)
    folder = Path(config.output_dir)
    if folder.exists() and not folder.is_dir():
        raise OptionError(f"output_dir must be a folder, got {folder}")
    check_apart("output_dir", folder, test_file=flags.test_file)
    examples = list(read_examples(flags.test_file, flags.text_column, flags.summary_column, keep_duplicates=True))
    texts = with_references(examples, flags.more_references, flags.test_file)
    groups = None if config.group_by is None else list(read_column(flags.test_file, config.group_by))
    if groups is not None and len(groups) != len(texts):
        raise DataError(f"{flags.test_file} has {len(texts)} texts and {len(groups)} values of {config.group_by}")
    systems = [make_named(spec, len(texts), flags.test_file) for spec in specs]

    # Late, since numpy and matplotlib take a while and a wrong flag is reported at once.
    try:
        from ..systems.comparison import find
        from ..systems.report import about_data, write_report
        from ..systems.slices import make_slices
    except ModuleNotFoundError as error:
        raise OptionError(f"compare needs {error.name}: `pip install '.[compare]'`") from error

    more = [] if config.encoder_dir is None else [load_bert_score(config.encoder_dir, config.encoder_layer)]
    with only_writer(folder):
        entries = run_all(specs, flags.system, systems, texts, folder / "titles")
        about = about_data(flags.test_file, texts, flags.more_references)
        slices = make_slices(texts, groups, config.group_by or "", language)
        findings = find(entries, texts, slices, about, config.resamples, config.comparison_seed, more, language)
        write_report(folder, findings, entries, texts, groups)
    print("\n".join(findings.summary["signatures"]))
    print(f"the report is {folder / 'index.html'}")
    print(to_json({row["name"]: row["systems"] for row in findings.summary["scores"]}))
    return 0


def load_bert_score(encoder_dir: str, layer: int | None) -> "TextScore":
    """Return BERTScore with an encoder; needs TensorFlow and bert4keras. Raises what `BertEncoder` raises."""
    from ..metrics.bert_score import SIGNATURE, best_f
    from ..metrics.comparison import Score
    from ..networks.bert import BertEncoder
    from ..systems.comparison import TextScore

    encoder = BertEncoder(encoder_dir, layer)

    def of_titles(titles: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
        known = {text for of_text in references for text in of_text} | set(titles)
        vectors = dict(zip(sorted(known), encoder.encode(sorted(known)), strict=True))
        return [
            best_f(vectors[title], [vectors[each] for each in of_text])
            for title, of_text in zip(titles, references, strict=True)
        ]

    about = f"model:{Path(encoder_dir).resolve().name}|layer:{encoder.layer}"
    return TextScore(Score("bertscore", better=1), f"{SIGNATURE}|{about}", of_titles)


def with_references(examples: Sequence[Example], files: Sequence[str], test_file: str) -> list[Text]:
    """Return the texts with the references of the examples and of further files, which may be empty for a text.

    Raises DataError if a file has not one for each text.
    """
    columns = [read_predictions(file) for file in files]
    for file, column in zip(files, columns, strict=True):
        if len(column) != len(examples):
            raise DataError(f"{file} has references for {len(column)} texts, {test_file} has {len(examples)}")
    return [
        Text(example.content, (example.title, *filter(str.strip, further)))
        for example, *further in zip(examples, *columns, strict=True)
    ]


def make_named(spec: Spec, texts: int, test_file: str) -> System:
    """Return a system; errors begin with its name."""
    from ..systems.predictions import Predictions

    try:
        system = make_system(spec)
        if isinstance(system, Predictions):
            system.check_count(texts, test_file)
    except PegasusError as error:
        raise type(error)(f"{spec.name}: {error}") from error
    return system


def run_all(
    specs: Sequence[Spec], written: Sequence[str], systems: Sequence[System], texts: Sequence[Text], folder: Path
) -> "list[Entry]":
    """Return what every system writes. One that fails stops no other; then the first error is raised.

    Each other error is a line on standard error.
    """
    from ..systems.comparison import Entry
    from ..systems.running import run_system

    entries, errors = [], []
    for spec, text, system in zip(specs, written, systems, strict=True):
        try:
            entries.append(Entry(spec.name, text, run_system(spec, system, texts, folder)))
        except PegasusError as error:
            errors.append(error)
    for other in errors[1:]:
        print(f"error: {other}", file=sys.stderr)
    if errors:
        kept = f"; titles of the other systems are kept in {folder}" if entries else ""
        raise type(errors[0])(f"{errors[0]}{kept}")
    return entries
