"""Models as Hugging Face folders: read back they are the same, and transformers loads the shipped one.

`tests/golden/make_exported.py` has made what transformers computes with the folder of the shipped model.
"""

import hashlib
import json

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus import conversion
from t5_pegasus.config import ModelConfig, read_generation_defaults
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR, Weights
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.hugging_face_export import leave_out_cross_position_bias, write_folder
from t5_pegasus.networks.t5 import build_model
from t5_pegasus.text.folder import load_tokenizer

GOLDEN = ROOT / "tests" / "golden"
FAMILIES = ("flan_t5", "t5", "mt5", "t5_variant", "t5_silu", "pegasus", "uer_pegasus")
EACH = [pytest.param(name, marks=() if name == "flan_t5" else pytest.mark.slow) for name in FAMILIES]


@pytest.mark.parametrize("name", EACH)
def test_what_is_written_is_what_was_read(name, hugging_face, hugging_face_t5, tmp_path):
    """The folders are transformers' own, so it computes the same logits with these."""
    source = hugging_face / name
    write_folder(hugging_face_t5(name), load_tokenizer(source), source, tmp_path)
    before, after = (safetensors.numpy.load_file(folder / "model.safetensors") for folder in (source, tmp_path))
    assert before.keys() == after.keys()
    for tensor in before:
        np.testing.assert_array_equal(before[tensor].astype(np.float32), after[tensor], err_msg=tensor)
    theirs, ours = (json.loads((folder / "config.json").read_text()) for folder in (source, tmp_path))
    assert ours["model_type"] == theirs["model_type"]
    assert ours["architectures"] == theirs["architectures"]
    assert ModelConfig.load(tmp_path) == hugging_face_t5(name).config
    tokenizer, again = load_tokenizer(source), load_tokenizer(tmp_path)
    text = "今天 the station，[MASK] <extra_id_3> 9"
    assert again.encode(text) == tokenizer.encode(text)
    assert (again.start_id, again.end_id) == (tokenizer.start_id, tokenizer.end_id)
    assert read_generation_defaults(tmp_path) == read_generation_defaults(source)


def test_the_shipped_model_is_written_exactly(tmp_path):
    """The file is the one that transformers was given, and its logits are ours."""
    t5, tokenizer = build_model(TINY_MODEL_DIR, Weights.PRETRAINED, with_lm="linear"), load_tokenizer(TINY_MODEL_DIR)
    write_folder(t5, tokenizer, TINY_MODEL_DIR, tmp_path)
    golden = np.load(GOLDEN / "exported.npz")
    for file in ("model.safetensors", "config.json", "generation_config.json"):
        assert hashlib.sha256((tmp_path / file).read_bytes()).hexdigest() == str(golden[file]), file
    logits = t5.model([golden["source_ids"], golden["target_ids"]]).numpy()
    counts = golden["target_ids"] != 0
    expected = golden["logits"]
    assert expected[counts].std() > 1
    np.testing.assert_allclose(logits[..., :: golden["every"]][counts], expected[counts], rtol=0, atol=2e-5)


def test_a_cross_position_bias_is_refused_or_left_out(random_t5, random_model_dir, tmp_path):
    tokenizer = load_tokenizer(random_model_dir)
    with pytest.raises(CheckpointError, match="no position bias in cross-attention"):
        write_folder(random_t5, tokenizer, random_model_dir, tmp_path)
    assert not any(tmp_path.iterdir())
    without = leave_out_cross_position_bias(random_t5)
    write_folder(without, tokenizer, random_model_dir, tmp_path)
    inputs = [np.array([[5, 6, 7, 8]], np.int32), np.array([[101, 9, 10]], np.int32)]
    expected = without.model(inputs).numpy()
    assert np.abs(expected - random_t5.model(inputs).numpy()).max() > 0.1
    again = build_model(tmp_path, with_lm="linear")
    assert not again.config.scale_output  # folded into the head
    np.testing.assert_allclose(again.model(inputs).numpy(), expected, rtol=0, atol=2e-5)
    names = named_variables(again)
    assert names.keys() == named_variables(random_t5).keys()


@pytest.mark.slow
def test_the_command_measures_what_it_leaves_out(random_model_dir, tmp_path, capsys):
    texts = tmp_path / "texts.txt"
    texts.write_text("一丁七\n万丈三\n", encoding="utf-8")
    flags = ["--to", "hugging_face", "--model_dir", str(random_model_dir), "--test_file", str(texts)]
    with pytest.raises(CheckpointError, match="--drop_cross_position_bias"):
        conversion.main([*flags, "--output_dir", str(tmp_path / "refused")])
    assert not (tmp_path / "refused").exists()
    target = tmp_path / "written"
    assert conversion.main([*flags, "--output_dir", str(target), "--drop_cross_position_bias"]) == 0
    report = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert report["texts"] == 2
    assert 0.01 < report["mean_logit_difference"] < report["largest_logit_difference"]
    assert 0 <= report["same_titles"] <= 2
    assert {path.name for path in target.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors", "vocab.txt", "tokenizer_config.json")
    }


@pytest.mark.parametrize(
    "flags",
    [
        [],
        ["--mt5_weights", "a"],
        ["--to", "hugging_face", "--mt5_weights", "a", "--mt5_vocab", "b"],
        ["--to", "hugging_face", "--mt5_vocab", "b"],
    ],
)
def test_one_conversion_at_a_time(flags, tmp_path):
    with pytest.raises(OptionError, match="give --to hugging_face, or --mt5_weights and --mt5_vocab"):
        conversion.main([*flags, "--model_dir", str(TINY_MODEL_DIR), "--output_dir", str(tmp_path / "new")])
