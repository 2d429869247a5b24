"""Where the time of one title goes: the shipped model's int8 export, an abstract of some 256 tokens, greedy.

    python benchmarks/tiny_speed.py --output benchmarks/results/tiny_speed.json

The abstracts are those of CSL's test set (in the folder that T5_PEGASUS_DATA names) whose length is nearest to 256
tokens. They are titled one after the other, from text to title. Of each call, `encoder` is `OnnxEngine.start`, `steps`
are `OnnxEngine.step`, and the rest are tokenizing, search and spelling. Medians of the runs.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

from common import make_parser, print_table, report, require_public_data

from t5_pegasus import AutoTitle, cli, read_examples
from t5_pegasus.engines.exported import SHIPPED
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import TINY_MODEL_DIR

TOKENS, TEXTS = 256, 12


class Clock:
    """Adds up the seconds of calls, by name, and counts them."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self.calls: dict[str, int] = {}

    def timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, timed under a name."""
        self.seconds[name], self.calls[name] = 0.0, 0

        def call(*arguments: Any) -> Any:
            start = time.perf_counter()
            result = function(*arguments)
            self.seconds[name] += time.perf_counter() - start
            self.calls[name] += 1
            return result

        return call


def main(argv: Sequence[str] | None = None) -> int:
    """Time the titles and print where the time goes."""
    parser = make_parser("Time titles of the shipped model, and their parts.")
    parser.add_argument("--model_dir", default=str(TINY_MODEL_DIR / SHIPPED), help="exported model to time")
    flags = parser.parse_args(argv)
    if flags.repeats < 1:
        raise OptionError(f"repeats must be at least 1, got {flags.repeats}")
    title = AutoTitle.load(flags.model_dir)
    lengths = {
        pair.content: len(title.tokenizer.encode(pair.content))
        for pair in read_examples(require_public_data() / "csl" / "test.tsv")
    }
    texts = sorted(lengths, key=lambda text: (abs(lengths[text] - TOKENS), text))[:TEXTS]
    runs = [run(title, texts) for _ in range(flags.repeats + 1)][1:]
    parts = {name: statistics.median(each[name] for each in runs) for name in runs[0]}
    print_table(f"{len(texts)} abstracts of {TOKENS} tokens, text to title, greedy", parts, "ms or steps")
    result = {"benchmark": "tiny_speed", "texts": len(texts), "repeats": flags.repeats, **parts}
    report(result, ["onnxruntime", "numpy"], flags.output)
    return 0


def run(title: AutoTitle, texts: Sequence[str]) -> dict[str, float]:
    """Title the texts one by one; return milliseconds a title, whole and in parts, and the number of steps."""
    engine, clock = title.decoder.engine, Clock()  # type: ignore[attr-defined]
    engine.start, engine.step = clock.timed("encoder", engine.start), clock.timed("steps", engine.step)
    try:
        start = time.perf_counter()
        for text in texts:
            title.generate(text, num_beams=1)
        call = time.perf_counter() - start
    finally:
        del engine.start, engine.step
    found = {"call": call, **clock.seconds, "rest": call - sum(clock.seconds.values())}
    milliseconds = {f"{name}_ms": round(value / len(texts) * 1e3, 3) for name, value in found.items()}
    return {**milliseconds, "number_of_steps": round(clock.calls["steps"] / len(texts), 2)}


if __name__ == "__main__":
    cli.run(main)
