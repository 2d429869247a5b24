r"""Does a model read its source? Loss and accuracy of titles, token by token, under their own source and another's.

A model that only knows the language does no better with the one than with the other; one that copies is right wherever
the source has the title. Pairs of texts that the model has not seen, with gap sentences left in and taken out:

    python pretrain_data.py --input_file unseen.txt --output_file intact.jsonl --sentence_split sentences \
        --max_length 96 --mask_rates 0,0,1,0
    python pretrain_data.py ... --output_file removed.jsonl --mask_rates 0,0,0,1
    python benchmarks/copying.py --model_dir pretrained --pairs intact.jsonl removed.jsonl
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import make_parser, report

from t5_pegasus import PegasusTokenizer, build_model, cli
from t5_pegasus.decoding.inputs import pad
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.training import open_pairs
from t5_pegasus.training.loss import head_loss
from t5_pegasus.training.pairs import PairSource
from t5_pegasus.training.step import split_head

BATCH = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each file and source."""
    parser = make_parser("Compare a model's titles under their own source and another's.", repeated=False)
    parser.add_argument("--model_dir", required=True, help="config.json, vocab.txt and, without --weights, weights")
    parser.add_argument("--weights", help="those of model_dir if not given")
    parser.add_argument("--pairs", required=True, nargs="+", type=Path, help="what pretrain.py reads")
    cli.add_flags(parser, DataConfig, only=("max_source_length", "max_target_length"))
    parser.set_defaults(max_source_length=192, max_target_length=64)
    flags = parser.parse_args(argv)
    data = cli.config_from(flags, DataConfig)
    tokenizer = PegasusTokenizer(Path(flags.model_dir) / "vocab.txt")
    files = {path.stem: open_pairs(path, tokenizer, data) for path in flags.pairs}
    t5 = build_model(flags.model_dir, flags.weights, with_lm="linear")
    result = {name: measure(t5, pairs) for name, pairs in files.items()}
    for name, found in result.items():
        print(name, found)
    report({"benchmark": "copying", **result}, ("tensorflow", "bert4keras"), flags.output)
    return 0


def measure(t5: Any, pairs: PairSource) -> dict[str, Any]:
    """Return the number of pairs and, by source, mean loss (nats) and accuracy of a token, given those before it."""
    network, kernel = split_head(t5)
    found: dict[str, Any] = {"pairs": len(pairs)}
    for name, shift in (("own", 0), ("another's", 1)):
        loss = right = 0.0
        for start in range(0, len(pairs), BATCH):
            rows = range(start, min(start + BATCH, len(pairs)))
            sources = pad([pairs[(row + shift) % len(pairs)][0] for row in rows])
            targets = pad([pairs[row][1] for row in rows])
            head = head_loss(network([sources, targets[:, :-1]], training=False), kernel, targets[:, 1:], 1.0)
            loss, right = loss + float(head.loss), right + float(head.right)
        count = int((pairs.lengths[:, 1] - 1).sum())  # all but [CLS]
        found[name] = {"loss": round(loss / count, 3), "accuracy": round(right / count, 3)}
    return found


if __name__ == "__main__":
    cli.run(main)
