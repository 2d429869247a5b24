"""Write titles: of the text that is given, of a file with `--input_file`, or of standard input, a text a line."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING

from .. import cli
from ..config import GenerationConfig
from ..data.examples import read_texts
from ..decoding.options import PROMPT_OPTIONS, DataConfig
from ..decoding.rerank import RerankConfig
from ..engines.options import LoadConfig
from ..errors import DataError, OptionError
from ..files import atomic_text, check_apart, check_target, encoding_hint, file_suffix, to_json
from ..locations import DATA_DIR, choose_model_dir
from ..text.lines import STDIN

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
    cli.add_flags(parser, RerankConfig)
    flags = parser.parse_args(argv)
    if flags.text is not None:
        check_text(flags.text)
    if flags.output_file is None:
        cli.require_stdout()
    data = cli.config_from(flags, DataConfig)
    model_dir = choose_model_dir(flags.model_dir)
    generation = GenerationConfig.of_model(model_dir, **cli.given(flags, GenerationConfig))
    load = cli.config_from(flags, LoadConfig)
    inputs = {"input_file": flags.input_file or DATA_DIR / "test.tsv", **load.files(model_dir)}
    if flags.text is None and flags.input_file is None:
        inputs[STDIN] = "-"
    if flags.output_file is not None:
        check_target(flags.output_file)
    check_apart("output_file", flags.output_file, **inputs)
    rows = list(find_texts(flags.text, flags.input_file, data.text_column))

    reranking = cli.config_from(flags, RerankConfig)
    reranking.check(generation)

    from ..title import AutoTitle, rerank_answers  # late, so that a wrong flag or file is reported at once

    title = AutoTitle.load(*load.arguments(model_dir))
    output_format = flags.output_format or ("jsonl" if file_suffix(flags.output_file or "") == ".jsonl" else "text")
    # A bar is for many texts, and would run through titles that are printed on the same terminal.
    progress = len(rows) > 1 and (flags.output_file is not None or not sys.stdout.isatty())
    answers = title.iterate([text for _, text in rows], generation, data, progress)
    answers = rerank_answers(answers, reranking, generation)
    cut = impossible = 0
    with atomic_text(flags.output_file) if flags.output_file else nullcontext(sys.stdout) as output:
        for (identifier, _), answer in zip(rows, answers, strict=True):
            cut += answer.truncated
            impossible += answer.titles[0].is_impossible
            for rank, hypothesis in enumerate(answer.titles, 1):
                print(FORMATS[output_format](identifier, rank, hypothesis), file=output, flush=True)
    if cut:
        print(f"{cut} texts were longer than what is read of them (--max_source_length, --long_text)", file=sys.stderr)
    if impossible:
        print(f"{impossible} texts have no title: {NO_TITLE}", file=sys.stderr)
    return 0


def check_text(text: str) -> None:
    """Raise OptionError for a text of the command line that no title can be written for."""
    if not text.strip():
        raise OptionError(f"the text must not be empty, got {text!r}; an empty line of a file has an empty title")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise OptionError("the text is not UTF-8: convert it, or give it in a file by --input_file") from error


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
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise DataError(f"{STDIN}:{number}: {encoding_hint(line)}") from error
            yield str(number), text.strip()
        if number:
            return
        print(f"{STDIN} is empty, reading {DATA_DIR / 'test.tsv'}", file=sys.stderr)
    yield from read_texts(input_file or DATA_DIR / "test.tsv", text_column)


def as_json(identifier: str, rank: int, hypothesis: "Hypothesis") -> str:
    """Return a JSON line with id, rank (1 is the best of a text), title and score; null, and why, if there is none."""
    if hypothesis.is_impossible:
        return to_json({"id": identifier, "rank": rank, "title": None, "score": None, "reason": NO_TITLE})
    return to_json({"id": identifier, "rank": rank, "title": hypothesis.text, "score": hypothesis.score})


NO_TITLE = "the options forbid every title"

FORMATS = {"text": lambda identifier, rank, hypothesis: hypothesis.text, "jsonl": as_json}
