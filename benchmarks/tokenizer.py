"""How fast texts become token ids: ours against bert4keras's tokenizer with jieba, on one core.

Reads every line of CSL (title, abstract) in the folder T5_PEGASUS_DATA with the official vocabulary, or of data/ with
the tiny one where that is not set. Both sides have loaded their dictionary before; "cold" is ours meeting each word for
the first time, "warm" ours with every word remembered, as it is after the first pages of any corpus.
"""

import importlib
from collections.abc import Sequence

import jieba
from common import make_parser, median_seconds, print_table, public_data, report

from t5_pegasus.cli import run
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR
from t5_pegasus.networks.backend import bert4keras
from t5_pegasus.text.tokenizer import PegasusTokenizer


def main(argv: Sequence[str] | None = None) -> int:
    """Time both on the same lines, and fail where their ids differ."""
    flags = make_parser(__doc__ or "").parse_args(argv)
    data = public_data()
    files = sorted((data / "csl" if data else DATA_DIR).glob("*.tsv"))
    vocab_file = data / "vocab" / "chinese_t5_pegasus.vocab.txt" if data else TINY_MODEL_DIR / "vocab.txt"
    lines = [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]
    characters = sum(map(len, lines))

    def loaded() -> PegasusTokenizer:
        tokenizer = PegasusTokenizer(vocab_file)
        tokenizer.encode("")
        return tokenizer

    jieba.setLogLevel("WARNING")
    segmenter = jieba.Tokenizer()
    segmenter.initialize()
    stock = importlib.import_module(f"{bert4keras.__name__}.tokenizers").Tokenizer(
        str(vocab_file), do_lower_case=True, pre_tokenize=lambda text: segmenter.cut(text, HMM=False)
    )
    warm, cold = loaded(), [loaded() for _ in range(flags.repeats + 1)]
    seconds = median_seconds(
        {
            "bert4keras_jieba": lambda: [stock.encode(line)[0] for line in lines],
            "ours_cold": lambda: cold.pop().encode_batch(lines),
            "ours_warm": lambda: warm.encode_batch(lines),
        },
        flags.repeats,
    )
    same_ids = warm.encode_batch(lines) == loaded().encode_batch(lines) == [stock.encode(line)[0] for line in lines]
    speeds = {name: characters / value for name, value in seconds.items()}
    print_table(f"{len(lines)} lines, {characters} characters", speeds, "characters/s")
    result = {
        "benchmark": "tokenizer",
        "data": files[0].parent.name,
        "lines": len(lines),
        "characters": characters,
        "characters_per_second": {name: round(speed) for name, speed in speeds.items()},
        "times_as_fast_cold": round(seconds["bert4keras_jieba"] / seconds["ours_cold"], 2),
        "times_as_fast_warm": round(seconds["bert4keras_jieba"] / seconds["ours_warm"], 2),
        "same_ids": same_ids,
        "repeats": flags.repeats,
    }
    report(result, ("bert4keras", "jieba", "rjieba"), flags.output)
    return 0 if same_ids else 1


if __name__ == "__main__":
    run(main)
