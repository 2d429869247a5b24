"""The network that benchmarks/tiny_torch.py trains is the Keras model that ships its weights, by golden numbers."""

import json

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.config import ModelConfig
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.checkpoints import load_weights
from t5_pegasus.networks.t5 import build_from_config

GOLDEN = ROOT / "tests" / "golden" / "tiny_torch.safetensors"  # see make_tiny_torch.py beside it
ARRAYS = ("source_ids", "target_ids", "logits")

pytestmark = pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal")


def test_keras_computes_the_logits_of_the_torch_network(tmp_path):
    with safetensors.safe_open(GOLDEN, "numpy") as file:
        config = ModelConfig(**json.loads(file.metadata()["config"]))
    weights = safetensors.numpy.load_file(GOLDEN)
    source_ids, target_ids, logits = (weights.pop(name) for name in ARRAYS)
    safetensors.numpy.save_file(weights, tmp_path / "model.safetensors")
    t5 = build_from_config(config, with_lm="linear")
    load_weights(t5, tmp_path / "model.safetensors")
    computed = t5.model.predict([source_ids, target_ids], verbose=0)
    written = target_ids != 0
    np.testing.assert_allclose(computed[written], logits[written], rtol=0, atol=2e-5)
