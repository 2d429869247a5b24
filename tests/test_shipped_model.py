"""The model in chinese_t5_pegasus_tiny/: the weights that its card names, and the titles that were recorded."""

import hashlib
import json
import re

import pytest

from t5_pegasus import AutoTitle, read_examples
from t5_pegasus.config import read_generation_defaults
from t5_pegasus.engines.exported import SHIPPED, shipped_export
from t5_pegasus.locations import DATA_DIR, ROOT, TINY_MODEL_DIR, Weights, pretrained_weights

# Made by `python benchmarks/tiny_model.py --record`: titles of texts of data/, by the Keras engine.
RECORDED = json.loads((ROOT / "tests" / "golden" / "tiny_titles.json").read_text(encoding="utf-8"))
MOST_MEGABYTES = 40


def test_the_cards_name_the_weights():
    digest = hashlib.sha256((TINY_MODEL_DIR / "model.safetensors").read_bytes()).hexdigest()
    for name in ("README.md", "README.zh-CN.md"):
        card = (TINY_MODEL_DIR / name).read_text(encoding="utf-8")
        assert re.findall("[0-9a-f]{64}", card) == [digest]
        assert "@" not in card, "a placeholder"


def test_what_ships_is_small_and_whole():
    size = sum(path.stat().st_size for path in TINY_MODEL_DIR.rglob("*") if path.is_file())
    assert size < MOST_MEGABYTES * 1e6
    weights = pretrained_weights(TINY_MODEL_DIR)
    assert shipped_export(TINY_MODEL_DIR, weights) == TINY_MODEL_DIR / SHIPPED
    assert read_generation_defaults(TINY_MODEL_DIR) == read_generation_defaults(TINY_MODEL_DIR / SHIPPED) != {}


def test_the_recorded_texts_are_those_of_data():
    contents = [
        example.content for name in ("abstracts", "test") for example in read_examples(DATA_DIR / f"{name}.tsv")
    ]
    assert [row["content"] for row in RECORDED] == contents[: len(RECORDED)]
    assert len(RECORDED) == 20


@pytest.mark.parametrize(
    ("engine", "texts", "may_differ"),
    [
        ("auto", 20, 2),
        pytest.param("keras", 10, 0, marks=pytest.mark.slow),
        pytest.param("reference", 4, 0, marks=pytest.mark.slow),
    ],
)
def test_the_recorded_titles_are_written(engine, texts, may_differ):
    """The export that ships is int8, so that a title or two may be another one."""
    title = AutoTitle.load(TINY_MODEL_DIR, Weights.PRETRAINED, engine)
    written = title.generate([row["content"] for row in RECORDED[:texts]])
    different = [row for row, text in zip(RECORDED, written, strict=False) if row["title"] != text]
    assert len(different) <= may_differ, different


@pytest.mark.slow
def test_float32_graphs_write_the_recorded_titles(tmp_path):
    from t5_pegasus import build_model
    from t5_pegasus.engines.onnx_export import export_model

    export_model(build_model(TINY_MODEL_DIR), TINY_MODEL_DIR / "vocab.txt", tmp_path / "exported")
    written = AutoTitle.load(tmp_path / "exported").generate([row["content"] for row in RECORDED])
    assert written == [row["title"] for row in RECORDED]
