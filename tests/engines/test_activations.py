"""The activations that engines compute."""

import pytest

from t5_pegasus.engines import keras, onnx_graph
from t5_pegasus.engines.activations import OPERATIONS, check_activations
from t5_pegasus.errors import OptionError


def test_every_engine_has_every_operation():
    """What they compute is held against the models in test_engines.py."""
    assert set(OPERATIONS.values()) == set(keras._ACTIVATIONS) == set(onnx_graph._ACTIVATIONS)


def test_others_are_refused():
    check_activations(OPERATIONS)
    with pytest.raises(OptionError, match=r"^hidden_act must be linear, .* for engines keras and onnx, got silu; use"):
        check_activations(("gelu", "silu"))
