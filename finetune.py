"""Fine-tune T5-PEGASUS on (content, title) pairs.

`python finetune.py --train_file train.tsv --valid_file valid.tsv` leaves the best weights in `best_model.weights`.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

from t5_pegasus import cli
from t5_pegasus.data.examples import read_examples
from t5_pegasus.decoding.options import PROMPT_OPTIONS, DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.files import check_no_writer
from t5_pegasus.locations import (
    BEST_ADAPTER,
    DATA_DIR,
    FINE_TUNED,
    TO_BUILD,
    Weights,
    choose_model_dir,
    locate_weights,
    weights_hash,
)
from t5_pegasus.metrics import describe
from t5_pegasus.networks.adapter_files import Record, check_base
from t5_pegasus.networks.lora import count_parameters
from t5_pegasus.text.prompts import read_prompt
from t5_pegasus.training.options import STATE_DIR, MethodConfig, TrainingConfig


def main(argv: Sequence[str] | None = None) -> int:
    """Train, and leave the best epoch's weights in `best_model.weights`."""
    parser = cli.make_parser("Fine-tune T5-PEGASUS on (content, title) pairs.")
    parser.add_argument(
        "--model_dir", help="config.json, vocab.txt and weights; the base model if its weights are there"
    )
    parser.add_argument("--weights", help="weights to start from; the pretrained ones of model_dir if not given")
    parser.add_argument("--from_scratch", action="store_true", help="start from random weights, whatever model_dir has")
    parser.add_argument("--train_file", default=DATA_DIR / "train.tsv", type=Path, help="pairs to learn from")
    parser.add_argument(
        "--validation_file",
        "--valid_file",
        default=DATA_DIR / "valid.tsv",
        type=Path,
        help="pairs to choose the best by",
    )
    parser.add_argument("--output_dir", default=".", type=Path, help="where best_model.weights and the logs go")
    parser.add_argument("--adapter", help="adapter to go on training, with its own LoRA settings; needs method lora")
    parser.add_argument(
        "--ignore_base_hash", action="store_true", help="take an adapter of other weights with the same shapes"
    )
    parser.add_argument("--user_dict", help="jieba user dictionary")
    parser.add_argument(
        "--resume", action="store_true", help="go on after the last finished epoch in output_dir, if any"
    )
    pair_options = ("text_column", "summary_column", "skip_bad_lines", "max_source_length", "max_target_length")
    cli.add_flags(parser, DataConfig, only=(*pair_options, *PROMPT_OPTIONS))
    cli.add_flags(parser, TrainingConfig, MethodConfig)
    flags = parser.parse_args(argv)
    if flags.from_scratch and flags.weights is not None:
        raise OptionError(f"from_scratch and weights exclude each other, got {flags.weights}")
    data, config = cli.config_from(flags, DataConfig), cli.config_from(flags, TrainingConfig)
    lora = cli.config_from(flags, MethodConfig).lora
    if flags.adapter is not None and lora is None:
        raise OptionError(f"adapter is only for method lora, got {flags.adapter}")
    if config.distribute != "multiworker":  # of whose processes only the chief holds the lock
        check_no_writer(flags.output_dir / STATE_DIR)
    columns = (data.text_column, data.summary_column, data.skip_bad_lines)
    train = list(read_examples(flags.train_file, *columns))
    valid = list(read_examples(flags.validation_file, *columns))
    model_dir = choose_model_dir(flags.model_dir)
    weights = locate_weights(model_dir, Weights.RANDOM if flags.from_scratch else flags.weights, TO_BUILD)
    folders = [model_dir] if weights is Weights.RANDOM else [weights.parent, model_dir]
    own = read_prompt(*folders)
    if own is not None:
        data = dataclasses.replace(data, **dataclasses.asdict(data.prompt(own)))
    print(f"{len(train)} pairs to train, {len(valid)} to validate by {describe(config.language)}", flush=True)

    # Late, so that a wrong flag or file is reported at once and not after TensorFlow's three seconds.
    from t5_pegasus.networks.t5 import network_of
    from t5_pegasus.text.folder import load_tokenizer
    from t5_pegasus.training import Trainer, build_for_training, distributed

    if weights is Weights.RANDOM:
        reason = "as asked" if flags.from_scratch else f"no pretrained weights in {model_dir}"
        print(f"{reason}: training from scratch")
    else:
        print(f"starting from {weights}")
    tokenizer = load_tokenizer(model_dir, flags.user_dict)
    base = Record() if lora is None or weights is Weights.RANDOM else Record(model_dir.name, weights_hash(weights))
    if flags.adapter is not None and not flags.ignore_base_hash:
        check_base(flags.adapter, base.base_sha256)
    with distributed(config.distribute):
        t5 = build_for_training(model_dir, weights, config, lora, flags.adapter)
        if t5.lora is not None:
            print(count_parameters(network_of(t5).description, t5.lora.plan), flush=True)
        Trainer(t5, tokenizer, config, data, flags.output_dir, base).fit(train, valid, flags.resume)
    best, name = ("adapter is", BEST_ADAPTER) if lora else ("weights are", FINE_TUNED)
    print(f"the best {best} in {flags.output_dir / name}")
    return 0


if __name__ == "__main__":
    cli.run(main)
