"""Start a model from mT5: `python -m t5_pegasus.conversion --mt5_weights … --mt5_vocab spiece.model …`."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from . import cli
from .config import ModelConfig, require_at_least
from .files import atomic_folder, check_new_folder
from .locations import choose_model_dir
from .networks.checkpoints import save_weights
from .networks.mt5 import load_mt5
from .networks.t5 import build_from_config, check_vocabulary
from .text.tokenizer import PegasusTokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Write a model directory with the weights of mT5."""
    parser = cli.make_parser("Start a model from mT5, with the vocabulary of a model directory.")
    parser.add_argument("--mt5_weights", required=True, help="TensorFlow checkpoint or safetensors file of mT5")
    parser.add_argument("--mt5_vocab", required=True, help="spiece.model of mT5")
    parser.add_argument("--model_dir", required=True, help="config.json, of the size of that mT5, and vocab.txt")
    parser.add_argument("--output_dir", required=True, help="model directory to write; must not hold anything")
    parser.add_argument("--seed", type=int, default=0, help="of the rows of tokens that have no piece")
    flags = parser.parse_args(argv)
    require_at_least(flags, 0, "seed")
    output_dir = Path(flags.output_dir)
    check_new_folder(output_dir)
    model_dir = choose_model_dir(flags.model_dir)
    config = ModelConfig.load(model_dir)
    check_vocabulary(model_dir, config)
    t5 = build_from_config(config, with_lm="linear")
    report = load_mt5(t5, flags.mt5_weights, flags.mt5_vocab, PegasusTokenizer(model_dir / "vocab.txt"), flags.seed)
    with atomic_folder(output_dir) as folder:
        for name in ("config.json", "vocab.txt"):
            shutil.copyfile(model_dir / name, folder / name)
        save_weights(t5, folder / "model.ckpt")
    print(f"{report}; {output_dir}/ is ready for pretrain.py and finetune.py --model_dir {output_dir}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)
