"""From the runs of `decoding.py` to medians, ratios, shares of the bandwidth limit, and goals. No measuring here."""

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from t5_pegasus.config import T5_PEGASUS

Runs = Mapping[str, list[dict[str, Any]]]

STOCK, HUGGING_FACE = "bert4keras", "Hugging Face"
PEERS = {"onnx float32": (STOCK, HUGGING_FACE, "CTranslate2 float32"), "onnx int8": ("CTranslate2 int8",)}
INT8 = ("CTranslate2 int8", "onnx int8")
GATED = ("gelu", "linear")


class Cell(NamedTuple):
    """Tokens of each source, new tokens of each title, sources at a time, beams."""

    source_length: int
    new_tokens: int
    batch: int
    beams: int

    @property
    def key(self) -> str:
        """Return the name under which its runs are kept."""
        return "-".join(map(str, self))


HEADLINE = Cell(256, 32, 1, 1)


def summarize(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the runs say, in milliseconds, megabytes and ratios; a part without runs is left out.

    Args:
        state: `settings` and `runs` of the output file.
    """
    runs: Runs = state["runs"]
    summary: dict[str, Any] = {}
    bandwidth = median(run["bytes_per_second"] for run in runs.get("bandwidth|machine", []))
    if bandwidth:
        summary["bandwidth_gb_per_second"] = round(bandwidth / 1e9, 1)
    summary["cells"] = [_cell(cell, runs, state["settings"]["model"], bandwidth) for cell in _cells(runs)]
    for name, part, factor in (("peak_mb", "peak", 1e-6), ("load_seconds", "load", 1)):
        found = {side: run[-1][part] * factor for side, run in _sides(runs, "memory").items()}
        if found:
            summary[name] = {side: round(value, 1) for side, value in found.items()}
    summary |= _single_figures(runs)
    summary["goals"] = goals(summary, state["settings"]["model"])
    return summary


def median(values: Iterable[float]) -> float:
    """Return the median, or 0 of nothing."""
    found = list(values)
    return statistics.median(found) if found else 0.0


def _sides(runs: Runs, what: str) -> dict[str, list[dict[str, Any]]]:
    return {
        side: found
        for name, _, side in (key.partition("|") for key in runs)
        if name == what
        for found in [runs[f"{what}|{side}"]]
    }


def _cells(runs: Runs) -> list[Cell]:
    """Return the cells there are runs of, in the order of measuring."""
    names = dict.fromkeys(key.partition("|")[0] for key in runs)
    return [Cell(*map(int, parts)) for parts in (name.split("-") for name in names) if len(parts) == 4]


def _cell(cell: Cell, runs: Runs, model: Mapping[str, Any], bandwidth: float) -> dict[str, Any]:
    sides = {}
    for side, found in _sides(runs, cell.key).items():
        decoder = median(run["call"] - run["first"] for run in found)
        step = decoder / (cell.new_tokens - 1)
        call = median(run["call"] for run in found)
        sides[side] = {
            "encoder_ms": round(median(run.get("encoder", run["first"] - step) for run in found) * 1e3, 2),
            "decoder_ms": round(decoder * 1e3, 2),
            "step_ms": round(step * 1e3, 3),
            "call_ms": round(call * 1e3, 2),
            "tokens_per_second": round(cell.batch * cell.new_tokens / call, 1),
            "runs": len(found),
        }
        if bandwidth:
            limit = step_bytes(cell, model, 1 if side in INT8 else 4) / bandwidth
            sides[side]["bandwidth_share"] = round(limit / step, 3)
    return {**cell._asdict(), "sides": sides}


def step_bytes(cell: Cell, model: Mapping[str, Any], weight_bytes: int) -> float:
    """Return the bytes a step must read: each weight of decoder and head once, and the caches in float32.

    Keys and values of a source are there once, whatever the beams; those of a title once a beam, at the mean length of
    the steps after the first. Keys and values are not computed from the source again.
    """
    hidden, inner = model["hidden_size"], model["num_attention_heads"] * model["attention_head_size"]
    layers = model.get("num_decoder_layers") or model["num_hidden_layers"]
    feed_forward = len(model.get("hidden_act", GATED)) + 1  # wi_0 wi_1 wo where it is gated, else wi wo
    layer = 6 * hidden * inner + feed_forward * hidden * model["intermediate_size"]  # q k v o, q o of the source
    weights = layers * layer + hidden * model["vocab_size"]
    positions = cell.batch * (cell.source_length + cell.beams * (cell.new_tokens + 2) / 2)
    return float(weights * weight_bytes + positions * layers * 2 * inner * 4)


def _single_figures(runs: Runs) -> dict[str, Any]:
    """Return the figures that are not of a cell."""
    figures: dict[str, Any] = {}
    long = runs.get("long|onnx float32", [])
    for position in (32, 480):
        # The middle of seventeen steps around the position: one step alone may meet anything.
        near = [step for run in long for step in run["steps"][position - 8 : position + 9]]
        if near:
            figures.setdefault("step_at_position_ms", {})[str(position)] = round(median(near) * 1e3, 3)
    if "start-up|onnx int8" in runs:
        figures["start_up_seconds"] = round(median(run["call"] for run in runs["start-up|onnx int8"]), 3)
    tiny = _sides(runs, "tiny")
    if tiny:
        figures["tiny_ms"] = {
            side: round(median(run["call"] for run in found) * 1e3, 2) for side, found in tiny.items()
        }
    for run in runs.get("CSL|onnx int8", []):
        figures.setdefault("csl_seconds_per_text", {})["onnx int8"] = round(run["call"] / run["texts"], 4)
        figures["csl_texts"] = int(run["texts"])
    stock = [run["call"] for key, found in runs.items() if key.startswith("CSL-") for run in found]
    if stock:
        # The mean, since ours is the time of all texts together.
        figures.setdefault("csl_seconds_per_text", {})[STOCK] = round(statistics.mean(stock), 4)
        figures["csl_texts_of_stock"] = len(stock)
    return figures


def ratios(cells: list[dict[str, Any]], ours: str, peer: str, part: str) -> dict[str, float]:
    """Return ours / peer of each cell that both have, by the cell's key; `part` is decoder, encoder or call."""
    return {
        Cell(*(cell[name] for name in Cell._fields)).key: cell["sides"][ours][f"{part}_ms"]
        / cell["sides"][peer][f"{part}_ms"]
        for cell in cells
        if ours in cell["sides"] and peer in cell["sides"]
    }


def goals(summary: Mapping[str, Any], model: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return each goal with its limit, what was reached, in which cell, and whether it is met; None if not measured."""
    cells = summary["cells"]
    rows: list[dict[str, Any]] = []
    is_shape = model.get("model_type", T5_PEGASUS) != T5_PEGASUS

    def add(goal: str, limit: float, reached: float | None, where: str = "") -> None:
        met = None if reached is None else bool(reached <= limit)
        rows.append({"goal": goal, "limit": round(limit, 4), "reached": reached and round(reached, 4), "met": met})
        if where:
            rows[-1]["worst"] = where

    def every(ours: str, peer: str, limit: float, part: str = "decoder") -> None:
        found = ratios(cells, ours, peer, part)
        worst = max(found, key=lambda key: found[key], default="")
        add(f"{ours} / {peer}, {part}, every cell", limit, found.get(worst), worst)

    def middle(ours: str, peer: str, limit: float) -> None:
        add(
            f"{ours} / {peer}, decoder, median cell",
            limit,
            median(ratios(cells, ours, peer, "decoder").values()) or None,
        )

    if is_shape:
        for ours in ("onnx float32", "onnx int8"):
            every(ours, HUGGING_FACE, 0.8, "call")
        return rows
    for ours, limit in (("onnx float32", 1 / 15), ("onnx int8", 1 / 30)):
        found = ratios(cells, ours, STOCK, "decoder").get(HEADLINE.key)
        add(f"{ours} / {STOCK}, decoder, batch 1 beam 1, 256 → 32", limit, found)
    for ours, peer, worst, typical in (
        ("onnx float32", HUGGING_FACE, 0.6, 0.4),
        ("onnx float32", "CTranslate2 float32", 0.8, 0.6),
        ("onnx int8", "CTranslate2 int8", 0.8, 0.6),
    ):
        every(ours, peer, worst)
        middle(ours, peer, typical)
    every("keras", HUGGING_FACE, 1.0)
    for part in ("encoder", "call"):
        for ours, peers in PEERS.items():
            for peer in peers:
                every(ours, peer, 1.0, part)
    steps = summary.get("step_at_position_ms", {})
    add("onnx float32, a step at position 480 / at 32", 1.25, steps["480"] / steps["32"] if steps else None)
    csl = summary.get("csl_seconds_per_text", {})
    add(
        "test.py on the CSL abstracts, beam 4, int8 / bert4keras's loop",
        1 / 50,
        csl["onnx int8"] / csl[STOCK] if len(csl) == 2 else None,
    )
    tiny = summary.get("tiny_ms", {})
    add("tiny model, text to text / bert4keras", 1 / 20, tiny["onnx float32"] / tiny[STOCK] if len(tiny) == 2 else None)
    add("tiny model, text to text, ms", 15, tiny.get("onnx float32"))
    peak = summary.get("peak_mb", {})
    weights_mb = parameters(model) * 4e-6
    add(
        "onnx float32, peak memory / weights and caches",
        1.3,
        peak["onnx float32"] / (weights_mb + cache_bytes(Cell(256, 32, 8, 4), model) * 1e-6)
        if "onnx float32" in peak
        else None,
    )
    both = "onnx int8" in peak and "CTranslate2 float32" in peak
    add(
        "onnx int8 / CTranslate2 float32, peak memory",
        0.5,
        peak["onnx int8"] / peak["CTranslate2 float32"] if both else None,
    )
    add("start-up of test.py to the first title, int8, seconds", 3, summary.get("start_up_seconds"))
    return rows


def parameters(model: Mapping[str, Any]) -> int:
    """Return how many weights the network has, norms and position biases apart."""
    hidden, inner = model["hidden_size"], model["num_attention_heads"] * model["attention_head_size"]
    layer = 12 * hidden * inner + 6 * hidden * model["intermediate_size"]  # an encoder layer and a decoder layer
    return int(model["num_hidden_layers"] * layer + 2 * hidden * model["vocab_size"])


def cache_bytes(cell: Cell, model: Mapping[str, Any]) -> int:
    """Return the size of all keys and values at the end of a title, in float32."""
    inner = model["num_attention_heads"] * model["attention_head_size"]
    positions = cell.batch * (cell.source_length + cell.beams * cell.new_tokens)
    return int(positions * model["num_hidden_layers"] * 2 * inner * 4)


def print_tables(summary: Mapping[str, Any]) -> None:
    """Print the milliseconds of a step, encoder and call of each side, and the goals."""
    sides = list(dict.fromkeys(side for cell in summary["cells"] for side in cell["sides"]))
    for part in ("step_ms", "encoder_ms", "call_ms"):
        print(f"{part:28}" + "".join(f"{side:>21}" for side in sides))
        for cell in summary["cells"]:
            label = "{source_length} -> {new_tokens}, batch {batch}, beams {beams}".format(**cell)
            numbers = (cell["sides"].get(side, {}).get(part) for side in sides)
            print(f"{label:28}" + "".join(f"{'-' if each is None else format(each, '.1f'):>21}" for each in numbers))
    for row in summary["goals"]:
        met = {True: "met", False: "MISSED", None: "not measured"}[row["met"]]
        print(f"{row['goal']:66}{row['limit']:>9} {row['reached'] if row['reached'] is not None else '-':>9} {met}")
