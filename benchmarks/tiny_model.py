"""The shipped model's titles: scores with intervals, and what goes wrong how often; the tables of its model card.

    python benchmarks/tiny_model.py --output benchmarks/results/tiny_model.json
    python benchmarks/tiny_model.py --card        # writes the tables of chinese_t5_pegasus_tiny/README*.md
    python benchmarks/tiny_model.py --ship one/model.ckpt two/model.ckpt    # makes their mean the shipped model
    python benchmarks/tiny_model.py --record      # writes the titles that tests/test_shipped_model.py expects

Test sets are in the folder that T5_PEGASUS_DATA names (see CONTRIBUTING.md) and in data/. Every title is written with
the model's own generation_config.json unless --options says otherwise.
"""

import json
import random
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from common import make_parser, report, require_public_data
from tables import update_pages
from tiny_pairs import held_out_sciences, lctt_articles

from t5_pegasus import AutoTitle, cli, read_examples
from t5_pegasus.data.examples import Example
from t5_pegasus.engines.exported import SHIPPED, file_hash
from t5_pegasus.files import atomic_folder, atomic_path, atomic_text
from t5_pegasus.locations import DATA_DIR, ROOT, TINY_MODEL_DIR, Weights
from t5_pegasus.metrics import score_each

RECORDED = ROOT / "tests" / "golden" / "tiny_titles.json"
RESULTS = ROOT / "benchmarks" / "results" / "tiny_model.json"
BEGIN, END = "<!-- made by benchmarks/tiny_model.py -->", "<!-- end of what benchmarks/tiny_model.py made -->"
RESAMPLES = 2000
SHOWN = 20
_LOOP = 4  # characters that occur again
_LONG = 40  # characters of a first sentence that is copied whole

# What is scored: the examples of each set, by name.
SETS: dict[str, Callable[[Path], list[Example]]] = {
    "csl/test": lambda folder: list(read_examples(folder / "csl" / "test.tsv")),
    "csl/dev": lambda folder: list(read_examples(folder / "csl" / "dev.tsv")),
    "sciences": lambda folder: held_out_sciences(folder)[0],
    "lctt/test": lambda folder: lctt_articles(folder, "test"),
    "data/test": lambda folder: list(read_examples(DATA_DIR / "test.tsv")),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Score the model, or write the tables of its card."""
    parser = make_parser("Score the shipped model's titles.", repeated=False)
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, help="model to score")
    parser.add_argument("--weights", help="weights to score; the pretrained ones of the model if not given")
    parser.add_argument("--engine", default="auto", help="as of test.py")
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=tuple(SETS), help="test sets")
    parser.add_argument("--options", default="{}", help="generation options as JSON; the model's own if not given")
    parser.add_argument(
        "--ship",
        nargs="+",
        help="only make these weights, or the mean of several, the shipped model's: float16 and int8",
    )
    parser.add_argument("--record", action="store_true", help="only write the titles that the model's test expects")
    parser.add_argument("--card", action="store_true", help="only write the model card's tables from the results file")
    flags = parser.parse_args(argv)
    if flags.card:
        write_cards(json.loads(RESULTS.read_text(encoding="utf-8")))
        return 0
    if flags.record:
        record()
        return 0
    if flags.ship is not None:
        ship(flags.ship)
        return 0
    folder = require_public_data()
    title = AutoTitle.load(flags.model_dir, flags.weights or Weights.PRETRAINED, flags.engine)
    options = json.loads(flags.options)
    sets = {name: measure(title, SETS[name](folder), options) for name in flags.sets}
    for name, found in sets.items():
        print(name, {key: value for key, value in found.items() if key != "examples"})
    report({"benchmark": "tiny_model", "options": options, "sets": sets}, ("numpy", "onnxruntime"), flags.output)
    return 0


def ship(weights: Sequence[str]) -> None:
    """Write model.safetensors, in float16 and without the tied head, and exported/, and the hash to the model cards.

    Of several weights the mean is taken.
    """
    import safetensors.numpy

    from t5_pegasus.engines.onnx_export import write_export
    from t5_pegasus.networks.checkpoints import save_weights
    from t5_pegasus.networks.t5 import build_model

    target, exported = TINY_MODEL_DIR / "model.safetensors", TINY_MODEL_DIR / SHIPPED
    with tempfile.TemporaryDirectory() as temporary:
        whole = Path(temporary) / "model.safetensors"
        trained = []
        for checkpoint in weights:
            save_weights(build_model(TINY_MODEL_DIR, checkpoint), whole)
            trained.append(safetensors.numpy.load_file(whole))
        values = {name: np.mean([each[name] for each in trained], axis=0) for name in trained[0]}
        with atomic_path(target) as file:
            safetensors.numpy.save_file({name: value.astype(np.float16) for name, value in values.items()}, file)
    t5 = build_model(TINY_MODEL_DIR, target)  # the rounded weights, which the Keras engine runs
    with atomic_folder(exported, check=lambda _: None) as folder:  # whatever was exported before
        write_export(t5, TINY_MODEL_DIR / "vocab.txt", folder, "int8", target)
    for name in WORDS:
        path = TINY_MODEL_DIR / name
        text = re.sub("`[0-9a-f]{64}`", f"`{file_hash(target)}`", path.read_text(encoding="utf-8"))
        with atomic_text(path) as card:
            card.write(text)


def record() -> None:
    """Write the Keras engine's titles of some texts of data/."""
    examples = [each for name in ("abstracts", "test") for each in read_examples(DATA_DIR / f"{name}.tsv")]
    contents = [example.content for example in examples[:SHOWN]]
    titles = AutoTitle.load(TINY_MODEL_DIR, Weights.PRETRAINED, "keras").generate(contents)
    rows = [{"content": content, "title": title} for content, title in zip(contents, titles, strict=True)]
    with atomic_text(RECORDED) as file:
        file.write(json.dumps(rows, ensure_ascii=False, indent=1) + "\n")


def measure(title: AutoTitle, examples: Sequence[Example], options: dict[str, Any]) -> dict[str, Any]:
    """Return scores in percent, each with its 95 % interval, those of the first clause, and shares of faults."""
    contents, references = [each.content for each in examples], [each.title for each in examples]
    start = time.perf_counter()
    titles = title.generate(contents, **options)
    seconds = time.perf_counter() - start
    read = [title.tokenizer.decode(ids) for ids in title.tokenizer.encode_batch(contents)]
    chosen = random.Random(0).sample(range(len(examples)), min(SHOWN, len(examples)))
    faults = {
        "stutters": [stutters(text, source) for text, source in zip(titles, read, strict=True)],
        "empty": [not text for text in titles],
        "loops": [loops(text) for text in titles],
        "long copies": [
            len(text) > _LONG and first_sentence(text) == first_sentence(source)
            for text, source in zip(titles, read, strict=True)
        ],
    }
    return {
        "rows": len(examples),
        "scores": intervals(score_each(titles, references)),
        "first clause": intervals(score_each([first_clause(text) for text in contents], references)),
        "faults": {name: round(100 * sum(found) / len(found), 2) for name, found in faults.items()},
        "loops of references": round(100 * sum(map(loops, references)) / len(references), 2),
        "seconds": round(seconds, 2),
        "examples": [{"title": references[row], "written": titles[row]} for row in chosen],
    }


def intervals(scores: Sequence[dict[str, float]]) -> dict[str, list[float]]:
    """Return [mean, low, high] of each score in percent: the mean, and its 95 % interval by bootstrap."""
    values = np.array([list(each.values()) for each in scores])  # [texts, scores]
    rows = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    means = np.array([values[chosen].mean(axis=0) for chosen in rows])  # [resamples, scores]
    low, high = np.percentile(means, (2.5, 97.5), axis=0)
    columns = zip(scores[0], values.mean(axis=0), low, high, strict=True)
    return {name: [round(100 * float(value), 2) for value in found] for name, *found in columns}


def stutters(title: str, source: str) -> bool:
    """Return whether a character, word or span is written twice or more in a row that the source does not repeat."""
    return any(
        match[0] not in source and not match[1].isdigit() and bool(match[1].strip(" .-/"))
        for match in re.finditer(r"(.{1,8}?)\1+", title)
    )


def loops(title: str) -> bool:
    """Return whether four characters in a row occur again."""
    runs = [title[start : start + _LOOP] for start in range(len(title) - _LOOP + 1)]
    return len(set(runs)) < len(runs)


def first_clause(text: str) -> str:
    """Return the text up to its first comma or stop."""
    return re.split("[，。；：,;:！？]", text.strip(), maxsplit=1)[0]


def first_sentence(text: str) -> str:
    """Return the text up to its first stop, without it."""
    return re.split("[。！？]", text.strip(), maxsplit=1)[0]


# The words of a card's tables, by file.
WORDS = {
    "README.md": {
        "scores": "| test set | rows | ROUGE-1 | ROUGE-2 | ROUGE-L | 95 % interval | BLEU | first clause, ROUGE-L |",
        "faults": "| test set | stutters | empty | loops | long copies | references that loop |",
        "examples": "| reference | written |",
    },
    "README.zh-CN.md": {
        "scores": "| 测试集 | 条数 | ROUGE-1 | ROUGE-2 | ROUGE-L | 95% 区间 | BLEU | 首个分句的 ROUGE-L |",
        "faults": "| 测试集 | 口吃 | 空标题 | 循环 | 照抄长句 | 参考标题循环 |",
        "examples": "| 参考标题 | 模型所写 |",
    },
}


def write_cards(result: dict[str, Any]) -> None:
    """Write the tables between the markers of each model card."""
    cards = {f"{TINY_MODEL_DIR.name}/{name}": tables(result, words) for name, words in WORDS.items()}
    update_pages(cards, check=False, markers=(BEGIN, END))


def tables(result: dict[str, Any], words: dict[str, str]) -> str:
    """Return the tables of scores, of faults and of titles that were drawn at random, not chosen."""
    lines = _head(words["scores"])
    for name, found in result["sets"].items():
        means = {metric: values[0] for metric, values in found["scores"].items()}
        low, high = found["scores"]["rouge-l"][1:]
        cells = [name, found["rows"], *(f"{means[metric]:.1f}" for metric in ("rouge-1", "rouge-2", "rouge-l"))]
        cells += [f"{low:.1f}–{high:.1f}", f"{means['bleu']:.1f}", f"{found['first clause']['rouge-l'][0]:.1f}"]
        lines.append(_row(cells))
    lines += ["", *_head(words["faults"])]
    for name, found in result["sets"].items():
        shares = [*found["faults"].values(), found["loops of references"]]
        lines.append(_row([name, *(f"{share:.1f} %" for share in shares)]))
    lines += ["", *_head(words["examples"])]
    for example in result["sets"]["sciences"]["examples"]:
        lines.append(_row([example["title"].replace("|", "\\|"), example["written"].replace("|", "\\|")]))
    return "\n".join(lines) + "\n"


def _head(words: str) -> list[str]:
    return [words, "|---" * (words.count("|") - 1) + "|"]


def _row(cells: Sequence[Any]) -> str:
    return f"| {' | '.join(map(str, cells))} |"


if __name__ == "__main__":
    cli.run(main)
