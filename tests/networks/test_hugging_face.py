"""Folders of Hugging Face's models, written by transformers, give what transformers computes there.

`tests/golden/make_hugging_face.py` made the folders and their `golden.npz`.
"""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import CheckpointError, DataError, OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks import t5 as t5_module
from t5_pegasus.networks.architectures import describe
from t5_pegasus.networks.hugging_face import ARCHITECTURES, check_tensors, settle_head
from t5_pegasus.networks.t5 import build_model
from t5_pegasus.networks.t5_description import HEAD

GOLDEN = ROOT / "tests" / "golden" / "hugging_face"
# The others differ from these in activations only, or are PEGASUS with the other table of positions.
QUICK = ("flan_t5", "uer_pegasus")
FAMILIES = ("t5", "flan_t5", "mt5", "t5_variant", "t5_silu", "pegasus", "uer_pegasus")
EACH = [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in FAMILIES]


def golden_of(name):
    return np.load(GOLDEN / name / "golden.npz")


@pytest.fixture
def copy_of(hugging_face, tmp_path):
    """Return a function that copies a folder, which a test may then spoil."""
    return lambda name: shutil.copytree(hugging_face / name, tmp_path / name)


def change_config(folder, **changes):
    path = folder / "config.json"
    values = {**json.loads(path.read_text()), **changes}
    path.write_text(json.dumps({name: value for name, value in values.items() if value is not None}))


def write_shards(folder, parts):
    """Divide the weights of a folder into shards with an index, as transformers does."""
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = sorted(tensors)
    weight_map = {}
    for part in range(parts):
        file = f"model-{part + 1:05}-of-{parts:05}.safetensors"
        chosen = {name: tensors[name] for name in names[part::parts]}
        safetensors.numpy.save_file(chosen, folder / file)
        weight_map |= dict.fromkeys(chosen, file)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def logits_of(t5, golden):
    return t5.model([golden["source_ids"], golden["target_ids"]]).numpy()


def assert_logits(found, golden):
    # transformers attends to padding in a target, which is after all that counts.
    expected = golden["logits"]
    counts = golden["target_ids"][: len(expected)] != 0
    counts[:, 0] = True
    assert expected[counts].std() > 1
    np.testing.assert_allclose(found[: len(expected)][counts], expected[counts], rtol=0, atol=2e-5)


# Equal to transformers


@pytest.mark.parametrize("name", EACH)
def test_logits_are_those_of_transformers(name, hugging_face_t5):
    golden = golden_of(name)
    assert (golden["source_ids"][:2] == 0).any()
    assert_logits(logits_of(hugging_face_t5(name), golden), golden)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_weight_of_the_network_has_a_name(name):
    config = ModelConfig.load(GOLDEN / name)
    pairs = list(ARCHITECTURES[config.model_type].names(config))
    ours, theirs = (set(names) for names in zip(*pairs, strict=True))
    assert len(ours) == len(theirs) == len(pairs)
    # The head is listed where it is tied, too: a file may have it.
    assert ours == {*describe(config).weight_shapes(), HEAD}


@pytest.mark.parametrize("name", FAMILIES)
def test_folders_fit(name):
    check_tensors(GOLDEN / name / "model.safetensors", ModelConfig.load(GOLDEN / name))


@pytest.mark.slow
def test_shards_are_read_as_one_file(copy_of):
    folder = copy_of("mt5")
    write_shards(folder, 3)
    golden = golden_of("mt5")
    assert_logits(logits_of(build_model(folder, with_lm="linear"), golden), golden)


# The head


@pytest.mark.parametrize(
    ("name", "written", "tied"),
    [("t5", True, True), ("flan_t5", False, False), ("mt5", True, False)],
)
def test_whether_the_head_is_tied_is_what_config_and_tensors_say(name, written, tied, copy_of):
    """Transformers 5 writes true for an mT5 whose head is not the embedding, and leaves out a head that is."""
    folder = copy_of(name)
    change_config(folder, tie_word_embeddings=written)
    weights = folder / "model.safetensors"
    assert settle_head(ModelConfig.load(folder), weights, weights).tie_word_embeddings is tied


@pytest.mark.slow
def test_a_head_that_is_written_out_may_be_the_embedding(copy_of):
    folder = copy_of("t5")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    safetensors.numpy.save_file({**tensors, "lm_head.weight": tensors["shared.weight"]}, folder / "model.safetensors")
    t5, golden = build_model(folder, with_lm="linear"), golden_of("t5")
    assert t5.config.tie_word_embeddings
    assert_logits(logits_of(t5, golden), golden)


# Folders that cannot be used: one line each, before anything is built


def refused(folder, error):
    """Return the line that a folder is refused with."""
    weights = folder / "model.safetensors"
    with pytest.raises(error) as caught:
        settle_head(ModelConfig.load(folder), weights, weights)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("name", "changes", "error", "words"),
    [
        ("flan_t5", {"model_type": "bart"}, DataError, "config.json must be one of t5, mt5, pegasus, got bart"),
        ("flan_t5", {"d_ff": None}, DataError, "config.json lacks 'd_ff'"),
        ("flan_t5", {"d_ff": "48"}, OptionError, "intermediate_size in"),
        ("flan_t5", {"d_ff": 49}, CheckpointError, "wi_0.weight must have the shape (49, 32), got (48, 32)"),
        ("flan_t5", {"num_decoder_layers": 2}, CheckpointError, "has decoder.block.2.layer.0.SelfAttention.k.weight"),
        ("flan_t5", {"num_decoder_layers": 4}, CheckpointError, "lacks the tensor decoder.block.3.layer.0."),
        ("flan_t5", {"model_type": "pegasus"}, DataError, "config.json lacks 'encoder_attention_heads'"),
        ("flan_t5", {"feed_forward_proj": "gated-mish"}, DataError, "got mish"),
        ("flan_t5", {"feed_forward_proj": "double-relu"}, DataError, "got double-relu"),
        ("flan_t5", {"feed_forward_proj": "relu"}, CheckpointError, "lacks the tensor encoder.block.0.layer.1"),
        ("flan_t5", {"pad_token_id": 5}, DataError, "must be 0, got 5"),
        ("uer_pegasus", {"decoder_ffn_dim": 50}, DataError, "must be equal, got 48 and 50"),
        ("uer_pegasus", {"encoder_attention_heads": 5, "decoder_attention_heads": 5}, DataError, "got 32 and 5"),
        ("uer_pegasus", {"max_position_embeddings": 97}, CheckpointError, "embed_positions.weight must have the shape"),
        ("uer_pegasus", {"vocab_size": 833}, CheckpointError, "model.shared.weight must have the shape (833, 32)"),
        ("uer_pegasus", {"model_type": "t5"}, DataError, "config.json lacks 'num_layers'"),
    ],
)
def test_a_config_that_does_not_fit(name, changes, error, words, copy_of):
    folder = copy_of(name)
    change_config(folder, **changes)
    assert words in refused(folder, error)


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda tensors: tensors.pop("shared.weight"), "lacks the tensor shared.weight"),
        (lambda tensors: tensors.pop("lm_head.weight"), "lacks the tensor lm_head.weight"),
        (lambda tensors: tensors.pop("encoder.final_layer_norm.weight"), "the tensor encoder.final_layer_norm.weight"),
        (lambda tensors: tensors.update({"encoder.more.weight": np.ones(3)}), "has encoder.more.weight, which"),
        (lambda tensors: tensors.update({"lm_head.weight": np.ones((3, 32))}), "(832, 32), got (3, 32)"),
        (lambda tensors: [tensors.pop(name) for name in list(tensors) if name != "lm_head.weight"], "lacks the tensor"),
    ],
)
def test_tensors_that_do_not_fit(spoil, words, copy_of):
    folder = copy_of("flan_t5")
    tensors = safetensors.numpy.load_file(folder / "model.safetensors")
    spoil(tensors)
    safetensors.numpy.save_file(tensors, folder / "model.safetensors")
    assert words in refused(folder, CheckpointError)


def test_a_vocabulary_that_does_not_fit(copy_of, monkeypatch):
    monkeypatch.setattr(t5_module, "build_from_config", lambda *_: pytest.fail("built"))
    folder = copy_of("flan_t5")
    change_config(folder, vocab_size=819)
    with pytest.raises(CheckpointError, match=r"spiece\.model has 820 tokens but vocab_size in .* is 819"):
        build_model(folder)
