"""T5-PEGASUS's description has the weights of the model; that it computes the same is in tests/engines."""

import dataclasses

import pytest

from t5_pegasus.config import ModelConfig
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.t5 import build_from_config
from t5_pegasus.networks.t5_description import EMBEDDING, HEAD, describe_t5

CONFIG = ModelConfig(11, 8, 2, 3, 12, 4, relative_attention_num_buckets=6)


@pytest.mark.parametrize("cross_position_bias", [True, False])
def test_weights_are_the_models(cross_position_bias):
    config = dataclasses.replace(CONFIG, cross_position_bias=cross_position_bias)
    variables = named_variables(build_from_config(config))
    assert describe_t5(config).weight_shapes() == {name: tuple(each.shape) for name, each in variables.items()}


def test_a_tied_head_is_the_embedding():
    tied = describe_t5(dataclasses.replace(CONFIG, tie_word_embeddings=True))
    assert (tied.head.linear.kernel, tied.head.linear.transposed) == (EMBEDDING, True)
    untied = describe_t5(CONFIG)
    assert untied.weight_shapes() == {**tied.weight_shapes(), HEAD: (8, 11)}
    assert dataclasses.replace(untied, head=tied.head) == tied
