"""The pure parts of benchmarks/: what is made of runs, what is kept of them, and the tables of docs/performance.md."""

import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import checking
import decoding
import decoding_summary
import tables
from decoding_summary import Cell

from t5_pegasus.errors import DataError

MODEL = {
    "hidden_size": 768,
    "num_attention_heads": 12,
    "attention_head_size": 64,
    "num_hidden_layers": 12,
    "intermediate_size": 2048,
    "vocab_size": 50000,
}
SETTINGS = {"model": MODEL, "machine": {"processor": "a processor", "cores": 2, "instructions": ["avx2"]}}
PRINTS = {"onnx float32": {"onnxruntime": "1.0", "code": "abc"}, "Hugging Face": {"torch": "2.0"}}
# A first token after 0.3 s and a second or two for the 31 others: 0.1 s and 0.2 s a step in the end.
RUNS = {
    "bandwidth|machine": [{"bytes_per_second": 2e10}],
    "256-32-1-1|Hugging Face": [{"first": 0.5, "call": 0.5 + 31 * 0.2}],
    "256-32-1-1|onnx float32": [{"first": 0.3, "call": 0.3 + 31 * step} for step in (0.1, 0.05, 0.4)],
    "256-32-8-4|onnx float32": [{"first": 0.3, "call": 3.4}],
    "long|onnx float32": [{"first": 0.1, "call": 1.0, "steps": [0.001 * position for position in range(496)]}],
    "CSL|onnx int8": [{"call": 35.0, "texts": 350}],
    "CSL-0|bert4keras": [{"call": 4.0}],
    "CSL-1|bert4keras": [{"call": 8.0}],
}


@pytest.fixture
def result():
    state = {"settings": SETTINGS, "prints": PRINTS, "runs": RUNS}
    return {**state, "summary": decoding_summary.summarize(state)}


def goal(result, start):
    (found,) = [row for row in result["summary"]["goals"] if row["goal"].startswith(start)]
    return found


def test_medians_of_encoder_step_and_call(result):
    cell = result["summary"]["cells"][0]
    assert (cell["source_length"], cell["new_tokens"], cell["batch"], cell["beams"]) == (256, 32, 1, 1)
    ours, peer = cell["sides"]["onnx float32"], cell["sides"]["Hugging Face"]
    assert ours["step_ms"] == pytest.approx(100)  # the median of three, not the mean
    assert ours["encoder_ms"] == pytest.approx(200)  # the first token less a step
    assert ours["call_ms"] == pytest.approx(3400)
    assert ours["tokens_per_second"] == pytest.approx(32 / 3.4, abs=0.05)
    assert peer["step_ms"] == pytest.approx(200)


def test_goals_say_what_was_reached(result):
    row = goal(result, "onnx float32 / Hugging Face, decoder, every cell")
    assert row["reached"] == pytest.approx(0.5)
    assert row["met"] is True
    assert row["worst"] == "256-32-1-1"
    assert goal(result, "onnx float32 / Hugging Face, decoder, median cell")["met"] is False
    assert goal(result, "onnx float32, a step at position 480")["reached"] == pytest.approx(15)
    csl = goal(result, "test.py on the CSL")
    assert csl["reached"] == pytest.approx(0.1 / 6, abs=1e-4)
    assert csl["met"] is True
    assert goal(result, "onnx int8 / CTranslate2 int8, decoder, every")["met"] is None  # not measured


def test_step_bytes_counts_what_base_size_reads():
    # The decoder's matrices without those that make the source's keys and values, and the head.
    alone = decoding_summary.step_bytes(Cell(0, -2, 1, 1), MODEL, 4)
    assert alone / 4 == pytest.approx(137.5e6, rel=1e-3)
    assert decoding_summary.step_bytes(Cell(0, -2, 8, 4), MODEL, 1) == alone / 4
    # 256 positions of a source, shared by its beams; a beam's own, from 2 to 32 of them.
    more = decoding_summary.step_bytes(Cell(256, 32, 8, 4), MODEL, 4) - alone
    assert more == 8 * (256 + 4 * 17) * 12 * 2 * 768 * 4


def test_step_bytes_of_other_networks():
    """A feed-forward layer that is not gated has one matrix less; the decoder's layers count, not the encoder's."""
    whole = decoding_summary.step_bytes(Cell(0, -2, 1, 1), MODEL, 1)
    not_gated = decoding_summary.step_bytes(Cell(0, -2, 1, 1), {**MODEL, "hidden_act": ["relu"]}, 1)
    assert whole - not_gated == 12 * 768 * 2048
    shorter = decoding_summary.step_bytes(Cell(0, -2, 1, 1), {**MODEL, "num_decoder_layers": 11}, 1)
    assert whole - shorter == 6 * 768 * 768 + 3 * 768 * 2048


def test_goals_of_hugging_faces_models_are_of_whole_calls():
    runs = {**RUNS, "256-32-1-1|onnx int8": [{"first": 0.2, "call": 2.0}]}
    state = {"settings": {**SETTINGS, "model": {**MODEL, "model_type": "t5"}}, "prints": PRINTS, "runs": runs}
    rows = decoding_summary.summarize(state)["goals"]
    assert [(row["limit"], row["reached"], row["met"]) for row in rows] == [
        (0.8, pytest.approx(3.4 / 6.7, abs=1e-4), True),
        (0.8, pytest.approx(2.0 / 6.7, abs=1e-4), True),
    ]


def test_the_table_of_hugging_faces_models():
    runs = {
        "256-32-8-4|Hugging Face": [{"first": 0.5, "call": 4.0}],
        "256-32-8-4|onnx float32": [{"first": 0.5, "call": 3.0}],
        "256-32-8-4|onnx int8": [{"first": 0.5, "call": 1.0}],
    }
    state = {"settings": SETTINGS, "prints": {**PRINTS, "onnx int8": {"onnx": "1.5"}}, "runs": runs}
    result = {**state, "summary": decoding_summary.summarize(state)}
    page = "docs/performance.md"
    table = tables.shape_table({"one": result, "other": result}, tables.WORDS[page])
    assert "| one, 8, 4 | 4000 | 3000 | 0.75 | 1000 | 0.25 |\n| other, 8, 4 |" in table
    assert table.count("onnx 1.5, onnxruntime 1.0, torch 2.0.") == 1  # one machine is told once
    del result["summary"]["cells"][0]["sides"]["onnx float32"]  # as where measuring was stopped
    assert "| one, 8, 4 | 4000 | – | – | 1000 | 0.25 |" in tables.shape_table({"one": result}, tables.WORDS[page])


def test_number_of_weights_is_that_of_the_built_model():
    assert decoding_summary.parameters(MODEL) == pytest.approx(275.03e6, rel=1e-3)


def test_runs_are_kept_and_dropped_with_what_they_depend_on(tmp_path):
    path = tmp_path / "result.json"
    store = decoding.Store(str(path), SETTINGS, PRINTS, fresh=False)
    for key in ("256-32-1-1|onnx float32", "256-32-1-1|Hugging Face", "bandwidth|machine"):
        store.add(key, {"call": 1.23456789, "steps": [0.1]})
    kept = decoding.Store(str(path), SETTINGS, PRINTS, fresh=False)
    assert kept.runs("256-32-1-1|onnx float32") == [{"call": 1.234568, "steps": [0.1]}]
    changed = {**PRINTS, "onnx float32": {"onnxruntime": "1.0", "code": "other"}}
    kept = decoding.Store(str(path), SETTINGS, changed, fresh=False)
    assert sorted(kept.state["runs"]) == ["256-32-1-1|Hugging Face", "bandwidth|machine"]
    without = {**PRINTS, "Hugging Face": {"torch": None}}
    kept = decoding.Store(str(path), SETTINGS, without, fresh=False)
    assert kept.runs("256-32-1-1|Hugging Face")
    assert kept.state["prints"]["Hugging Face"] == {"torch": "2.0"}
    assert not decoding.Store(str(path), {**SETTINGS, "size": "tiny"}, PRINTS, fresh=False).state["runs"]
    assert not decoding.Store(str(path), SETTINGS, PRINTS, fresh=True).state["runs"]
    path.write_text("{")
    with pytest.raises(DataError, match="--fresh"):
        decoding.Store(str(path), SETTINGS, PRINTS, fresh=False)


class FakeBench:
    """Two sides, of which one fails the second time; a run notes its turn."""

    def __init__(self):
        self.left_out, self.turns = {}, []

    def groups(self, repeats):
        yield [decoding.Task(f"256-32-1-1|{side}", side, lambda side=side: self.run(side), repeats) for side in "ab"]

    def run(self, side):
        self.turns.append(side)
        if side == "b" and self.turns.count("b") == 2:
            raise decoding.WorkerError("out of memory")
        return {"call": 0.1}


def test_sides_take_turns_and_a_failing_one_is_left_out(tmp_path):
    bench, store = FakeBench(), decoding.Store(str(tmp_path / "result.json"), SETTINGS, {"a": {}, "b": {}}, fresh=False)
    assert decoding.measure(bench, store, 3, float("inf"), [])
    assert bench.turns == ["a", "b", "a", "b", "a"]
    assert bench.left_out == {"b": "out of memory"}
    assert len(store.runs("256-32-1-1|a")) == 3


def test_measuring_stops_in_time_and_goes_on_where_it_was(tmp_path):
    bench, path = FakeBench(), str(tmp_path / "result.json")
    store = decoding.Store(path, SETTINGS, {"a": {}, "b": {}}, fresh=False)
    assert not decoding.measure(bench, store, 2, -1, [])
    assert decoding.measure(bench, store, 2, float("inf"), ["|a"])
    store = decoding.Store(path, SETTINGS, {"a": {}, "b": {}}, fresh=False)
    assert decoding.measure(bench, store, 1, float("inf"), [])
    assert bench.turns == ["a", "a", "b"]


def test_long_runs_are_repeated_less():
    assert decoding.wanted_runs(5, [{"call": 0.1}]) == 5
    assert decoding.wanted_runs(5, [{"call": 10.0}]) == 3
    assert decoding.wanted_runs(5, [{"call": 100.0}]) == 2
    assert decoding.wanted_runs(1, [{"call": 100.0}]) == 1


def test_result_has_a_line_a_measurement(result):
    text = decoding.to_lines(result)
    assert json.loads(text) == json.loads(json.dumps(result))
    assert all(len(line) < 6000 for line in text.splitlines())


def test_tables_stand_between_the_markers(result):
    text = f"before\n{tables.BEGIN}\nold\n{tables.END}\nafter\n"
    section = tables.tables(result, tables.WORDS["docs/performance.md"])
    new = tables.replace_section(text, section, "docs/performance.md")
    assert new.startswith("before\n")
    assert new.endswith("after\n")
    assert "old" not in new
    assert tables.replace_section(new, section, "docs/performance.md") == new
    share = 28.5e-3 / 0.1  # of the limit that 20 GB/s set
    assert f"| 256 → 32, 1, 1 | 200 ({share / 2:.0%}) | 100 ({share:.0%}) |" in new
    assert "| 256 → 32, 8, 4 | – | 100 (" in new
    assert "2 cores (avx2), reading 20.0 GB/s; onnxruntime 1.0, torch 2.0." in new
    with pytest.raises(DataError, match="must have the lines"):
        tables.replace_section("no markers", section, "docs/performance.md")


@pytest.mark.slow
def test_a_check_of_ten_times_the_rows_takes_no_more_memory(tmp_path):
    """But for the tokenizer's cache of words, which fills up."""
    peaks = []
    for rows in (3000, 30_000):
        checking.write_rows(tmp_path / "rows.tsv", rows)
        peaks.append(checking.measure(tmp_path / "rows.tsv")["peak_kb"])
    assert peaks[1] < peaks[0] + 30_000
