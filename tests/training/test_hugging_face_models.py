"""Hugging Face's models learn here as in PyTorch: gradients of a step, and mixed precision beside float32.

`tests/golden/make_hugging_face.py` has computed the gradients.
"""

import numpy as np
import pytest

from t5_pegasus.locations import ROOT
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.hugging_face import with_our_names
from t5_pegasus.networks.t5 import build_model
from t5_pegasus.training import precision
from t5_pegasus.training.optimizer import WarmupLinearDecay, make_optimizer
from t5_pegasus.training.options import TrainingConfig
from t5_pegasus.training.step import TrainStep

GOLDEN = ROOT / "tests" / "golden" / "hugging_face"


def make_step(t5, **options):
    config = TrainingConfig(**options)
    return TrainStep(t5, make_optimizer(t5, config, WarmupLinearDecay(1e-3, 0, 100)), config)


@pytest.mark.parametrize("name", [pytest.param("flan_t5", marks=pytest.mark.slow), "uer_pegasus"])
def test_gradients_of_a_step_are_those_of_torch(name, hugging_face):
    golden = np.load(GOLDEN / name / "golden.npz")
    t5 = build_model(hugging_face / name, with_lm="linear")
    names = {variable.ref(): name for name, variable in named_variables(t5).items()}
    sources, targets = (tf.constant(golden[each]) for each in ("source_ids", "target_ids"))
    scale = tf.constant(1 / np.count_nonzero(golden["target_ids"][:, 1:]), tf.float32)
    loss, _, gradients = make_step(t5)._compute_gradients(sources, targets, tf.zeros(2, tf.int32), scale)
    assert float(loss * scale) == pytest.approx(float(golden["loss"]), abs=1e-5)
    theirs = {key.removeprefix("gradient/"): golden[key] for key in golden if key.startswith("gradient/")}
    expected = with_our_names(theirs, t5.config)
    found = {
        names[variable.ref()]: gradient.numpy() for variable, gradient in zip(t5.trainable, gradients, strict=True)
    }
    assert len(found) == len(theirs)  # neither positions nor the bias of the logits learn
    for each, gradient in found.items():
        np.testing.assert_allclose(gradient, expected[each], rtol=0, atol=1e-4, err_msg=each)
    assert max(np.abs(gradient).max() for gradient in found.values()) > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", ["bfloat16", "float16"])
@pytest.mark.parametrize("name", ["t5", "flan_t5", "uer_pegasus"])
def test_mixed_precision_follows_float32(name, mixed_precision, hugging_face):
    golden = np.load(GOLDEN / name / "golden.npz")
    sources, targets = golden["source_ids"], golden["target_ids"]
    tokens = np.count_nonzero(targets[:, 1:])
    curves = []
    for kind in ("no", mixed_precision):
        with precision(kind):
            t5 = build_model(hugging_face / name, with_lm="linear")
        step = make_step(t5, mixed_precision=kind)
        curves.append([float(step(number, [lambda part, parts: (sources, targets)], tokens)[0]) for number in range(6)])
    assert curves[0][-1] < curves[0][0] - 0.2
    np.testing.assert_allclose(curves[1], curves[0], rtol=0.03)
