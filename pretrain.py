"""Pretrain T5-PEGASUS on (source, pseudo-summary) pairs of `pretrain_data.py`.

`python pretrain.py --train_file pairs.jsonl --output_dir my_model` leaves a model directory that `finetune.py` takes.
"""

from collections.abc import Sequence
from pathlib import Path

from t5_pegasus import cli
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.files import check_no_writer
from t5_pegasus.locations import TO_BUILD, Weights, choose_model_dir, locate_weights
from t5_pegasus.training.options import STATE_DIR, PretrainingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and leave config.json, vocab.txt and model.ckpt in the output directory."""
    parser = cli.make_parser("Pretrain T5-PEGASUS on pairs of pretrain_data.py.")
    parser.add_argument("--model_dir", help="config.json, vocab.txt and perhaps weights to start from")
    parser.add_argument("--weights", help="weights to start from; the pretrained ones of model_dir if not given")
    parser.add_argument("--from_scratch", action="store_true", help="start from random weights, whatever model_dir has")
    parser.add_argument("--mt5_weights", help="mT5's weights to start from, of the same size; with --mt5_vocab")
    parser.add_argument("--mt5_vocab", help="mT5's spiece.model, whose rows become those of vocab.txt")
    parser.add_argument(
        "--train_file",
        default="pseudo.jsonl",
        type=Path,
        help="pairs, as finetune.py reads them; or a folder of shards",
    )
    parser.add_argument("--output_dir", default="pretrained", type=Path, help="the model directory to write")
    parser.add_argument("--user_dict", help="jieba user dictionary")
    parser.add_argument("--resume", action="store_true", help="go on after the last checkpoint in output_dir, if any")
    cli.add_flags(
        parser,
        DataConfig,
        only=("text_column", "summary_column", "skip_bad_lines", "max_source_length", "max_target_length"),
    )
    cli.add_flags(parser, PretrainingConfig)
    parser.set_defaults(max_source_length=384, max_target_length=128)
    flags = parser.parse_args(argv)
    data, config = cli.config_from(flags, DataConfig), cli.config_from(flags, PretrainingConfig)
    if config.distribute != "multiworker":  # of whose processes only the chief holds the lock
        check_no_writer(flags.output_dir / STATE_DIR)
    starts = [name for name in ("from_scratch", "weights", "mt5_weights") if getattr(flags, name)]
    if len(starts) > 1:
        raise OptionError(f"{' and '.join(starts)} exclude each other, got {flags.weights or flags.mt5_weights}")
    if bool(flags.mt5_weights) != bool(flags.mt5_vocab):
        raise OptionError(f"mt5_weights and mt5_vocab go together, got {flags.mt5_weights} and {flags.mt5_vocab}")
    if not flags.train_file.exists():
        raise OptionError(f"train_file must exist, got {flags.train_file}; `python pretrain_data.py` makes one")
    model_dir = choose_model_dir(flags.model_dir)
    if flags.mt5_weights:
        locate_weights(model_dir, flags.mt5_weights, TO_BUILD)  # raises if they are missing or damaged
    is_new = flags.from_scratch or flags.mt5_weights
    weights = locate_weights(model_dir, Weights.RANDOM if is_new else flags.weights, TO_BUILD)
    start = "random weights" if weights is Weights.RANDOM else weights
    print(f"starting from {flags.mt5_weights or start}", flush=True)

    # Late, so that a wrong flag or file is reported at once and not after TensorFlow's three seconds.
    from t5_pegasus.networks.mt5 import load_mt5
    from t5_pegasus.text.folder import load_tokenizer
    from t5_pegasus.text.tokenizer import PegasusTokenizer
    from t5_pegasus.training import Pretrainer, build_for_training, distributed, open_pairs

    tokenizer = load_tokenizer(model_dir, flags.user_dict)
    pairs = open_pairs(flags.train_file, tokenizer, data)
    print(f"{len(pairs)} pairs to train", flush=True)
    with distributed(config.distribute):
        t5 = build_for_training(model_dir, weights, config)
        if flags.mt5_weights:
            words = PegasusTokenizer(model_dir / "vocab.txt")  # mT5's pieces become its tokens
            print(load_mt5(t5, flags.mt5_weights, flags.mt5_vocab, words, config.seed), flush=True)
        Pretrainer(t5, config, flags.output_dir, model_dir).fit(pairs, flags.resume)
    print(f"the model is in {flags.output_dir}")
    return 0


if __name__ == "__main__":
    cli.run(main)
