"""Engines write with Hugging Face's models what transformers' `generate` writes, token for token.

`tests/golden/make_hugging_face.py` made the folders and the sequences.
"""

import numpy as np
import pytest

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.inputs import Source
from t5_pegasus.decoding.search import BatchDecoder
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.t5 import network_of
from t5_pegasus.text.folder import load_tokenizer

GOLDEN = ROOT / "tests" / "golden" / "hugging_face"
QUICK = ("flan_t5", "uer_pegasus")
FAMILIES = ("t5", "flan_t5", "mt5", "t5_variant", "t5_silu", "pegasus", "uer_pegasus")
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]

# As in the script that made them.
GENERATIONS = {
    "greedy": {"max_new_tokens": 16},
    "greedy_min": {"max_new_tokens": 12, "min_new_tokens": 8},
    "beams": {"max_new_tokens": 16, "num_beams": 4},
    "beams_early": {"max_new_tokens": 16, "num_beams": 4, "early_stopping": True, "length_penalty": 0.6},
    "beams_ngram": {"max_new_tokens": 12, "num_beams": 4, "no_repeat_ngram_size": 2, "length_penalty": 2.0},
    "beams_penalty": {"max_new_tokens": 10, "num_beams": 4, "repetition_penalty": 1.3, "min_new_tokens": 4},
    "beams_forced": {"max_new_tokens": 6, "num_beams": 3, "forced_eos_token_id": 3, "forced_bos_token_id": 4},
}


def make_engine(kind, t5, folder, vocab_file):
    if kind == "keras":
        return KerasEngine(network_of(t5))
    export_model(t5, vocab_file, folder / kind, "int8" if kind == "int8" else "no")
    return OnnxEngine(folder / kind)


def sources_of(golden):
    return [Source.whole([token for token in row if token]) for row in golden["source_ids"].tolist()]


def written(row, end_id):
    """Return a row of `generate` without the start token, and without padding after the end."""
    ids = row.tolist()[1:]
    return tuple(ids[: ids.index(end_id) + 1] if end_id in ids else ids)


def config_of(label, tokenizer, **more):
    options = {"refill_beams": True, "length_penalty": 1.0, **GENERATIONS[label], **more}
    return GenerationConfig(suppress_tokens=(tokenizer.unk_id,), **options)


@pytest.mark.parametrize("kind", [pytest.param("keras", marks=pytest.mark.slow), "onnx"])
@pytest.mark.parametrize("name", EACH)
def test_sequences_are_those_of_transformers(name, kind, hugging_face, hugging_face_t5, tmp_path):
    golden, tokenizer = np.load(GOLDEN / name / "golden.npz"), load_tokenizer(hugging_face / name)
    engine = make_engine(kind, hugging_face_t5(name), tmp_path, tokenizer.vocab_file)
    rows = hugging_face_t5(name).config.vocab_size
    decoder = BatchDecoder(engine, tokenizer.start_id, tokenizer.end_id, range(tokenizer.vocab_size, rows))
    ended = 0
    for label in GENERATIONS:
        config = config_of(label, tokenizer)
        prefix = [] if config.forced_bos_token_id is None else [config.forced_bos_token_id]
        found = [titles[0].ids for titles in decoder.search_batch(sources_of(golden), config, prefix)]
        expected = [written(row, tokenizer.end_id) for row in golden[label]]
        if config.forced_eos_token_id is not None:
            expected = [ids[: config.max_new_tokens] for ids in expected]
        assert found == expected, label
        ended += sum(ids[-1] == tokenizer.end_id for ids in found)
    assert ended > 3  # not all by their length


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_int8_is_near_float32(name, hugging_face, hugging_face_t5, tmp_path):
    """Greedy titles of random networks may go apart after a token; their scores are near."""
    golden, tokenizer = np.load(GOLDEN / name / "golden.npz"), load_tokenizer(hugging_face / name)
    config = config_of("greedy", tokenizer, max_new_tokens=1)
    scores = []
    for kind in ("onnx", "int8"):
        engine = make_engine(kind, hugging_face_t5(name), tmp_path, tokenizer.vocab_file)
        decoder = BatchDecoder(engine, tokenizer.start_id, tokenizer.end_id)
        found = decoder.search_batch(sources_of(golden), config)
        scores.append([titles[0].score for titles in found])
    np.testing.assert_allclose(*scores, atol=0.15)
    assert scores[0] != scores[1]
