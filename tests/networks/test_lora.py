"""LoRA over a description: which modules, how many weights, what is refused. No weights are needed for these."""

import dataclasses
import math

import numpy as np
import pytest

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import BASE_MODEL_DIR
from t5_pegasus.networks.lora import Adapter, Factors, LoraConfig, count_parameters, list_modules, plan
from t5_pegasus.networks.t5_description import EMBEDDING, HEAD, describe_t5

SMALL = ModelConfig(9, 4, 2, 2, 6, 3)


def test_the_base_model_has_the_parameters_that_peft_counts():
    """PEFT prints trainable and all, adapters among them: 0.3207 %."""
    description = describe_t5(ModelConfig.load(BASE_MODEL_DIR))
    count = count_parameters(description, plan(description, LoraConfig(r=8)))
    assert str(count) == "trainable parameters: 884,736 || all: 275,913,984 || 0.3207 %"


def test_flan_t5_base_has_the_parameters_that_peft_counts():
    """PEFT's own line for that model with r 32 on q and v: 3,538,944, 251,116,800 and 1.40928… %."""
    description = describe_t5(ModelConfig(32128, 768, 12, 12, 2048))
    count = count_parameters(description, plan(description, LoraConfig(r=32)))
    assert count == (3_538_944, 251_116_800)
    assert math.floor(100 * count.trainable / count.total * 10_000) / 10_000 == 1.4092


def test_every_weight_is_in_one_module():
    description = describe_t5(SMALL)
    names = [name for module in list_modules(description) for name in (module.weight, module.bias) if name]
    assert sorted(names) == sorted(description.weight_shapes())
    for module in list_modules(description):
        if module.inputs:
            assert description.weight_shapes()[module.weight] == (module.inputs, module.outputs), module.path


def targets_of(**settings):
    planned = plan(describe_t5(SMALL), LoraConfig(**settings))
    return [module.path for module in planned.targets], [module.path for module in planned.saved]


def test_targets_are_the_ends_of_paths():
    targets, saved = targets_of(target_modules=("q", "wi_0"))
    assert targets == [
        *(
            f"encoder.block.{n}.{name}"
            for n in range(2)
            for name in ("layer.0.SelfAttention.q", "layer.1.DenseReluDense.wi_0")
        ),
        *(
            f"decoder.block.{n}.{name}"
            for n in range(2)
            for name in ("layer.0.SelfAttention.q", "layer.1.EncDecAttention.q", "layer.2.DenseReluDense.wi_0")
        ),
    ]
    assert not saved
    assert targets_of(target_modules=("decoder.block.1.layer.1.EncDecAttention.v",))[0] == [
        "decoder.block.1.layer.1.EncDecAttention.v"
    ]
    assert targets_of(target_modules=r"encoder\..*\.(q|v)")[0] == [
        f"encoder.block.{n}.layer.0.SelfAttention.{name}" for n in range(2) for name in "qv"
    ]
    assert targets_of(target_modules=("head", "embedding"))[0] == ["shared", "lm_head"]


def test_all_linear_is_every_projection_but_the_head_and_what_is_saved_whole():
    targets, saved = targets_of(target_modules="all-linear", modules_to_save=("wo", "final_layer_norm"))
    assert len(targets) == 2 * (4 + 2) + 2 * (4 + 4 + 2)
    assert not any(path.endswith(("wo", "lm_head", "shared")) for path in targets)
    assert sorted(path.rpartition(".")[2] for path in saved) == ["final_layer_norm"] * 2 + ["wo"] * 4


def test_pegasus_has_its_own_names_and_understands_the_common_ones():
    from tests.engines.test_described_networks import pegasus

    description = pegasus(tied=True)
    paths = [module.path for module in plan(description, LoraConfig(target_modules=("q", "wo"))).targets]
    assert paths[:2] == ["model.encoder.layers.0.self_attn.q_proj", "model.encoder.layers.0.fc2"]
    assert paths[-2:] == ["model.decoder.layers.2.encoder_attn.q_proj", "model.decoder.layers.2.fc2"]
    own = plan(description, LoraConfig(target_modules=("q_proj", "fc2")))
    assert [module.path for module in own.targets] == paths
    assert own.config.target_modules == ("q_proj", "fc2")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"target_modules": ("q", "query")},
            "lora_target_modules must be among shared, q, k, .*all-linear, got query$",
        ),
        ({"target_modules": r"encoder\.x"}, "lora_target_modules must name a projection"),
        ({"target_modules": "("}, "patterns of modules must be regular expressions"),
        ({"modules_to_save": ("head2",)}, "modules_to_save must be among .*, got head2$"),
        ({"r": 0}, "r must be at least 1, got 0"),
        ({"lora_alpha": 0}, "lora_alpha must be above 0"),
        ({"lora_dropout": 1.0}, "lora_dropout must be at least 0 and below 1"),
        ({"rank_pattern": {"q": 0}}, "rank_pattern must have ranks"),
    ],
)
def test_what_no_network_has_is_refused(settings, message):
    with pytest.raises(OptionError, match=message):
        targets_of(**settings)


@pytest.mark.parametrize("settings", [{"target_modules": ("head",)}, {"modules_to_save": ("shared",)}])
def test_one_matrix_in_two_places_cannot_change_in_one(settings):
    description = describe_t5(dataclasses.replace(SMALL, tie_word_embeddings=True))
    with pytest.raises(OptionError, match="the head of this network is its embedding"):
        plan(description, LoraConfig(**settings))


def test_patterns_go_by_the_end_of_a_path():
    config = LoraConfig(r=4, lora_alpha=8, rank_pattern={"EncDecAttention.q": 2}, alpha_pattern={"q": 6})
    path = "decoder.block.0.layer.1.EncDecAttention.q"
    assert (config.rank(path), config.scale(path, 2)) == (2, 3)
    assert (config.rank("encoder.block.0.layer.0.SelfAttention.q"), config.rank("a.EncDecAttention.qq")) == (4, 4)
    assert config.scale("encoder.block.0.layer.0.SelfAttention.v", 4) == 2
    assert dataclasses.replace(config, use_rslora=True).scale("a.v", 4) == 4


def test_a_merged_weight_is_the_sum():
    random = np.random.default_rng(0)
    planned = plan(describe_t5(SMALL), LoraConfig(r=2, target_modules=("embedding", "head")))
    a, b, c, d = (random.normal(size=shape).astype(np.float32) for shape in ((9, 2), (2, 4), (4, 2), (2, 9)))
    adapter = Adapter(planned, {EMBEDDING: Factors(a, b, 0.5), HEAD: Factors(c, d, 3.0)}, {"x": np.ones(2)})
    weights = {EMBEDDING: np.ones((9, 4), np.float32), HEAD: np.zeros((4, 9), np.float32)}
    merged = adapter.merged(weights)
    np.testing.assert_allclose(merged[EMBEDDING], 1 + 0.5 * np.einsum("ir,ro->io", a, b), atol=1e-6)
    np.testing.assert_allclose(merged[HEAD], 3 * np.einsum("ir,ro->io", c, d), atol=1e-5)
    assert merged["x"].sum() == 2
