"""Descriptions are held against bert4keras; what they compute, against numpy in tests/engines."""

import itertools

import numpy as np
import pytest

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import CheckpointError
from t5_pegasus.networks.backend import bert4keras, tf
from t5_pegasus.networks.description import Network, RelativeBias
from t5_pegasus.networks.t5_description import describe_t5


@pytest.mark.parametrize("bidirectional", [False, True])
def test_buckets_are_those_of_bert4keras(bidirectional):
    """For every offset, of which the rounding of a logarithm decides those on the border of two buckets."""
    for num_buckets, reach in itertools.product((4, 7, 16, 32, 33, 64), (40, 64, 127, 128, 129, 256)):
        layer = bert4keras.layers.RelativePositionEmbeddingT5(
            num_buckets, 4, max_distance=reach, bidirectional=bidirectional
        )
        found = RelativeBias("table", num_buckets, reach, bidirectional).buckets()
        # Row `reach` has all offsets from -reach to reach.
        expected = layer.compute_position_ids([tf.zeros((1, reach + 1)), tf.zeros((1, 2 * reach + 1))])[reach]
        np.testing.assert_array_equal(found, expected, err_msg=f"{num_buckets} {reach}")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"decoder/rms_norm/scale": None}, "^the network lacks the weight decoder/rms_norm/scale$"),
        ({"decoder/logits/kernel": (9, 5)}, r"^the weight decoder/logits/kernel must have the shape .*, got \(9, 5\)$"),
    ],
)
def test_weights_that_do_not_fit_a_description_are_refused(change, message):
    description = describe_t5(ModelConfig(9, 4, 1, 2, 6, 2))
    shapes = {**description.weight_shapes(), **change}
    weights = {name: np.zeros(shape) for name, shape in shapes.items() if shape is not None}
    with pytest.raises(CheckpointError, match=message):
        Network(description, weights)
