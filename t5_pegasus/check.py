"""Check data before training: `python -m t5_pegasus.check train.tsv dev.tsv test.tsv --write clean.tsv`."""

import argparse
import contextlib
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import tqdm

from . import cli
from .data.check_report import to_dict, to_text
from .data.checking import Change, CheckConfig, FileReport, check_files
from .data.pair_formats import FORMATS, choose_format, targets, write_pairs
from .decoding.options import DataConfig
from .errors import OptionError
from .files import atomic_text, check_apart, check_target, to_json
from .locations import choose_model_dir
from .text.tokenizer import PegasusTokenizer

_SERIOUS = 1  # exit code


def make_parser(files: str = "+") -> argparse.ArgumentParser:
    """Return the parser of the command; `files` is how many there must be, as argparse says it."""
    parser = cli.make_parser("Say what is wrong with files of pairs; exit code 1 if something is serious.")
    about = "files of pairs: the first is to train on, the others are held out from those before them"
    if files == "*":
        parser.description = "Say what is wrong with the installation; or, if files are given, with their pairs."
    parser.add_argument("files", nargs=files, metavar="FILE", help=about)
    parser.add_argument("--write", help="file for the first file's pairs that are kept; why not, in .changes.tsv")
    parser.add_argument("--format", choices=FORMATS, help="of the pairs written; by the file's name if not given")
    parser.add_argument("--report", help="file for the report as JSON")
    parser.add_argument("--page", help="file for the report as a page with plots, .html")
    parser.add_argument("--model_dir", help="model whose vocabulary counts; the base or the shipped one if not given")
    parser.add_argument("--user_dict", help="jieba user dictionary of the model")
    cli.add_flags(parser, DataConfig, only=("text_column", "summary_column", "max_source_length", "max_target_length"))
    cli.add_flags(parser, CheckConfig)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Print the report, write what is asked for; return 1 if something is serious, else 0."""
    return run(make_parser().parse_args(argv))


def run(flags: argparse.Namespace) -> int:
    """Check the files of parsed flags."""
    if flags.report is None:
        cli.require_stdout()
    data, config = cli.config_from(flags, DataConfig), cli.config_from(flags, CheckConfig)
    if flags.format is not None and flags.write is None:
        raise OptionError(f"--format needs --write, got {flags.format} alone")
    chosen = choose_format(flags.write, flags.format) if flags.write is not None else None
    outputs = [flags.report, flags.page]
    if chosen is not None:
        outputs += [_changes_path(flags.write), *targets(flags.write, chosen).values()]
    for output in filter(None, outputs):
        check_target(output)
        for path in flags.files:
            check_apart("the file to write", output, **{"file to check": path})
    if flags.page is not None:
        try:
            from .data.check_page import to_page  # late: matplotlib takes a while, and is needed for plots only
        except ModuleNotFoundError as error:
            raise OptionError(f"--page needs {error.name}: `pip install '.[compare]'`") from error
    tokenizer = PegasusTokenizer(choose_model_dir(flags.model_dir) / "vocab.txt", flags.user_dict)

    def check(on_change: Callable[[Change], None] | None = None) -> list[FileReport]:
        columns = data.text_column, data.summary_column
        return check_files(flags.files, tokenizer, config, *columns, _progress, on_change)

    if chosen is None:
        reports = check()
    else:
        with contextlib.ExitStack() as stack:
            write = stack.enter_context(write_pairs(flags.write, chosen))
            log = stack.enter_context(atomic_text(_changes_path(flags.write)))
            log.write("line\taction\twhy\tdetail\n")
            done: Counter[str] = Counter()

            def on_change(change: Change) -> None:
                action = "dropped" if change.example is None else "fixed" if change.reasons else "kept"
                done[action] += 1
                for name, detail in change.reasons:
                    log.write(f"{change.line}\t{action}\t{name}\t{' '.join(detail.split())}\n")
                if change.example is not None:
                    write(change.example)

            reports = check(on_change)
    limits = {"max_source_length": data.max_source_length, "max_target_length": data.max_target_length}
    print(to_text(reports, limits))
    if chosen is not None:
        names = " and ".join(map(str, targets(flags.write, chosen).values()))
        counts = f"{done['kept']:,} kept, {done['fixed']:,} fixed, {done['dropped']:,} dropped"
        print(f"{names}: {counts}; {_changes_path(flags.write)} says why")
    if flags.report is not None:
        with atomic_text(flags.report) as file:
            file.write(to_json(to_dict(reports, limits), indent=1) + "\n")
    if flags.page is not None:
        with atomic_text(flags.page) as file:
            file.write(to_page(reports, limits))
    return _SERIOUS if any(report.serious for report in reports) else 0


def _changes_path(path: str) -> Path:
    return Path(f"{path}.changes.tsv")


def _progress(rows: Iterator[Any], about: str) -> Iterator[Any]:
    return iter(tqdm.tqdm(rows, desc=about, unit=" rows", disable=None, leave=False, file=sys.stderr))


if __name__ == "__main__":
    cli.run(main)
