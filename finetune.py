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
from t5_pegasus.locations import DATA_DIR, FINE_TUNED, TO_BUILD, Weights, choose_model_dir, locate_weights
from t5_pegasus.metrics import describe
from t5_pegasus.text.prompts import read_prompt
from t5_pegasus.training.options import STATE_DIR, TrainingConfig


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
    parser.add_argument("--user_dict", help="jieba user dictionary")
    parser.add_argument(
        "--resume", action="store_true", help="go on after the last finished epoch in output_dir, if any"
    )
    pair_options = ("text_column", "summary_column", "skip_bad_lines", "max_source_length", "max_target_length")
    cli.add_flags(parser, DataConfig, only=(*pair_options, *PROMPT_OPTIONS))
    cli.add_flags(parser, TrainingConfig)
    flags = parser.parse_args(argv)
    if flags.from_scratch and flags.weights is not None:
        raise OptionError(f"from_scratch and weights exclude each other, got {flags.weights}")
    data, config = cli.config_from(flags, DataConfig), cli.config_from(flags, TrainingConfig)
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
    from t5_pegasus.text.folder import load_tokenizer
    from t5_pegasus.training import Trainer, build_for_training, distributed

    if weights is Weights.RANDOM:
        reason = "as asked" if flags.from_scratch else f"no pretrained weights in {model_dir}"
        print(f"{reason}: training from scratch")
    else:
        print(f"starting from {weights}")
    tokenizer = load_tokenizer(model_dir, flags.user_dict)
    with distributed(config.distribute):
        t5 = build_for_training(model_dir, weights, config)
        Trainer(t5, tokenizer, config, data, flags.output_dir).fit(train, valid, flags.resume)
    print(f"the best weights are in {flags.output_dir / FINE_TUNED}")
    return 0


if __name__ == "__main__":
    cli.run(main)
