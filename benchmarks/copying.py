r"""Does a model read its source? Loss and accuracy of titles, token by token, under their own source and another's.

A model that only knows the language does no better with the one than with the other; one that copies is right wherever
the source has the title. Pairs of texts that the model has not seen, with gap sentences left in and taken out:

    python pretrain_data.py --input_file unseen.txt --output_file intact.jsonl --sentence_split sentences \
        --max_length 96 --mask_rates 0,0,1,0
    python pretrain_data.py ... --output_file removed.jsonl --mask_rates 0,0,0,1
    python benchmarks/copying.py --model_dir pretrained --pairs intact.jsonl removed.jsonl

The share of a sentence's tokens that a model gets right from the fourth on, where its source has the sentence: of
abstracts of one subject, of all sciences, and of random characters, which cannot be guessed:

    python benchmarks/copying.py --model_dir chinese_t5_pegasus_tiny --sets
"""

import random
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import make_parser, report, require_public_data
from tiny_pairs import held_out_sciences

from t5_pegasus import PegasusTokenizer, build_model, cli, read_examples
from t5_pegasus.decoding.inputs import pad
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.training import open_pairs
from t5_pegasus.training.loss import head_loss
from t5_pegasus.training.pairs import PairSource
from t5_pegasus.training.step import split_head

BATCH = 32
COPIES = 150  # pairs of each set
SKIPPED = 3  # tokens that say which sentence it is
_SENTENCE_END = re.compile(r"(?<=[。！？])|(?<=[^0-9a-zA-Z]\.)")
_SHORTEST_SENTENCE = 12  # characters

Pair = tuple[list[int], list[int]]  # source and target


def abstracts(contents: Sequence[str], tokenizer: PegasusTokenizer, data: DataConfig) -> list[Pair]:
    """Return contents, each with one of its sentences."""
    draw, pairs = random.Random(5), []
    for content in contents:
        sentences = [part for part in _SENTENCE_END.split(content) if len(part) > _SHORTEST_SENTENCE]
        if len(sentences) > 1:
            target = tokenizer.encode(draw.choice(sentences), data.max_target_length)
            pairs.append((tokenizer.encode(content, data.max_source_length), target))
    return pairs


def random_characters(tokenizer: PegasusTokenizer) -> list[Pair]:
    """Return sources of 40 to 200 random Chinese characters, each with a run of 12 to 30 of them."""
    draw, pairs = random.Random(5), []
    characters = [index for index, token in enumerate(tokenizer.tokens) if re.fullmatch("[\u4e00-\u9fff]", token)]
    start, end = [tokenizer.start_id], [tokenizer.end_id]
    for _ in range(COPIES):
        source = draw.choices(characters, k=draw.randrange(40, 200))
        first = draw.randrange(len(source) - 30)
        target = source[first : first + draw.randrange(12, 30)]
        pairs.append((start + source + end, start + target + end))
    return pairs


SETS: dict[str, Callable[[Path, PegasusTokenizer, DataConfig], list[Pair]]] = {
    "csl/test": lambda folder, *how: abstracts(
        [each.content for each in read_examples(folder / "csl" / "test.tsv")][:COPIES], *how
    ),
    "sciences": lambda folder, *how: abstracts([each.content for each in held_out_sciences(folder)[0]][:COPIES], *how),
    "random characters": lambda folder, tokenizer, data: random_characters(tokenizer),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Print a line for each file and source."""
    parser = make_parser("Compare a model's titles under their own source and another's.", repeated=False)
    parser.add_argument("--model_dir", required=True, help="config.json, vocab.txt and, without --weights, weights")
    parser.add_argument("--weights", help="those of model_dir if not given")
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--pairs", nargs="+", type=Path, help="what pretrain.py reads")
    what.add_argument("--sets", nargs="*", choices=tuple(SETS), help="share of tokens copied; all if none is named")
    cli.add_flags(parser, DataConfig, only=("max_source_length", "max_target_length"))
    parser.set_defaults(max_source_length=256, max_target_length=64)
    flags = parser.parse_args(argv)
    data = cli.config_from(flags, DataConfig)
    tokenizer = PegasusTokenizer(Path(flags.model_dir) / "vocab.txt")
    t5 = build_model(flags.model_dir, flags.weights, with_lm="linear")
    result: dict[str, Any]
    if flags.pairs is not None:
        result = {path.stem: measure(t5, open_pairs(path, tokenizer, data)) for path in flags.pairs}
    else:
        folder = require_public_data()
        result = {name: copied(t5, tokenizer, SETS[name](folder, tokenizer, data)) for name in flags.sets or SETS}
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


def copied(t5: Any, tokenizer: PegasusTokenizer, pairs: Sequence[Pair]) -> dict[str, Any]:
    """Return the share of tokens that are right from the fourth on, given those before; words and characters apart.

    A token is a character's where the one before it is a single character too.
    """
    network, kernel = split_head(t5)
    right, single = list[bool](), list[bool]()
    for start in range(0, len(pairs), BATCH):
        sources, targets = (pad([pair[side] for pair in pairs[start : start + BATCH]]) for side in (0, 1))
        hidden = np.asarray(network([sources, targets[:, :-1]], training=False))  # [rows, length, hidden_size]
        chosen = (hidden @ np.asarray(kernel)).argmax(-1)
        for row, (_, target) in enumerate(pairs[start : start + BATCH]):
            for at in range(1 + SKIPPED, len(target) - 1):  # neither [CLS] nor [SEP]
                right.append(bool(chosen[row, at - 1] == target[at]))
                single.append(all(len(tokenizer.tokens[index]) == 1 for index in target[at - 1 : at + 1]))
    hits, alone = np.array(right), np.array(single)
    groups = {"all": np.ones_like(alone), "words": ~alone, "characters": alone}
    return {"pairs": len(pairs)} | {
        name: round(float(hits[group].mean()), 4) for name, group in groups.items() if group.any()
    }


if __name__ == "__main__":
    cli.run(main)
