"""Write the tables of docs/performance.md and its Chinese page from what benchmarks/decoding.py has measured.

python benchmarks/tables.py            # between the markers of each page
python benchmarks/tables.py --check    # exit code 1 if a page is not up to date
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import common  # noqa: F401  makes t5_pegasus importable
from decoding_summary import HUGGING_FACE

from t5_pegasus import cli
from t5_pegasus.errors import DataError
from t5_pegasus.files import atomic_text
from t5_pegasus.locations import ROOT

RESULTS = ROOT / "benchmarks" / "results" / "decoding_base.json"
BEGIN, END = "<!-- made by benchmarks/tables.py -->", "<!-- end of what benchmarks/tables.py made -->"
# Hugging Face's architectures, by the names of their folders.
SHAPES = {
    "flan-t5-base": RESULTS.with_name("decoding_flan_t5.json"),
    "uer-pegasus-base": RESULTS.with_name("decoding_pegasus.json"),
}
SHAPES_BEGIN = "<!-- made by benchmarks/tables.py of Hugging Face's models -->"
SHAPES_END = "<!-- end of Hugging Face's models -->"

# The words of the tables, by file.
WORDS = {
    "docs/performance.md": {
        "cell": "tokens, texts, beams",
        "step": "Milliseconds per decoder step; in brackets, the share of the speed that memory bandwidth allows:",
        "call": "Texts per second, encoder included:",
        "shape": "model, texts, beams",
        "goals": "| ours / peer, time | goal | reached | |",
        "met": "met",
        "missed": "missed",
        "none": "not measured",
        "machine": "Measured on {processor}, {cores} cores ({instructions}), reading {bandwidth} GB/s; {versions}.",
    },
    "docs/zh/performance.md": {
        "cell": "token 数，文本数，beam 数",
        "step": "解码每一步的毫秒数；括号内是达到内存带宽上限的百分比：",
        "call": "每秒处理的文本数，含编码器：",
        "shape": "模型，文本数，beam 数",
        "goals": "| 本项目 / 对手（时间） | 目标 | 实测 | |",
        "met": "达到",
        "missed": "未达到",
        "none": "未测",
        "machine": "测试机器：{processor}，{cores} 核（{instructions}），内存读取 {bandwidth} GB/s；{versions}。",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Write or check the tables."""
    parser = cli.make_parser("Write the tables of docs/performance.md.")
    parser.add_argument("--results", default=str(RESULTS), help="what benchmarks/decoding.py wrote of the base size")
    parser.add_argument("--check", action="store_true", help="change nothing; exit code 1 if a table is not up to date")
    flags = parser.parse_args(argv)
    result, shapes = read(Path(flags.results)), {name: read(path) for name, path in SHAPES.items()}
    codes = [
        update_pages({name: tables(result, words) for name, words in WORDS.items()}, flags.check),
        update_pages(
            {name: shape_table(shapes, words) for name, words in WORDS.items()}, flags.check, (SHAPES_BEGIN, SHAPES_END)
        ),
    ]
    return max(codes)


def read(path: Path) -> dict[str, Any]:
    """Return what benchmarks/decoding.py wrote. Raises DataError if it is not there or not whole."""
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path}: {error}") from error
    if "summary" not in result:
        raise DataError(f"{path} has no summary: run benchmarks/decoding.py to its end")
    return result


def update_pages(sections: Mapping[str, str], check: bool, markers: tuple[str, str] = (BEGIN, END)) -> int:
    """Write the section of each page, by its path in the repository, or with `check` only look; return the exit code.

    Raises DataError if a page lacks a marker.
    """
    stale = []
    for name, section in sections.items():
        path = ROOT / name
        old = path.read_text(encoding="utf-8")
        new = replace_section(old, section, name, markers)
        if new != old:
            stale.append(name)
            if not check:
                with atomic_text(path) as file:
                    file.write(new)
    print(f"{'not up to date' if check else 'written'}: {', '.join(stale)}" if stale else "up to date")
    return 1 if stale and check else 0


def replace_section(text: str, section: str, name: str, markers: tuple[str, str] = (BEGIN, END)) -> str:
    """Return the text with the section between the markers replaced. Raises DataError if a marker is missing."""
    before, begin, rest = text.partition(markers[0])
    _, end, after = rest.partition(markers[1])
    if not begin or not end:
        raise DataError(f"{name} must have the lines {' and '.join(markers)}")
    return f"{before}{begin}\n\n{section}\n{end}{after}"


def tables(result: dict[str, Any], words: dict[str, str]) -> str:
    """Return the tables in Markdown: steps, whole calls, goals, and the machine."""
    summary = result["summary"]
    sides = list(dict.fromkeys(side for cell in summary["cells"] for side in cell["sides"]))

    def table(entry: Any) -> list[str]:
        head = [f"| {' | '.join([words['cell'], *sides])} |", f"|{'---|' * (len(sides) + 1)}"]
        rows = [
            [
                "{source_length} → {new_tokens}, {batch}, {beams}".format(**cell),
                *(entry(cell, cell["sides"][side]) if side in cell["sides"] else "–" for side in sides),
            ]
            for cell in summary["cells"]
        ]
        return [*head, *(f"| {' | '.join(row)} |" for row in rows), ""]

    def step(cell: dict[str, Any], side: dict[str, Any]) -> str:
        share = side.get("bandwidth_share")
        return number(side["step_ms"]) + (f" ({share:.0%})" if share is not None else "")

    def texts(cell: dict[str, Any], side: dict[str, Any]) -> str:
        return number(cell["batch"] / side["call_ms"] * 1e3)

    lines = [words["step"], "", *table(step), words["call"], "", *table(texts), words["goals"], "|---|---|---|---|"]
    for goal in summary["goals"]:
        met = {True: words["met"], False: words["missed"], None: words["none"]}[goal["met"]]
        reached = "–" if goal["reached"] is None else number(goal["reached"])
        lines.append(f"| {goal['goal']} | ≤ {number(goal['limit'])} | {reached} | {met} |")
    return "\n".join([*lines, "", measured_on(result, result["prints"].values(), words), ""])


def measured_on(result: dict[str, Any], prints: Iterable[Mapping[str, Any]], words: dict[str, str]) -> str:
    """Return the sentence of the machine and of the versions of some sides."""
    versions = {name: version for print_ in prints for name, version in print_.items() if name != "code" and version}
    machine = result["settings"]["machine"]
    return words["machine"].format(
        processor=machine["processor"],
        cores=machine["cores"],
        instructions=", ".join(machine["instructions"]),
        bandwidth=result["summary"].get("bandwidth_gb_per_second", "–"),
        versions=", ".join(f"{name} {version}" for name, version in sorted(versions.items())),
    )


def shape_table(results: Mapping[str, dict[str, Any]], words: dict[str, str]) -> str:
    """Return the table of whole calls, in milliseconds and as shares of Hugging Face's, and the machine of each."""
    ours = ("onnx float32", "onnx int8")
    columns = [name for side in ours for name in (f"{side} (ms)", f"/ {HUGGING_FACE}")]
    head = [words["shape"], f"{HUGGING_FACE} (ms)", *columns]
    lines = [f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
    machines = []
    for name, result in results.items():
        for cell in sorted(result["summary"]["cells"], key=lambda cell: (cell["batch"], cell["beams"])):
            call = {side: found["call_ms"] for side, found in cell["sides"].items()}
            theirs = call.get(HUGGING_FACE)
            numbers = [f"{theirs:.0f}" if theirs else "–"]
            for side in ours:
                numbers.append(f"{call[side]:.0f}" if side in call else "–")
                numbers.append(f"{call[side] / theirs:.2f}" if side in call and theirs else "–")
            lines.append(f"| {name}, {cell['batch']}, {cell['beams']} | {' | '.join(numbers)} |")
        prints = [result["prints"][side] for side in (HUGGING_FACE, *ours)]
        machines.append(measured_on(result, prints, words))
    return "\n\n".join(["\n".join(lines), *dict.fromkeys(machines)]) + "\n"


def number(value: float) -> str:
    """Return a number as a table has it: three digits, or all before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


if __name__ == "__main__":
    cli.run(main)
