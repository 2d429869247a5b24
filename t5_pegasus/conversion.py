"""Convert models: `python -m t5_pegasus.conversion --mt5_weights … --mt5_vocab spiece.model …` starts one from mT5.

`--to hugging_face` writes a model as a folder that transformers loads.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from . import cli
from .config import GenerationConfig, ModelConfig, require, require_at_least
from .data.examples import read_texts
from .decoding.inputs import pad
from .decoding.options import DataConfig
from .errors import OptionError
from .files import atomic_folder, check_apart, check_new_folder
from .locations import DATA_DIR, TO_BUILD, choose_model_dir, find_weights, locate_weights
from .networks.checkpoints import save_weights
from .networks.hugging_face_export import leave_out_cross_position_bias, write_folder
from .networks.mt5 import load_mt5
from .networks.t5 import PegasusT5, build_from_config, build_model, check_vocabulary
from .text.folder import WORDS, load_tokenizer, tokenizer_kind
from .text.tokenizer import PegasusTokenizer
from .title import AutoTitle

HUGGING_FACE = "hugging_face"
_MOST_TEXTS = 100  # to measure on


def main(argv: Sequence[str] | None = None) -> int:
    """Write a model directory with the weights of mT5, or a Hugging Face folder."""
    parser = cli.make_parser("Start a model from mT5, or write a model as a Hugging Face folder (--to hugging_face).")
    parser.add_argument("--to", choices=(HUGGING_FACE,), help="write the model of model_dir in this layout")
    parser.add_argument("--mt5_weights", help="TensorFlow checkpoint or safetensors file of mT5")
    parser.add_argument("--mt5_vocab", help="spiece.model of mT5")
    parser.add_argument(
        "--model_dir", required=True, help="config.json and vocabulary; from mT5: of the size of that mT5"
    )
    parser.add_argument("--output_dir", required=True, help="folder to write; must not hold anything")
    parser.add_argument("--weights", help="weights to write; if not given, what test.py would use")
    parser.add_argument("--run_dir", default=".", help="folder that finetune.py wrote to, where weights are looked for")
    parser.add_argument(
        "--drop_cross_position_bias",
        action="store_true",
        help="leave out what transformers cannot compute, and print what that changes",
    )
    parser.add_argument(
        "--test_file", default=DATA_DIR / "test.tsv", help=f"texts to measure that on, {_MOST_TEXTS} at most"
    )
    parser.add_argument("--seed", type=int, default=0, help="from mT5: of the rows of tokens that have no piece")
    flags = parser.parse_args(argv)
    check_new_folder(Path(flags.output_dir))
    is_from_mt5 = flags.mt5_weights is not None and flags.mt5_vocab is not None
    if is_from_mt5 == (flags.to is not None) or (flags.mt5_weights is None) != (flags.mt5_vocab is None):
        raise OptionError("give --to hugging_face, or --mt5_weights and --mt5_vocab")
    if is_from_mt5:
        _from_mt5(flags)
    else:
        _to_hugging_face(flags)
    return 0


def _from_mt5(flags: argparse.Namespace) -> None:
    require_at_least(flags, 0, "seed")
    output_dir, model_dir = Path(flags.output_dir), choose_model_dir(flags.model_dir)
    config = ModelConfig.load(model_dir)
    require(tokenizer_kind(model_dir) == WORDS, "model_dir must have a vocab.txt of words", model_dir)
    check_vocabulary(model_dir, config)
    locate_weights(model_dir, flags.mt5_weights, TO_BUILD)  # raises if they are missing or damaged
    t5 = build_from_config(config, with_lm="linear")
    report = load_mt5(t5, flags.mt5_weights, flags.mt5_vocab, PegasusTokenizer(model_dir / "vocab.txt"), flags.seed)
    with atomic_folder(output_dir) as folder:
        for name in ("config.json", "vocab.txt"):
            shutil.copyfile(model_dir / name, folder / name)
        save_weights(t5, folder / "model.ckpt")
    print(f"{report}; {output_dir}/ is ready for pretrain.py and finetune.py --model_dir {output_dir}", file=sys.stderr)


def _to_hugging_face(flags: argparse.Namespace) -> None:
    output_dir, model_dir = Path(flags.output_dir), choose_model_dir(flags.model_dir)
    check_apart("output_dir", output_dir, model_dir=model_dir)
    tokenizer = load_tokenizer(model_dir)
    t5 = build_model(model_dir, find_weights(model_dir, flags.weights, flags.run_dir), with_lm="linear")
    if flags.drop_cross_position_bias and t5.config.cross_position_bias:
        texts = [text for _, text in read_texts(flags.test_file, None)][:_MOST_TEXTS]
        without = leave_out_cross_position_bias(t5)
        print(json.dumps(compare(t5, without, model_dir, texts), ensure_ascii=False))
        t5 = without
    with atomic_folder(output_dir) as folder:
        write_folder(t5, tokenizer, model_dir, folder)
    print(f"{output_dir}/ can be loaded by transformers", file=sys.stderr)
    if tokenizer_kind(model_dir) == WORDS:
        print(
            "its BertTokenizer cuts Chinese into characters, not into jieba's words: give the model the ids of "
            "t5_pegasus.PegasusTokenizer",
            file=sys.stderr,
        )


def compare(t5: PegasusT5, other: PegasusT5, model_dir: Path, texts: Sequence[str]) -> dict[str, Any]:
    """Return how far the logits and the titles of two models that have one tokenizer are apart on some texts.

    The logits are those of the first model's title of each text, at every position.
    """
    tokenizer = load_tokenizer(model_dir)
    titles, others = (AutoTitle(each, tokenizer) for each in (t5, other))
    config, data = GenerationConfig.of_model(model_dir), DataConfig()
    before = [answer.titles[0] for answer in titles.iterate(texts, config, data)]
    after = [answer.titles[0] for answer in others.iterate(texts, config, data)]
    differences = []
    for text, title in zip(texts, before, strict=True):
        source = pad([tokenizer.encode(text, data.max_source_length)])
        target = pad([[tokenizer.start_id, *title.ids]])
        first, second = (each.model([source, target]).numpy() for each in (t5, other))
        differences.append(np.abs(first - second))
    same = sum(one.text == two.text for one, two in zip(before, after, strict=True))
    return {
        "texts": len(texts),
        "mean_logit_difference": float(np.mean([each.mean() for each in differences])),
        "largest_logit_difference": float(max(each.max() for each in differences)),
        "same_titles": same,
        "with_bias": before[0].text,
        "without_bias": after[0].text,
    }


if __name__ == "__main__":
    cli.run(main)
