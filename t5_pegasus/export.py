"""Write a model as ONNX graphs: `python -m t5_pegasus.export --model_dir DIR --output_dir DIR [--quantize int8]`."""

import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .decoding.options import PROMPT_OPTIONS, DataConfig
from .engines.exported import ExportConfig
from .files import check_new_folder
from .locations import choose_model_dir, find_weights
from .text.folder import tokenizer_files
from .text.prompts import Prompt, read_prompt


def main(argv: Sequence[str] | None = None) -> int:
    """Export a model directory."""
    parser = cli.make_parser("Write a model as ONNX graphs, to run without TensorFlow.")
    parser.add_argument(
        "--model_dir", help="config.json, vocab.txt and weights; the base or the tiny model if not given"
    )
    parser.add_argument(
        "--weights",
        help="weights to export; if not given, what test.py would use",
    )
    parser.add_argument("--output_dir", required=True, help="directory to make")
    cli.add_flags(parser, ExportConfig)
    cli.add_flags(parser, DataConfig, only=PROMPT_OPTIONS)
    flags = parser.parse_args(argv)
    config = cli.config_from(flags, ExportConfig)
    check_new_folder(Path(flags.output_dir))
    model_dir = choose_model_dir(flags.model_dir)
    weights = find_weights(model_dir, flags.weights)
    own = read_prompt(weights.parent, model_dir) or Prompt()
    prompt = cli.config_from(flags, DataConfig).prompt(own)

    # Late, so that a wrong flag or file is reported at once and not after TensorFlow's three seconds.
    from .engines.onnx_export import export_model
    from .networks.t5 import build_model

    t5, vocab_file = build_model(model_dir, weights), model_dir / tokenizer_files(model_dir)[0]
    export_model(t5, vocab_file, flags.output_dir, config.quantize, weights, prompt)
    print(f"exported to {flags.output_dir}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
