"""Adapters in PEFT's folders: what is written is read again, and what cannot be meant is refused by name."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.networks.adapter_files import Record, check_base, read_adapter, read_record, write_adapter
from t5_pegasus.networks.lora import Adapter, Factors, LoraConfig, plan
from t5_pegasus.networks.t5_description import describe_t5

DESCRIPTION = describe_t5(ModelConfig(9, 4, 2, 2, 6, 3))
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"


def make_adapter():
    random = np.random.default_rng(1)
    settings = {"use_rslora": True, "rank_pattern": {"wo": 1}, "alpha_pattern": {r"EncDecAttention\.v": 5}}
    config = LoraConfig(
        2, 3, 0.1, ("v", "wo", "embedding", "head"), modules_to_save=("final_layer_norm", "wi_1"), **settings
    )
    planned = plan(DESCRIPTION, config)
    shapes, factors, saved = DESCRIPTION.weight_shapes(), {}, {}
    for module in planned.targets:
        rank = planned.config.rank(module.path)
        a, b = (random.normal(size=size).astype("f") for size in ((module.inputs, rank), (rank, module.outputs)))
        factors[module.weight] = Factors(a, b, planned.config.scale(module.path, rank))
    for module in planned.saved:
        saved[module.weight] = random.normal(size=shapes[module.weight]).astype("f")
    return Adapter(planned, factors, saved)


@pytest.fixture
def folder(tmp_path):
    write_adapter(tmp_path / "a", make_adapter(), Record("base", "ab" * 32, {"bleu": 0.5}))
    return tmp_path / "a"


def test_an_adapter_is_read_as_it_was_written(folder):
    expected, found = make_adapter(), read_adapter(folder, DESCRIPTION)
    assert found.plan.config == expected.plan.config
    assert set(found.plan.targets) == set(expected.plan.targets)
    assert found.factors.keys() == expected.factors.keys()
    for name, (a, b, scale) in expected.factors.items():
        np.testing.assert_array_equal(found.factors[name].a, a)
        np.testing.assert_array_equal(found.factors[name].b, b)
        assert found.factors[name].scale == scale
    assert found.saved.keys() == expected.saved.keys()
    for name, value in expected.saved.items():
        np.testing.assert_array_equal(found.saved[name], value)
    assert read_record(folder) == Record("base", "ab" * 32, {"bleu": 0.5})


def test_keys_and_orientation_are_those_of_peft(folder):
    tensors, adapter = safetensors.numpy.load_file(folder / WEIGHTS), make_adapter()
    stem = "base_model.model.decoder.block.1.layer.1.EncDecAttention.v"
    a, b, _ = adapter.factors["decoder/block_001/layer_001/EncDecAttention/v"]
    np.testing.assert_array_equal(tensors[f"{stem}.lora_A.weight"], a.T)  # [r, inputs]
    np.testing.assert_array_equal(tensors[f"{stem}.lora_B.weight"], b.T)  # [outputs, r]
    assert tensors["base_model.model.shared.lora_embedding_A"].shape == (2, 9)
    assert tensors["base_model.model.lm_head.lora_B.weight"].shape == (9, 2)
    whole = tensors["base_model.model.encoder.block.0.layer.1.DenseReluDense.wi_1.weight"]
    np.testing.assert_array_equal(whole, adapter.saved["encoder/block_000/layer_001/DenseReluDense/wi_1/kernel"].T)


def test_the_base_is_known_by_its_hash(folder):
    check_base(folder, "ab" * 32)
    check_base(folder, None)
    with pytest.raises(CheckpointError, match=r"was trained on other weights, of base .*--ignore_base_hash"):
        check_base(folder, "ac" * 32)
    (folder / "t5_pegasus.json").unlink()  # as PEFT writes it
    check_base(folder, "ac" * 32)
    assert read_record(folder) == Record("base")


def test_a_folder_of_something_else_is_not_replaced(folder, tmp_path):
    write_adapter(folder, make_adapter(), Record())
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "precious").touch()
    with pytest.raises(OptionError, match="must be an adapter's, empty or not exist"):
        write_adapter(tmp_path / "b", make_adapter(), Record())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"peft_type": "IA3"}, "adapters must be LoRA, got IA3"),
        ({"peft_type": "PROMPT_TUNING"}, "adapters must be LoRA, got prompt tuning"),
        ({"peft_type": "NEW"}, "adapters must be LoRA, got NEW"),
        ({"use_dora": True}, "DoRA is not supported"),
        ({"bias": "lora_only"}, "bias is not supported, got bias lora_only"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is not supported"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is not supported"),
        ({"r": 0}, "r must be at least 1, got 0"),
    ],
)
def test_other_kinds_of_adapters_are_refused_by_name(folder, change, message):
    values = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps({**values, **change}))
    with pytest.raises(OptionError, match=message):
        read_adapter(folder, DESCRIPTION)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"base_model.model.x.lora_A.weight": (2, 4)}, "x is none of this one's modules"),
        ({"shared": (2, 4)}, "shared is none of this one's modules"),
        ({"base_model.model.lm_head.lora_A.weight": None}, "has half of lm_head: it lacks lora_A"),
        ({"base_model.model.lm_head.lora_A.weight": (2, 5)}, "lm_head is 4 to 9 wide here, 5 to 9 there"),
        ({"base_model.model.lm_head.lora_A.weight": (3, 4)}, "has r 3 for lm_head, .* says 2"),
        ({"base_model.model.encoder.final_layer_norm.weight": (5,)}, "is .4,. here, .5,. there"),
        ({"base_model.model.encoder.final_layer_norm.bias": (4,)}, "encoder.final_layer_norm has no bias here"),
        ({"base_model.model.lm_head.lora_A.weight": np.nan}, "not finite in base_model.model.lm_head"),
    ],
)
def test_weights_that_do_not_fit_are_refused(folder, change, message):
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    for name, value in change.items():
        if value is None:
            del tensors[name]
        else:
            tensors[name] = np.zeros(value, "f") if isinstance(value, tuple) else np.full((2, 4), value, "f")
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(tensors))
    with pytest.raises(CheckpointError, match=message):
        read_adapter(folder, DESCRIPTION)


def test_damaged_files_and_pickles_are_refused(folder, tmp_path):
    (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="cannot be read, it may be damaged"):
        read_adapter(folder, DESCRIPTION)
    (folder / WEIGHTS).rename(folder / "adapter_model.bin")
    with pytest.raises(CheckpointError, match=r"no adapter_model.safetensors in .* is a pickle"):
        read_adapter(folder, DESCRIPTION)
    (folder / CONFIG).write_text("{")
    with pytest.raises(CheckpointError, match="is not valid JSON"):
        read_adapter(folder, DESCRIPTION)
    shutil.rmtree(folder)
    with pytest.raises(CheckpointError, match=r"cannot read .*adapter_config.json"):
        read_adapter(folder, DESCRIPTION)


def test_a_config_that_names_modules_otherwise_keeps_just_those_of_the_file(folder):
    """PEFT's layers_to_transform, for one, which `LoraConfig` does not know."""
    tensors = safetensors.numpy.load_file(folder / WEIGHTS)
    kept = {name: value for name, value in tensors.items() if ".block.0." not in name or "lora" not in name}
    (folder / WEIGHTS).write_bytes(safetensors.numpy.save(kept))
    found = read_adapter(folder, DESCRIPTION)
    assert len(found.factors) == len(make_adapter().factors) - 5
    write_adapter(folder, found, Record())
    assert read_adapter(folder, DESCRIPTION).plan.targets == found.plan.targets


def test_a_tied_head_is_not_changed_alone(folder):
    tied = describe_t5(ModelConfig(9, 4, 2, 2, 6, 3, tie_word_embeddings=True))
    with pytest.raises(CheckpointError, match="which are one matrix in this network"):
        read_adapter(folder, tied)
