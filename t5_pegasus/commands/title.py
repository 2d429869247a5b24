"""Write titles: of the text that is given, of a file with `--input_file`, or of standard input, a text a line."""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from .. import cli
from ..config import GenerationConfig
from ..data.examples import read_texts
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..engines.options import LoadConfig
from ..errors import DataError, OptionError
from ..files import atomic_text, check_apart, file_suffix
from ..locations import DATA_DIR, choose_model_dir

if TYPE_CHECKING:
    from ..title import Hypothesis


def main(argv: Sequence[str] | None = None) -> int:
    """Read texts, print or write their titles in the same order."""
    parser = cli.make_parser("Write titles for Chinese texts.")
    parser.add_argument(
        "text", nargs="?", help="a text; without it --input_file, standard input or data/test.tsv is read"
    )
    parser.add_argument("--input_file", help="texts to read: .txt, .tsv, .csv, .json, .jsonl, .xlsx, also .gz")
    parser.add_argument("--output_file", help="file to write titles to, JSON lines if its name ends in .jsonl")
    parser.add_argument("--output_format", choices=tuple(FORMATS), help="overrides what the output file's name says")
    cli.add_flags(parser, LoadConfig)
    cli.add_flags(parser, DataConfig, only=("text_column", "max_source_length", "long_text", *PROMPT_OPTIONS))
    cli.add_flags(parser, GenerationConfig, of_model=True)
    flags = parser.parse_args(argv)
    data = cli.config_from(flags, DataConfig)
    model_dir = choose_model_dir(flags.model_dir)
    generation = GenerationConfig.of_model(model_dir, **cli.given(flags, GenerationConfig))
    check_apart("output_file", flags.output_file, input_file=flags.input_file or DATA_DIR / "test.tsv")
    rows = list(find_texts(flags.text, flags.input_file, data.text_column))

    from ..title import AutoTitle  # late, so that a wrong flag or file is reported at once

    title = AutoTitle.load(model_dir, flags.weights, flags.engine, flags.user_dict, flags.run_dir)
    output_format = flags.output_format or ("jsonl" if file_suffix(flags.output_file or "") == ".jsonl" else "text")
    # A bar is for many texts, and would run through titles that are printed on the same terminal.
    progress = len(rows) > 1 and (flags.output_file is not None or not sys.stdout.isatty())
    answers = title.iterate([text for _, text in rows], generation, data, progress)
    cut = 0
    with atomic_text(flags.output_file) if flags.output_file else nullcontext(sys.stdout) as output:
        for (identifier, _), answer in zip(rows, answers, strict=True):
            cut += answer.truncated
            for rank, hypothesis in enumerate(answer.titles, 1):
                print(FORMATS[output_format](identifier, rank, hypothesis), file=output, flush=True)
    if cut:
        print(f"{cut} texts were longer than what is read of them (--max_source_length, --long_text)", file=sys.stderr)
    return 0


def find_texts(text: str | None, input_file: str | None, text_column: str | None) -> Iterator[tuple[str, str]]:
    """Yield (id, text) of the text given, else of the file, else of standard input, else of the sample data.

    Raises OptionError if two sources are given, DataError for a file that cannot be read.
    """
    if text is not None and input_file is not None:
        raise OptionError("give a text or --input_file, not both")
    if text is not None:
        yield "1", text
        return
    if input_file is None and sys.stdin is not None and not sys.stdin.isatty():
        number = 0
        for number, line in enumerate(sys.stdin.buffer, 1):
            try:
                yield str(number), line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
            except UnicodeDecodeError as error:
                raise DataError(f"standard input:{number}: not UTF-8, convert the text first") from error
        if number:
            return
        print(f"standard input is empty, reading {DATA_DIR / 'test.tsv'}", file=sys.stderr)
    yield from read_texts(input_file or DATA_DIR / "test.tsv", text_column)


def as_json(identifier: str, rank: int, hypothesis: "Hypothesis") -> str:
    """Return a JSON line with id, rank (1 is the best of a text), title and score."""
    row = {"id": identifier, "rank": rank, "title": hypothesis.text, "score": hypothesis.score}
    return json.dumps(row, ensure_ascii=False)


FORMATS = {"text": lambda identifier, rank, hypothesis: hypothesis.text, "jsonl": as_json}
