"""Which weights learn: a head that is tied to the embedding learns with it, frozen layers stay as they are."""

import subprocess
import sys

import numpy as np
import pytest

from t5_pegasus import AutoTitle, build_model, training
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.backend import keras, tf
from t5_pegasus.networks.checkpoints import named_variables, save_weights
from t5_pegasus.text.tokenizer import PegasusTokenizer
from t5_pegasus.training.optimizer import WarmupLinearDecay, make_optimizer
from t5_pegasus.training.options import TrainingConfig
from t5_pegasus.training.step import TrainStep, split_head
from tests.models import SMALL
from tests.paths import UNTRAINED_MODEL_DIR

NO_DROPOUT = SMALL | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
EMBEDDING, HEAD = "shared/embedding", "decoder/logits/kernel"


def make_t5(config=None, tied=False):
    training.seed_everything(1)
    with training.precision(config.mixed_precision if config else "no"):
        return build_model(UNTRAINED_MODEL_DIR, with_lm="linear", tie_word_embeddings=tied, **NO_DROPOUT)


def values_of(t5):
    return {name: variable.numpy() for name, variable in named_variables(t5).items()}


def batches(count):
    """Return batches of pairs, sources int32 [4, 9] and targets int32 [4, 6], some of them padded."""
    random = np.random.default_rng(2)
    result = []
    for _ in range(count):
        sources, targets = random.integers(106, 7000, (4, 9)), random.integers(106, 7000, (4, 6))
        sources[1, 5:], targets[2, 4:] = 0, 0
        result.append((sources.astype(np.int32), targets.astype(np.int32)))
    return result


def take_steps(t5, optimizer, config, steps):
    step = TrainStep(t5, optimizer, config)
    for number, together in enumerate(steps):
        count = sum(int((targets[:, 1:] != 0).sum()) for _, targets in together)
        step(number, [lambda part, parts, batch=batch: batch for batch in together], count)


def slow_gradients(t5, together):
    """Return the gradients of the mean loss by a tape, through the embedding where it is read and where it is head."""
    network, _ = split_head(t5)
    variables = {name: variable for name, variable in named_variables(t5).items() if name != HEAD}
    with tf.GradientTape() as tape:
        loss, count = 0.0, 0.0
        for sources, targets in together:
            hidden = network([sources, targets[:, :-1]], training=True)
            logits = hidden @ tf.transpose(variables[EMBEDDING])
            losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, 1:], logits)
            counts = tf.cast(targets[:, 1:] != 0, tf.float32)
            loss, count = loss + tf.reduce_sum(losses * counts), count + tf.reduce_sum(counts)
        loss /= count
    return variables, [tf.convert_to_tensor(each) for each in tape.gradient(loss, list(variables.values()))]


def assert_tied(t5):
    values = values_of(t5)
    np.testing.assert_array_equal(values[HEAD], values[EMBEDDING].T)


@pytest.mark.parametrize("together", [1, 3])
def test_a_tied_step_is_that_of_a_tape_through_one_matrix(together):
    """Three steps of AdamW, clipped by the norm of all gradients and with decay."""
    steps = np.split(np.arange(3 * together), 3)
    every = batches(3 * together)
    steps = [[every[index] for index in step] for step in steps]
    config = TrainingConfig(gradient_accumulation_steps=together, weight_decay=0.1, max_grad_norm=0.5)
    t5, slow = make_t5(tied=True), make_t5(tied=True)
    assert_tied(t5)
    before = values_of(t5)
    take_steps(t5, make_optimizer(t5, config, WarmupLinearDecay(1e-2, 0, 9)), config, steps)
    assert_tied(t5)
    assert np.abs(values_of(t5)[EMBEDDING] - before[EMBEDDING]).max() > 1e-3

    optimizer = keras.optimizers.AdamW(WarmupLinearDecay(1e-2, 0, 9), weight_decay=0.1, global_clipnorm=0.5)
    spared = [each for name, each in named_variables(slow).items() if name.endswith(("scale", "bias"))]
    optimizer.exclude_from_weight_decay(spared)
    for step in steps:
        variables, gradients = slow_gradients(slow, step)
        optimizer.apply_gradients(zip(gradients, variables.values(), strict=True))
        named_variables(slow)[HEAD].assign(tf.transpose(variables[EMBEDDING]))
    expected = values_of(slow)
    for name, value in values_of(t5).items():
        # Adam's steps have the sign of a gradient, also where it is nothing but rounding.
        far = np.abs(value - expected[name]) > 1e-5
        assert far.mean() < 1e-3, name


def test_a_head_stays_tied_in_half_precision():
    """With the scaling of the loss, and batches that are summed."""
    config = TrainingConfig(mixed_precision="float16", gradient_accumulation_steps=2)
    t5 = make_t5(config, tied=True)
    before = values_of(t5)
    every = batches(6)
    optimizer = make_optimizer(t5, config, WarmupLinearDecay(1e-2, 0, 9))
    take_steps(t5, optimizer, config, [every[:2], every[2:4], every[4:]])
    assert_tied(t5)
    assert np.abs(values_of(t5)[EMBEDDING] - before[EMBEDDING]).max() > 1e-3


def test_an_optimizer_has_no_state_for_a_tied_head():
    config = TrainingConfig()
    tied, untied = (
        make_optimizer(make_t5(tied=tied), config, WarmupLinearDecay(1e-2, 0, 9)).variables for tied in (True, False)
    )
    shapes = [tuple(variable.shape) for variable in untied]
    for _ in ("momentum", "velocity"):
        shapes.remove((32, 7000))
    assert sorted(shapes) == sorted(tuple(variable.shape) for variable in tied)


MIRRORED = """
import sys
import numpy as np
sys.path[:0] = [{root!r}, {tests!r}]
from t5_pegasus.networks.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
import test_trainable as tests
config = tests.TrainingConfig(gradient_accumulation_steps=2)
def train(part):
    t5 = tests.make_t5(config, tied=True)
    optimizer = tests.make_optimizer(t5, config, tests.WarmupLinearDecay(1e-2, 0, 9))
    step = tests.TrainStep(t5, optimizer, config)
    for number in range(3):
        every = tests.batches(2)
        count = sum(int((targets[:, 1:] != 0).sum()) for _, targets in every)
        step(number, [lambda n, parts, batch=batch: [each[part(n)] for each in batch] for batch in every], count)
    return t5
with tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]).scope():
    t5 = train(lambda n: slice(2 * n, 2 * n + 2))
    variables = tests.named_variables(t5)
    for embedding, head in zip(variables[tests.EMBEDDING].values, variables[tests.HEAD].values, strict=True):
        np.testing.assert_array_equal(head.numpy(), embedding.numpy().T)
alone = tests.values_of(train(lambda n: slice(0, 4)))
far = np.abs(variables[tests.EMBEDDING].numpy() - alone[tests.EMBEDDING]) > 1e-5
assert far.mean() < 1e-3, far.mean()
"""


@pytest.mark.slow
def test_a_head_stays_tied_on_every_device():
    """Two devices take the steps of one."""
    script = MIRRORED.format(root=str(ROOT), tests=str(ROOT / "tests" / "training"))
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_titles_of_a_tied_model_are_the_same_wherever_it_runs(tmp_path):
    """Trained, saved with one matrix, loaded, exported: the reference, the Keras engine and ONNX Runtime."""
    t5, config = make_t5(tied=True), TrainingConfig()
    every = batches(3)
    optimizer = make_optimizer(t5, config, WarmupLinearDecay(1e-2, 0, 9))
    take_steps(t5, optimizer, config, [[batch] for batch in every])
    save_weights(t5, tmp_path / "model.safetensors")
    loaded = build_model(UNTRAINED_MODEL_DIR, tmp_path / "model.safetensors", tie_word_embeddings=True, **NO_DROPOUT)
    for name, value in values_of(t5).items():
        np.testing.assert_array_equal(values_of(loaded)[name], value, err_msg=name)
    export_model(loaded, UNTRAINED_MODEL_DIR / "vocab.txt", tmp_path / "exported")
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
    texts, options = ["一段正文。", "另一段长一些的正文，和它的标题。"], {"num_beams": 2, "max_new_tokens": 6}
    expected = AutoTitle(loaded, tokenizer, engine="reference").generate_n_best(texts, **options)
    for title in (AutoTitle(loaded, tokenizer, engine="keras"), AutoTitle.load(tmp_path / "exported")):
        for (found,), (best,) in zip(title.generate_n_best(texts, **options), expected, strict=True):
            assert found.ids == best.ids
            assert found.score == pytest.approx(best.score, abs=1e-4)


# Frozen layers


def one_step(tied, frozen=()):
    """Return the weights before and after a step of SGD, which without clipping is the gradient."""
    t5 = make_t5(tied=tied)
    before = values_of(t5)
    for layer in frozen:
        t5.layers[layer].trainable = False
    optimizer = keras.optimizers.SGD(0.1)
    optimizer.build(t5.trainable)  # in the step it would be traced twice
    take_steps(t5, optimizer, TrainingConfig(), [batches(1)])
    return before, values_of(t5)


@pytest.fixture(scope="module")
def steps_of_all():
    """Return the weights after a step in which all learn, by whether the head is tied."""
    return {tied: one_step(tied)[1] for tied in (False, True)}


@pytest.mark.parametrize(
    ("tied", "frozen", "still"),
    [
        (False, ["Encoder-Transformer-0-FeedForward"], "encoder/block_000/layer_001/DenseReluDense/"),
        (False, ["Decoder-Output-LM"], HEAD),
        (False, ["Embedding-Token", "Decoder-Output-LM"], (EMBEDDING, HEAD)),
        (True, ["Embedding-Token"], (EMBEDDING, HEAD)),
    ],
)
def test_frozen_weights_stay_and_the_others_learn_as_ever(tied, frozen, still, steps_of_all):
    before, found = one_step(tied, frozen)
    for name, value in found.items():
        if name.startswith(still):
            np.testing.assert_array_equal(value, before[name], err_msg=name)
        else:
            np.testing.assert_allclose(value, steps_of_all[tied][name], atol=1e-6, err_msg=name)
            assert not np.array_equal(value, before[name]), name


def test_frozen_weights_have_no_optimizer_state():
    t5 = make_t5()
    for name, layer in t5.layers.items():
        layer.trainable = name in ("Decoder-Transformer-0-MultiHeadCrossAttention", "Decoder-Output-Norm")
    optimizer = make_optimizer(t5, TrainingConfig(), WarmupLinearDecay(1e-2, 0, 9))
    shapes = [tuple(variable.shape) for variable in optimizer.variables if len(variable.shape)]
    assert shapes.count((32, 32)) == 2 * 4  # q, k, v, o: momentum and velocity
    assert shapes.count((32,)) == 2
    assert len(shapes) == 10
