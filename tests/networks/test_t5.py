"""The network is held against stock bert4keras and, by golden numbers, against Hugging Face's MT5."""

import json

import numpy as np
import pytest

from t5_pegasus.config import ModelConfig
from t5_pegasus.decoding.inputs import pad
from t5_pegasus.errors import CheckpointError, DataError, OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks import t5 as t5_module
from t5_pegasus.networks.backend import bert4keras, keras, tf
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.layers import Attention, RMSNorm
from t5_pegasus.networks.t5 import build_from_config, build_model, initialize
from t5_pegasus.training import precision

# Stock bert4keras gives one initializer to all layers, which Keras warns of; the weights are loaded over anyway.
pytestmark = pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal")

GOLDEN = ROOT / "tests" / "golden"


def build_stock(config, **kwargs):
    """Build the model of a config as bert4keras alone would."""
    return bert4keras.models.build_transformer_model(
        model="mt5.1.1", return_keras_model=False, with_lm="linear", **config.to_dict(), **kwargs
    )


def copy_weights(from_t5, to_t5):
    for layer in from_t5.variable_mapping():
        to_t5.layers[layer].set_weights(from_t5.layers[layer].get_weights())


def random_ids(*shape, seed=0, vocab_size=300):
    return np.random.default_rng(seed).integers(1, vocab_size, shape).astype(np.int32)


@pytest.fixture(scope="module")
def t5(random_model_dir):
    return build_model(random_model_dir, with_lm="linear")


@pytest.fixture(scope="module")
def stock(t5):
    stock = build_stock(t5.config)
    copy_weights(t5, stock)
    return stock


@pytest.fixture(scope="module")
def probabilities(random_model_dir):
    return build_model(random_model_dir)


@pytest.fixture(scope="module")
def half():
    """Return one model of 50,000 tokens in float32 and in mixed_float16; its activations squared overflow float16."""
    config = ModelConfig(
        vocab_size=50000,
        hidden_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        attention_head_size=16,
        intermediate_size=96,
    )
    keras.utils.set_random_seed(0)
    full = build_from_config(config, "linear")
    initialize(full)
    embedding = named_variables(full)["shared/embedding"]
    embedding.assign(embedding * 100)
    with precision("float16"):
        mixed = build_from_config(config, "linear")
    copy_weights(full, mixed)
    return full, mixed


# Building


@pytest.mark.parametrize(
    ("size", "count"),
    [
        ("tiny", 15_046_656),  # the head, which is tied to the embedding, counted as well
        pytest.param("small", 95_262_080, marks=pytest.mark.slow),
        pytest.param("base", 275_029_248, marks=pytest.mark.slow),
    ],
)
def test_number_of_parameters(size, count):
    t5 = build_from_config(ModelConfig.load(ROOT / f"chinese_t5_pegasus_{size}"))
    assert t5.model.count_params() == count
    assert sum(int(np.prod(variable.shape)) for variable in named_variables(t5).values()) == count


@pytest.mark.parametrize(
    ("changes", "overrides", "error", "words"),
    [
        ({"vocab_size": None}, {}, DataError, "lacks 'vocab_size'"),
        ({"hidden_size": "64"}, {}, OptionError, "hidden_size in .* must be int, got '64'"),
        ({"num_hidden_layers": 0}, {}, OptionError, "num_hidden_layers must be at least 1, got 0"),
        ({"hidden_dropout_prob": 1.0}, {}, OptionError, "hidden_dropout_prob .* got 1.0"),
        ({"attention_probs_dropout_prob": "low"}, {}, OptionError, "attention_probs_dropout_prob .* got 'low'"),
        ({"relative_attention_num_buckets": 2}, {}, OptionError, "relative_attention_num_buckets .* got 2"),
        ({"relative_attention_max_distance": 16}, {}, OptionError, r"relative_attention_max_distance .*\(16\), got 16"),
        ({"hidden_act": "gelu"}, {}, OptionError, "hidden_act .* must be a list of names, got 'gelu'"),
        ({"hidden_act": ["gleu", "linear"]}, {}, OptionError, "hidden_act .* got gleu"),
        ({}, {"hidden_act": 3}, OptionError, "hidden_act .* got 3"),
        ({}, {"num_layers": 3}, OptionError, "num_hidden_layers, .* got num_layers"),
        ({}, {"cross_position_bias": 0}, OptionError, "cross_position_bias in .* must be bool, got 0"),
    ],
)
def test_what_config_json_cannot_say(random_model_dir, tmp_path, changes, overrides, error, words):
    config = json.loads((random_model_dir / "config.json").read_text()) | changes
    values = {name: value for name, value in config.items() if value is not None}
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "vocab.txt").write_text((random_model_dir / "vocab.txt").read_text())
    with pytest.raises(error, match=words) as caught:
        build_model(tmp_path, **overrides)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", [None, "", "{", "[1, 2]"])
def test_what_is_no_config_json(tmp_path, text):
    if text is not None:
        (tmp_path / "config.json").write_text(text)
    with pytest.raises(DataError, match=r"config\.json") as caught:
        build_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_vocabulary_of_another_size_is_found_before_anything_is_built(random_model_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(t5_module, "build_from_config", lambda *_: pytest.fail("built"))
    (tmp_path / "config.json").write_text((random_model_dir / "config.json").read_text())
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n")
    with pytest.raises(CheckpointError, match=r"txt has 4 tokens but vocab_size in .* is 300") as caught:
        build_model(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_network_may_have_some_rows_more_than_the_vocabulary_but_none_less(random_model_dir, monkeypatch):
    """As mT5's has 250,112 for 250,100 pieces; but one of 50,000 has no vocabulary of 21,128."""
    built = []
    monkeypatch.setattr(t5_module, "build_from_config", lambda config, *_: built.append(config.vocab_size))
    monkeypatch.setattr(t5_module, "load_weights", lambda *_: None)
    for rows in (300, 301, 428):
        build_model(random_model_dir, vocab_size=rows)
    assert built == [300, 301, 428]
    for rows in (299, 429):
        with pytest.raises(CheckpointError, match=rf"txt has 300 tokens but vocab_size in config\.json is {rows}; use"):
            build_model(random_model_dir, vocab_size=rows)


# Equal to other implementations


@pytest.mark.parametrize("cross_position_bias", [True, False])
def test_logits_are_those_of_stock_bert4keras(random_model_dir, t5, stock, cross_position_bias):
    source_ids, target_ids = random_ids(2, 150), random_ids(2, 23, seed=1)  # longer than the 128 of the last bucket
    with_bias = t5.model([source_ids, target_ids]).numpy()
    if cross_position_bias:
        ours, theirs = with_bias, stock
    else:
        changed = build_model(random_model_dir, with_lm="linear", cross_position_bias=False)
        ours = changed.model([source_ids, target_ids]).numpy()
        theirs = build_stock(changed.config)
        copy_weights(changed, theirs)
        assert np.abs(ours - with_bias).max() > 0.1
    assert 0.7 < ours.std() < 1.5
    np.testing.assert_allclose(ours, theirs.model([source_ids, target_ids]).numpy(), rtol=0, atol=1e-5)


def test_the_default_is_probabilities(t5, probabilities):
    inputs = [random_ids(2, 9), random_ids(2, 5, seed=1)]
    logits, actual = t5.model(inputs).numpy(), probabilities.model(inputs).numpy()
    expected = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(actual, expected, rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(actual.sum(axis=-1), 1, rtol=0, atol=1e-6)


def test_logits_are_those_of_hugging_face(random_model_dir):
    """Without the cross-attention bias, with other buckets than T5's, under padding: see golden/make_mt5.py."""
    overrides = {"relative_attention_num_buckets": 16, "relative_attention_max_distance": 40}
    t5 = build_model(
        random_model_dir,
        weights=GOLDEN / "mt5.safetensors",
        with_lm="linear",
        num_hidden_layers=3,
        cross_position_bias=False,
        **overrides,
    )
    golden = np.load(GOLDEN / "mt5_logits.npz")
    assert (golden["source_ids"] == 0).any()
    assert 0.7 < golden["logits"].std() < 1.5
    logits = t5.model([golden["source_ids"], golden["target_ids"]]).numpy()
    np.testing.assert_allclose(logits, golden["logits"], rtol=0, atol=1e-4)


# Padding


SOURCES = [random_ids(length, seed=length).tolist() for length in (1, 7, 40)]
TARGETS = [random_ids(length, seed=length).tolist() for length in (5, 1, 12)]


def test_padding_changes_nothing(t5):
    sources, targets = np.pad(pad(SOURCES), ((0, 0), (0, 3))), pad(TARGETS)
    contexts = t5.encoder(sources).numpy()
    logits = t5.model([sources, targets]).numpy()
    from_contexts = t5.decoder.predict([contexts, targets], verbose=0)
    for row, (source, target) in enumerate(zip(SOURCES, TARGETS, strict=True)):
        source_ids, target_ids = np.array([source], np.int32), np.array([target], np.int32)
        context = t5.encoder(source_ids).numpy()
        expected = t5.model([source_ids, target_ids]).numpy()[0]
        np.testing.assert_allclose(contexts[row, : len(source)], context[0], rtol=0, atol=1e-5)
        assert not contexts[row, len(source) :].any()
        np.testing.assert_allclose(logits[row, : len(target)], expected, rtol=0, atol=1e-5)
        np.testing.assert_allclose(from_contexts[row, : len(target)], expected, rtol=0, atol=1e-5)


def test_padding_changes_what_stock_bert4keras_decodes(stock):
    source_ids, target_ids = np.array(SOURCES[1:2]), np.array(TARGETS[1:2])
    alone = stock.encoder(source_ids).numpy()
    padded = stock.encoder(np.pad(source_ids, ((0, 0), (0, 3)))).numpy()
    difference = stock.decoder([alone, target_ids]).numpy() - stock.decoder([padded, target_ids]).numpy()
    assert np.abs(difference).max() > 0.1


def test_empty_rows_give_numbers_and_disturb_no_other_row(t5):
    sources, targets = pad([*SOURCES, []]), pad([*TARGETS, []])
    contexts = t5.encoder(sources).numpy()
    logits = t5.model([sources, targets]).numpy()
    assert np.isfinite(contexts).all()
    assert np.isfinite(logits).all()
    np.testing.assert_allclose(logits[:3], t5.model([sources[:3], targets[:3]]).numpy(), rtol=0, atol=1e-5)
    contexts[3] = 0  # a context of nothing but padding, as it never comes from the encoder
    assert np.isfinite(t5.decoder.predict([contexts, targets], verbose=0)).all()


# Precision


def test_token_inputs_are_int32(t5, half):
    for each in (t5, half[1]):
        inputs = [*each.encoder.inputs, each.decoder.inputs[1], *each.model.inputs]
        assert [tensor.dtype for tensor in inputs] == [tf.int32] * 4


@pytest.mark.parametrize(("one", "other"), [(7999, 8000), (49999, 49984)])
def test_token_ids_survive_float16(half, one, other):
    _, mixed = half
    ids, same = np.array([[one], [other]]), np.array([[5], [5]])

    def difference(network, inputs):
        first, second = network(inputs).numpy().astype(np.float32)
        return np.abs(first - second).max()

    # Keras casts ids to the type of the input, so the type in which they come does not matter.
    for dtype in (np.int32, np.int64, np.float32):
        ids, same = ids.astype(dtype), same.astype(dtype)
        assert difference(mixed.encoder, ids) > 0.1
        assert difference(mixed.decoder, [np.ones((2, 3, 64)), ids]) > 0.1
        assert difference(mixed.model, [same, ids]) > 0.1
        assert difference(mixed.model, [ids, same]) > 0.01
        assert difference(mixed.model, [same, same]) == 0


def test_a_layer_on_the_token_inputs_sees_the_ids_in_float16(half, stock):
    """bert4keras computes its loss in such a layer, which casts whatever is not an integer."""

    def seen(token_ids):
        with precision("float16"):
            layer = keras.layers.Lambda(tf.identity)
        return keras.Model(token_ids, layer(token_ids)).predict(np.array([[7999, 49999]]), verbose=0).tolist()

    assert seen(half[1].model.inputs[1]) == [[7999, 49999]]
    assert seen(stock.model.inputs[1]) == [[8000, 49984]]


def test_float16_gives_what_float32_gives(half):
    full, mixed = half
    inputs = [random_ids(2, 30, vocab_size=50000), random_ids(2, 11, seed=1, vocab_size=50000)]
    assert np.abs(named_variables(full)["shared/embedding"].numpy()[inputs[0]]).max() > 256
    expected, actual = full.model(inputs), mixed.model(inputs)
    assert expected.dtype == actual.dtype == tf.float32
    assert mixed.encoder.outputs[0].dtype == tf.float16
    np.testing.assert_allclose(actual.numpy(), expected.numpy(), rtol=0, atol=0.02)


def test_norm_of_large_activations_in_float16():
    x = np.random.default_rng(0).normal(scale=1000, size=(4, 64)).astype(np.float16)
    settings = {
        "zero_mean": False,
        "offset": False,
        "epsilon": 1e-6,
        "dtype": keras.mixed_precision.Policy("mixed_float16"),
    }
    actual = RMSNorm(**settings)(x)
    assert actual.dtype == tf.float16
    exact = x.astype(np.float64)
    expected = exact / np.sqrt(np.mean(exact**2, axis=-1, keepdims=True))
    np.testing.assert_allclose(actual.numpy(), expected, rtol=1e-3)
    # The squares are infinite there, and what is divided by infinity is 0.
    assert not bert4keras.layers.LayerNormalization(**settings)(x).numpy().any()


def test_attention_weighs_in_float32():
    def share_of_second(layer):
        """Attend to two keys of the same score, 2048, and position biases 0 and 0.9; near 2048 float16 counts by 2."""
        query, keys = np.full((1, 1, 1, 1), 2048, np.float16), np.ones((1, 2, 1, 1), np.float16)
        values, bias = np.array([0, 1], np.float16).reshape(1, 2, 1, 1), np.array([0, 0.9], np.float16).reshape(1, 2, 1)
        inputs = [tf.constant(array) for array in (query, keys, values, bias)]
        masks = [None, tf.constant([[True, True]])]
        attended, _ = layer(1, 1, attention_scale=False).pay_attention_to(inputs, masks, p_bias="t5_relative")
        return attended.numpy().item()

    assert share_of_second(Attention) == pytest.approx(1 / (1 + np.exp(-0.9)), abs=1e-3)
    assert share_of_second(bert4keras.layers.MultiHeadAttention) == 0.5
