r"""Does a model read its source? Loss and accuracy of titles, token by token, under their own source and another's.

A model that only knows the language does no better with the one than with the other; one that copies is right wherever
the source has the title. Pairs of texts that the model has not seen, with gap sentences left in and taken out:

    python pretrain_data.py --input_file unseen.txt --output_file intact.jsonl --sentence_split sentences \
        --max_length 96 --mask_rates 0,0,1,0
    python pretrain_data.py ... --output_file removed.jsonl --mask_rates 0,0,0,1
    python benchmarks/copying.py --model_dir pretrained --pairs intact.jsonl removed.jsonl
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import make_parser, report

from t5_pegasus import PegasusTokenizer, build_model, read_examples
from t5_pegasus.backend import tf
from t5_pegasus.batching import pad
from t5_pegasus.cli import run

BATCH = 32


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each file and source."""
    parser = make_parser("Compare a model's titles under their own source and another's.")
    parser.add_argument("--model_dir", required=True, help="config.json, vocab.txt and, without --weights, weights")
    parser.add_argument("--weights", help="those of model_dir if not given")
    parser.add_argument("--pairs", required=True, nargs="+", type=Path, help="files that finetune.py reads")
    parser.add_argument("--max_source_length", type=int, default=192, help="tokens of a source")
    parser.add_argument("--max_target_length", type=int, default=64, help="tokens of a title")
    flags = parser.parse_args(argv)
    t5 = build_model(flags.model_dir, flags.weights, with_lm="linear")
    tokenizer = PegasusTokenizer(Path(flags.model_dir) / "vocab.txt")
    result = {path.stem: measure(t5, tokenizer, path, flags) for path in flags.pairs}
    report({"benchmark": "copying", **result}, ("tensorflow", "bert4keras"), flags.output)
    return 0


def measure(t5: Any, tokenizer: PegasusTokenizer, path: Path, flags: argparse.Namespace) -> dict[str, Any]:
    """Return the number of pairs and, by source, mean loss (nats) and accuracy of a token, given those before it."""
    examples = list(read_examples(path, keep_duplicates=True))
    sources = tokenizer.encode_batch([example.content for example in examples], flags.max_source_length)
    targets = tokenizer.encode_batch([example.title for example in examples], flags.max_target_length)
    found: dict[str, Any] = {"pairs": len(examples)}
    for name, shift in (("own", 0), ("another's", 1)):
        loss = right = count = 0.0
        for start in range(0, len(examples), BATCH):
            rows = [(row + shift) % len(examples) for row in range(start, min(start + BATCH, len(examples)))]
            target = pad(targets[start : start + BATCH])
            logits = t5.model([pad([sources[row] for row in rows]), target[:, :-1]], training=False)
            wanted, real = target[:, 1:], target[:, 1:] != 0
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(wanted, logits).numpy()
            loss += losses[real].sum()
            right += (logits.numpy().argmax(axis=-1) == wanted)[real].sum()
            count += real.sum()
        found[name] = {"loss": round(float(loss / count), 3), "accuracy": round(float(right / count), 3)}
        print(path.stem, name, found[name], flush=True)
    return found


if __name__ == "__main__":
    run(main)
