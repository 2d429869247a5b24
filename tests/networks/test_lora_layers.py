"""LoRA inside the bert4keras model: nothing at first, then what the merged weights give, in every engine."""

import dataclasses

import numpy as np
import pytest

from t5_pegasus import training
from t5_pegasus.decoding.inputs import Source, make_inputs
from t5_pegasus.decoding.logits import NO_EDITS
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.lora import LoraConfig
from t5_pegasus.networks.lora_layers import attach, merge, unmerge
from t5_pegasus.networks.t5 import build_from_config, network_of

ALL = LoraConfig(r=3, lora_alpha=6, target_modules=("q", "k", "v", "o", "wi_0", "wi_1", "wo", "embedding", "head"))
SOURCES = np.array([[9, 8, 7, 6, 5, 4, 3, 2], [11, 12, 13, 14, 0, 0, 0, 0]], np.int32)
TARGETS = np.array([[101, 3, 4, 5], [101, 7, 8, 0]], np.int32)


@pytest.fixture(scope="module")
def make_copy(random_t5):
    """Return a function that builds `random_t5` anew, with its weights."""

    def copy(mixed_precision="no"):
        with training.precision(mixed_precision):
            t5 = build_from_config(random_t5.config, with_lm="linear")
        for name, variable in named_variables(random_t5).items():
            named_variables(t5)[name].assign(variable)
        return t5

    return copy


def logits_of(t5):
    return t5.model([SOURCES, TARGETS], training=False).numpy()


def shake(lora):
    """Give every variable of LoRA other values."""
    random = np.random.default_rng(3)
    for variable in lora.learned:
        variable.assign(random.normal(scale=0.2, size=variable.shape))


def test_a_new_adapter_changes_no_bit_and_a_trained_one_is_its_merged_weights(make_copy, random_t5):
    base = logits_of(random_t5)
    t5 = make_copy()
    lora = attach(t5, ALL)
    np.testing.assert_array_equal(logits_of(t5), base)
    assert len(t5.trainable) == 2 * len(lora.plan.targets)
    for name, (a, b, _) in lora.factors.items():
        start, zero = (a, b) if name != "shared/embedding" else (b, a)
        assert np.abs(zero.numpy()).max() == 0
        assert start.numpy().std() > 0

    shake(lora)
    found = logits_of(t5)
    assert np.abs(found - base).max() > 1
    plain = make_copy()
    before = merge(plain, lora.adapter())
    np.testing.assert_allclose(logits_of(plain), found, atol=1e-5 * np.abs(found).max())
    unmerge(plain, before)
    for name, variable in named_variables(random_t5).items():
        np.testing.assert_array_equal(named_variables(plain)[name].numpy(), variable.numpy(), err_msg=name)


def log_probs_of(engine, adapter=None):
    """Return log-probabilities [sources, vocab_size] of the token after [CLS]."""
    sources = [dataclasses.replace(Source.whole(row[row > 0].tolist()), adapter=adapter) for row in SOURCES]
    state, rows = engine.start(make_inputs(sources)), np.arange(2, dtype=np.int32)
    _, best, found = engine.step(state, np.full((2, 1), 101, np.int32), rows[:, None], rows, NO_EDITS, 300)
    return np.take_along_axis(found, np.argsort(best, axis=-1), axis=-1)[:, 0]


@pytest.mark.slow
def test_the_keras_engine_runs_a_model_with_its_lora(make_copy):
    t5 = make_copy()
    lora = attach(t5, ALL)
    engine = KerasEngine(network_of(t5))
    shake(lora)
    expected = tf.nn.log_softmax(t5.model([SOURCES, TARGETS], training=False)[:, 0]).numpy()
    np.testing.assert_allclose(log_probs_of(engine), expected, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_frozen_matrices_are_held_in_half_precision_once(make_copy, dtype):
    plain = make_copy(dtype)
    expected = logits_of(plain)
    t5 = make_copy(dtype)
    lora = attach(t5, dataclasses.replace(ALL, target_modules=("q", "wo"), modules_to_save=("lm_head",)))
    np.testing.assert_array_equal(logits_of(t5), expected)
    kinds = {name: variable.dtype for name, variable in named_variables(t5).items()}
    for name, kind in kinds.items():
        is_kept = name.endswith(("/scale", "bias")) or name == "decoder/logits/kernel"
        assert kind == (tf.float32 if is_kept else dtype), name
    assert {variable.dtype for variable in lora.learned} == {tf.float32}
    np.testing.assert_array_equal(
        log_probs_of(KerasEngine(network_of(t5))), log_probs_of(KerasEngine(network_of(plain)))
    )


@pytest.mark.slow
def test_a_module_that_is_saved_is_trained_whole(make_copy):
    t5 = make_copy()
    lora = attach(t5, LoraConfig(target_modules=("v",), modules_to_save=("final_layer_norm",)))
    names = [name for name, variable in named_variables(t5).items() if any(variable is each for each in lora.learned)]
    assert sorted(names) == ["decoder/rms_norm/scale", "encoder/rms_norm/scale"]
    shake(lora)
    np.testing.assert_array_equal(lora.adapter().saved[names[0]], named_variables(t5)[names[0]].numpy())
    plain = make_copy()
    merge(plain, lora.adapter())
    np.testing.assert_allclose(logits_of(plain), logits_of(t5), atol=1e-5)
