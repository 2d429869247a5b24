"""Weights files of every kind are read; the files of other programs are made here by hand, not by our own writers."""

import json
from pathlib import Path

import h5py
import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import CheckpointError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks import checkpoints
from t5_pegasus.networks.backend import bert4keras, tf
from t5_pegasus.networks.checkpoints import load_weights, named_variables, read_weights, save_weights
from t5_pegasus.networks.t5 import build_from_config, build_model

# Stock bert4keras gives one initializer to all layers, which Keras warns of; the weights are loaded over anyway.
pytestmark = pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal")

NAMES = ("model.ckpt", "best_model.weights", "model.safetensors")


def official_shapes(config, norm):
    """Return the names and shapes of the variables in a checkpoint of mT5 ("rms_norm") or T5.1.1 ("layer_norm")."""
    hidden, heads = config.hidden_size, config.num_attention_heads
    inner, wide = heads * config.attention_head_size, config.intermediate_size
    last_norm = {"rms_norm": "rms_norm", "layer_norm": "final_layer_norm"}[norm]
    shapes = {"shared/embedding": (config.vocab_size, hidden), "decoder/logits/kernel": (hidden, config.vocab_size)}
    for stack, attentions in (("encoder", ["SelfAttention"]), ("decoder", ["SelfAttention", "EncDecAttention"])):
        shapes[f"{stack}/{last_norm}/scale"] = (hidden,)
        bias = f"{stack}/block_000/layer_000/SelfAttention/relative_attention_bias"
        shapes[bias] = (heads, config.relative_attention_num_buckets)
        for block in range(config.num_hidden_layers):
            prefix = f"{stack}/block_{block:03}"
            for layer, attention in enumerate(attentions):
                shapes[f"{prefix}/layer_{layer:03}/{norm}/scale"] = (hidden,)
                shapes |= {f"{prefix}/layer_{layer:03}/{attention}/{name}": (hidden, inner) for name in "qkv"}
                shapes[f"{prefix}/layer_{layer:03}/{attention}/o"] = (inner, hidden)
            prefix = f"{prefix}/layer_{len(attentions):03}"
            shapes[f"{prefix}/{norm}/scale"] = (hidden,)
            shapes |= {f"{prefix}/DenseReluDense/wi_{gate}/kernel": (hidden, wide) for gate in range(2)}
            shapes[f"{prefix}/DenseReluDense/wo/kernel"] = (wide, hidden)
    return shapes


def write_checkpoint(prefix, values):
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )


def random_values(shapes, seed=0):
    rng = np.random.default_rng(seed)
    return {name: rng.standard_normal(shape, np.float32) for name, shape in shapes.items()}


def values_of(t5):
    return {name: variable.numpy() for name, variable in named_variables(t5).items()}


def clear(t5):
    for variable in t5.model.weights:
        variable.assign(tf.zeros_like(variable))


def assert_same_weights(t5, expected):
    actual = values_of(t5)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def logits(t5):
    rng = np.random.default_rng(0)
    return t5.model([rng.integers(1, 300, (2, 20)), rng.integers(1, 300, (2, 9))]).numpy()


@pytest.fixture(scope="module")
def t5(random_t5):
    """Return a second network of the shape of `random_t5`, to load into."""
    return build_from_config(random_t5.config, with_lm="linear")


@pytest.fixture(scope="module")
def stock(random_t5, random_model_dir, tmp_path_factory):
    """Return stock bert4keras's model with the weights of `random_t5`, read by it from our TensorFlow checkpoint."""
    path = tmp_path_factory.mktemp("checkpoint") / "model.ckpt"
    save_weights(random_t5, path)
    return bert4keras.models.build_transformer_model(
        config_path=str(random_model_dir / "config.json"),
        checkpoint_path=str(path),
        model="mt5.1.1",
        return_keras_model=False,
        with_lm="linear",
    )


# TensorFlow checkpoints


@pytest.mark.parametrize(("norm", "version"), [("rms_norm", "mt5.1.1"), ("layer_norm", "t5.1.1")])
def test_official_checkpoints_load_under_either_name(t5, tmp_path, norm, version):
    shapes = official_shapes(t5.config, norm)
    stock = bert4keras.models.T5(version=version, **t5.config.to_dict())
    theirs = stock.variable_mapping()
    assert set(shapes) == {name for names in theirs.values() for name in names}

    values = random_values(shapes)
    slots = {
        f"{name}{ending}": np.zeros(3, np.float32)
        for name in shapes
        for ending in ("_slot_vr", "_slot_vc", "_slot_v", "_slot_m", "/adam_m", "/adam_v", "/Adam", "/Adam_1")
    }
    write_checkpoint(tmp_path / "model.ckpt", values | slots | {"global_step": np.int64(7), "beta1_power": 0.5})
    clear(t5)
    load_weights(t5, tmp_path / "model.ckpt")

    # Layer by layer, what bert4keras's own loader takes from such a checkpoint, which turns the position biases.
    for layer, names in theirs.items():
        for name, actual in zip(names, t5.layers[layer].get_weights(), strict=True):
            np.testing.assert_array_equal(actual, stock.load_variable(values, name), err_msg=name)


def test_stock_bert4keras_reads_our_checkpoint(random_t5, stock):
    np.testing.assert_allclose(logits(stock), logits(random_t5), rtol=0, atol=1e-5)


def test_checkpoints_of_keras_objects_are_told_from_ours(t5, tmp_path):
    t5.model.save_weights(tmp_path / "best_model.weights")  # tf-keras, left to itself, writes a checkpoint
    with pytest.raises(CheckpointError, match=r'of Keras objects.*save_format="h5"') as caught:
        load_weights(t5, tmp_path / "best_model.weights")
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_a_checkpoint_of_the_official_size_loads(tmp_path):
    config = ModelConfig.load(ROOT / "chinese_t5_pegasus_base")
    values = random_values(official_shapes(config, "rms_norm"))
    assert sum(value.size for value in values.values()) == 275_029_248
    write_checkpoint(tmp_path / "model.ckpt", values)
    (tmp_path / "config.json").write_text(json.dumps(config.to_dict()))
    special = "[PAD]", "[UNK]", "[CLS]", "[SEP]"
    words = (f"word{index}" for index in range(len(special), 50000))
    (tmp_path / "vocab.txt").write_text("\n".join([*special, *words]))
    t5 = build_model(tmp_path)
    for name, variable in named_variables(t5).items():
        expected = values.pop(name)
        np.testing.assert_array_equal(variable, expected.T if name.endswith("_bias") else expected, err_msg=name)
    assert not values


# HDF5


def write_keras_2_3_1(path, t5, model_weights=False, chunks=1):
    """Write a file as `save_weights` of Keras 2.3.1 does for bert4keras's model: names of layers and weights as bytes.

    `model_weights`: as its `save` does, a level deeper. `chunks`: Keras cuts lists of names too long for one attribute.
    """
    number_of_dense = 0
    with h5py.File(path, "w") as file:
        root = file.create_group("model_weights") if model_weights else file
        layers = [layer.name.encode() for layer in t5.model.layers]
        if chunks == 1:
            root.attrs["layer_names"] = np.array(layers)
        else:
            for index, names in enumerate(np.array_split(layers, chunks)):
                root.attrs[f"layer_names{index}"] = names
        root.attrs["backend"] = b"tensorflow"
        root.attrs["keras_version"] = b"2.3.1"
        for layer in t5.model.layers:
            group = root.create_group(layer.name)
            names = []
            for value in layer.get_weights():
                number_of_dense += 1
                names.append(f"dense_{number_of_dense}/kernel:0".encode())
                group[names[-1].decode()] = value
            group.attrs["weight_names"] = np.array(names)


@pytest.mark.parametrize("layout", [{}, {"model_weights": True}, {"chunks": 3}])
def test_files_of_keras_2_3_1_load_by_layer_name(random_t5, stock, t5, tmp_path, layout):
    path = tmp_path / "best_model.weights"
    write_keras_2_3_1(path, stock, **layout)
    clear(t5)
    load_weights(t5, path)
    assert_same_weights(t5, values_of(random_t5))


@pytest.mark.parametrize("by_name", [True, False])
def test_stock_bert4keras_reads_our_best_model_weights(random_t5, stock, tmp_path, by_name):
    path = tmp_path / "best_model.weights"
    save_weights(random_t5, path)
    expected = logits(random_t5)
    clear(stock)
    stock.model.load_weights(str(path), by_name=by_name)
    np.testing.assert_allclose(logits(stock), expected, rtol=0, atol=1e-5)


def test_tf_keras_h5_files_load_and_its_new_layout_is_explained(random_t5, t5, tmp_path):
    random_t5.model.save_weights(tmp_path / "old.h5")
    clear(t5)
    load_weights(t5, tmp_path / "old.h5")
    assert_same_weights(t5, values_of(random_t5))
    random_t5.model.save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(CheckpointError, match="without layer names; save the weights again"):
        load_weights(t5, tmp_path / "new.weights.h5")


# Every format


@pytest.mark.parametrize("name", NAMES)
def test_what_is_saved_loads(random_t5, t5, tmp_path, name):
    path = tmp_path / "new" / name
    save_weights(random_t5, path)
    clear(t5)
    load_weights(t5, path)
    assert_same_weights(t5, values_of(random_t5))


def test_frozen_layers_are_saved_and_loaded(random_t5, t5, tmp_path):
    t5.layers["Embedding-Token"].trainable = False
    try:
        save_weights(random_t5, tmp_path / "model.safetensors")
        clear(t5)
        load_weights(t5, tmp_path / "model.safetensors")
        save_weights(t5, tmp_path / "best_model.weights")
        load_weights(t5, tmp_path / "best_model.weights")
        assert_same_weights(t5, values_of(random_t5))
    finally:
        t5.layers["Embedding-Token"].trainable = True


@pytest.mark.parametrize("dtype", ["float16", "float64", tf.bfloat16.as_numpy_dtype])
def test_other_precisions_load(random_t5, t5, tmp_path, dtype):
    path = tmp_path / "model.safetensors"
    save_weights(random_t5, path)
    values = {name: value.astype(dtype) for name, value in safetensors.numpy.load_file(path).items()}
    safetensors.numpy.save_file(values, path)
    load_weights(t5, path)
    expected = {name: value.astype(dtype).astype(np.float32) for name, value in values_of(random_t5).items()}
    assert_same_weights(t5, expected)


def test_a_file_goes_before_a_checkpoint_of_the_same_name(random_t5, t5, tmp_path):
    path = tmp_path / "best_model.weights"
    t5.model.save_weights(path)  # writes best_model.weights.index and its data
    save_weights(random_t5, path)
    clear(t5)
    load_weights(t5, path)
    assert_same_weights(t5, values_of(random_t5))


# Weights that do not fit


@pytest.mark.parametrize("name", NAMES)
def test_all_that_does_not_fit_is_named_in_one_line(random_t5, t5, tmp_path, name):
    path = tmp_path / name
    save_weights(random_t5, path)
    other = build_from_config(
        ModelConfig(
            **{**random_t5.config.to_dict(), "num_hidden_layers": 1, "intermediate_size": 80, "vocab_size": 301}
        )
    )
    before = values_of(other)
    with pytest.raises(CheckpointError) as caught:
        load_weights(other, path)
    message = str(caught.value)
    assert message.startswith(f"{path} does not fit the model: it has, unknown to the model, ")
    left_over = "block_001/layer_00" if path.suffix != ".weights" else "Encoder-Transformer-1"
    assert left_over in message
    assert "and 20 more" in message  # of 9 weights in the encoder's second block and 14 in the decoder's
    assert "differs in shape: shared/embedding (300, 64) in the file, (301, 64) in the model" in message
    assert (
        "encoder/block_000/layer_001/DenseReluDense/wi_0/kernel (64, 96) in the file, (64, 80) in the model" in message
    )
    assert "\n" not in message
    assert_same_weights(other, before)

    smaller = tmp_path / f"smaller{path.suffix}"
    save_weights(other, smaller)
    with pytest.raises(
        CheckpointError, match=r"it lacks encoder/block_001/layer_000/.* and 20 more; it differs in shape"
    ):
        load_weights(t5, smaller)


def test_a_layer_with_one_weight_too_many_is_named(stock, t5, tmp_path):
    path = tmp_path / "best_model.weights"
    write_keras_2_3_1(path, stock)
    with h5py.File(path, "a") as file:
        group = file["Decoder-Output-LM"]
        group["dense_99/bias:0"] = np.zeros(300, np.float32)
        group.attrs["weight_names"] = np.array([*group.attrs["weight_names"], b"dense_99/bias:0"])
    with pytest.raises(CheckpointError, match=r"it has, unknown to the model, Decoder-Output-LM/dense_99/bias:0$"):
        load_weights(t5, path)


def halves(path):
    """Return the file to damage and its contents: of a checkpoint the data, else the file itself."""
    path = path.with_name(f"{path.name}.data-00000-of-00001") if path.suffix == ".ckpt" else path
    return path, path.read_bytes()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kept", [0, 4, 9, 100, 0.5, -1])
def test_a_file_cut_off_is_an_error_of_one_line(random_t5, t5, tmp_path, name, kept):
    save_weights(random_t5, tmp_path / name)
    path, data = halves(tmp_path / name)
    path.write_bytes(data[: int(len(data) * kept) if kept == 0.5 else kept])
    before = values_of(t5)
    with pytest.raises(CheckpointError, match=name) as caught:
        load_weights(t5, tmp_path / name)
    assert "\n" not in str(caught.value)
    assert_same_weights(t5, before)


@pytest.mark.parametrize(
    "content", [None, b"", b"not weights at all\n", b'12345678{"a": 1}\n', b"\x89HDF\r\n\x1a\n" * 99]
)
def test_what_is_no_weights_file_is_an_error_of_one_line(t5, tmp_path, content):
    path = tmp_path / "best_model.weights"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match="best_model") as caught:
        load_weights(t5, path)
    assert "\n" not in str(caught.value)
    (tmp_path / "model.ckpt.index").write_bytes(content or b"")
    with pytest.raises(CheckpointError, match=r"model\.ckpt cannot be read") as caught:
        load_weights(t5, tmp_path / "model.ckpt")
    assert "\n" not in str(caught.value)


# Half-written files


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("share", [0.001, 0.3, 0.95])
def test_a_full_disk_leaves_the_old_file_whole_and_nothing_else(random_t5, t5, tmp_path, name, share):
    resource = pytest.importorskip("resource")
    path = tmp_path / name
    save_weights(random_t5, path)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    size = max(len(content) for content in before.values())
    assert size > 4 * 200_000  # bytes of float32 weights
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    # The system refuses to let any file grow beyond this, as it does on a full disk.
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(size * share), hard))
    try:
        with pytest.raises(CheckpointError, match=f"cannot write {path}: .*File too large") as caught:
            save_weights(t5, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(caught.value)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_an_interrupt_leaves_the_old_checkpoint_whole_and_nothing_else(random_t5, t5, tmp_path, monkeypatch):
    save_weights(random_t5, tmp_path / "model.ckpt")
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}

    def interrupted(prefix, **_):
        Path(f"{prefix}.data-00000-of-00001").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(tf.raw_ops, "SaveV2", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save_weights(t5, tmp_path / "model.ckpt")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


# Tied embeddings, and layers with more weights than their names


def build_tied(random_t5, **changes):
    return build_from_config(ModelConfig(**{**random_t5.config.to_dict(), "tie_word_embeddings": True, **changes}))


@pytest.fixture(scope="module")
def tied(random_t5):
    """Return `random_t5` with its embedding as its head."""
    t5 = build_tied(random_t5)
    for name, value in values_of(random_t5).items():
        named_variables(t5)[name].assign(value)
    variables = named_variables(t5)
    variables["decoder/logits/kernel"].assign(tf.transpose(variables["shared/embedding"]))
    return t5


@pytest.mark.parametrize("name", NAMES)
def test_a_tied_model_is_saved_and_loaded(tied, tmp_path, name):
    """Without the head's matrix only where no other program reads the file."""
    path = tmp_path / name
    save_weights(tied, path)
    other = build_from_config(tied.config)
    load_weights(other, path)
    assert_same_weights(other, values_of(tied))
    in_file = read_weights(tied, path)
    assert ("decoder/logits/kernel" in in_file) == (path.suffix != ".safetensors")


def test_half_precision_stays_tied(tied, tmp_path):
    path = tmp_path / "model.safetensors"
    values = {name: value.astype(np.float16) for name, value in checkpoints._named_values(tied).items()}
    safetensors.numpy.save_file(values, path)  # both matrices
    other = build_from_config(tied.config)
    load_weights(other, path)
    embedding, head = (values_of(other)[name] for name in ("shared/embedding", "decoder/logits/kernel"))
    np.testing.assert_array_equal(head, embedding.T)


def test_weights_of_another_kind_of_head_are_refused(random_t5, tied, t5, tmp_path):
    values = checkpoints._named_values(random_t5)
    values["decoder/logits/kernel"][3, 5] += 0.01
    safetensors.numpy.save_file(values, tmp_path / "untied.safetensors")
    before = values_of(tied)
    with pytest.raises(CheckpointError, match=r"logits/kernel that is not .* transposed, but tie_word_embeddings is t"):
        load_weights(tied, tmp_path / "untied.safetensors")
    assert_same_weights(tied, before)
    save_weights(tied, tmp_path / "tied.safetensors")
    with pytest.raises(CheckpointError, match=r"it lacks decoder/logits/kernel$"):
        load_weights(t5, tmp_path / "tied.safetensors")


@pytest.mark.parametrize("name", NAMES)
def test_weights_added_to_a_layer_are_neither_loaded_nor_saved(random_t5, tmp_path, name):
    """Also where a part of the layer is frozen, which Keras then lists behind the rest."""
    t5 = build_from_config(random_t5.config)
    attention = t5.layers["Decoder-Transformer-0-MultiHeadSelfAttention"]
    attention.q_dense.trainable = False
    adapter = attention.add_weight("adapter", (64, 64))
    adapter.assign(tf.ones((64, 64)))
    save_weights(random_t5, tmp_path / name)
    load_weights(t5, tmp_path / name)
    assert_same_weights(t5, values_of(random_t5))
    assert (adapter.numpy() == 1).all()
    save_weights(t5, tmp_path / f"again{name}")
    other = build_from_config(random_t5.config)
    load_weights(other, tmp_path / f"again{name}")
    assert_same_weights(other, values_of(random_t5))
