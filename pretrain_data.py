"""Make pairs for pretraining from raw documents: source and pseudo-summary, as text or as token ids."""

import sys
from collections.abc import Sequence
from typing import Any

from t5_pegasus.cli import add_flags, config_from, make_parser, run
from t5_pegasus.data.cleaning import CleaningConfig
from t5_pegasus.data.gap_sentences import GapSentenceConfig
from t5_pegasus.data.pretraining_pairs import CorpusConfig, OutputConfig, Recipe, summary, write_pairs
from t5_pegasus.data.runners import RunnerConfig
from t5_pegasus.locations import DATA_DIR

CONFIGS: tuple[Any, ...] = (CorpusConfig, CleaningConfig, GapSentenceConfig, OutputConfig)


def main(argv: Sequence[str] | None = None) -> int:
    """Parse the flags, write the pairs, say on standard error what was read, dropped and written."""
    parser = make_parser(__doc__ or "")
    parser.add_argument(
        "--input_file",
        default=str(DATA_DIR / "articles.jsonl"),
        help="documents: .txt or .jsonl, also .gz, or a folder of such files; - is standard input",
    )
    parser.add_argument("--output_file", default="pseudo.jsonl", help="file (.jsonl, .jsonl.gz) or folder to write")
    add_flags(parser, *CONFIGS, RunnerConfig)
    flags = parser.parse_args(argv)
    recipe = Recipe(*[config_from(flags, config) for config in CONFIGS])
    counts = write_pairs(flags.input_file, flags.output_file, recipe, config_from(flags, RunnerConfig))
    print(f"{flags.output_file}: {summary(counts)}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    run(main)
