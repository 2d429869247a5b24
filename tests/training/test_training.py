"""The loss, the optimizer and the loop over epochs, on a model small enough to train in seconds."""

import csv
import functools
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from t5_pegasus import PegasusTokenizer, build_model, training
from t5_pegasus.data.examples import Example
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import CheckpointError, DataError, OptionError, PegasusError
from t5_pegasus.locations import ROOT, Weights
from t5_pegasus.networks import checkpoints
from t5_pegasus.networks.backend import keras, tf
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.training import finetuning
from t5_pegasus.training.batches import Batch
from t5_pegasus.training.loss import head_loss
from t5_pegasus.training.optimizer import AdamW, WarmupLinearDecay, make_optimizer
from t5_pegasus.training.options import TrainingConfig
from t5_pegasus.training.pairs import EncodedPairs, load_part
from t5_pegasus.training.step import TrainStep
from t5_pegasus.training.validation import figure_names
from tests.models import SMALL
from tests.paths import UNTRAINED_MODEL_DIR

DATA = DataConfig(max_source_length=24, max_target_length=8)


@pytest.fixture(scope="module")
def tokenizer():
    return PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")


@pytest.fixture(scope="module")
def pairs(sample_pairs):
    return sample_pairs[:12], sample_pairs[12:13]


def make_trainer(tokenizer, output_dir, **options):
    config = TrainingConfig(**{"learning_rate": 1e-2, "per_device_train_batch_size": 4, **options})
    return training.Trainer(make_t5(config), tokenizer, config, DATA, output_dir)


def make_t5(config, **overrides):
    training.seed_everything(config.seed)
    if config.dropout_rate is not None:
        overrides |= dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), config.dropout_rate)
    with training.precision(config.mixed_precision):
        return build_model(UNTRAINED_MODEL_DIR, with_lm="linear", **SMALL, **overrides)


def all_weights(trainer):
    return np.concatenate([variable.numpy().ravel() for variable in named_variables(trainer.t5).values()])


@pytest.mark.parametrize("static", [False, True])
@pytest.mark.parametrize("logits_at_once", [1, 40, 10_000])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_the_loss_is_that_of_a_plain_loop_over_tokens(label_smoothing, logits_at_once, static):
    random = np.random.default_rng(5)
    hidden = random.normal(size=(3, 4, 6)).astype(np.float32) * 5
    kernel = random.normal(size=(6, 11)).astype(np.float32)
    labels = np.array([[3, 4, 5, 0], [1, 0, 0, 0], [10, 9, 8, 7]], np.int32)
    losses, right = [], []
    for row, row_labels in zip((hidden @ kernel).astype(np.float64), labels, strict=True):
        for scores, label in zip(row, row_labels, strict=True):
            if label != 0:
                log_probs = scores - scores.max() - math.log(np.exp(scores - scores.max()).sum())
                target = np.full(11, label_smoothing / 11)
                target[label] += 1 - label_smoothing
                losses.append(-(target * log_probs).sum())
                right.append(scores.argmax() == label)
    result = head_loss(
        *map(tf.constant, (hidden, kernel, labels)), tf.constant(0.25), label_smoothing, 0, logits_at_once, static
    )
    assert float(result.loss) == pytest.approx(np.sum(losses), rel=1e-5)
    assert float(result.right) == np.sum(right)
    with tf.GradientTape() as tape:
        inputs = tf.constant(hidden), tf.constant(kernel)
        tape.watch(inputs)
        log_probs = tf.nn.log_softmax(inputs[0] @ inputs[1])
        wanted = (1 - label_smoothing) * tf.one_hot(labels, 11) + label_smoothing / 11
        loss = -tf.reduce_sum(wanted * log_probs * tf.cast(labels != 0, tf.float32)[..., None]) * 0.25
    for gradient, expected in zip(result[2:], tape.gradient(loss, inputs), strict=True):
        np.testing.assert_allclose(gradient, expected, atol=2e-5)


def test_a_batch_without_labels_gives_nothing():
    result = head_loss(tf.ones((2, 3, 4)), tf.ones((4, 9)), tf.zeros((2, 3), tf.int32), tf.constant(1.0))
    assert [float(tf.reduce_sum(tf.abs(each))) for each in result] == [0, 0, 0, 0]


def random_pairs(count, seed=0, vocab_size=7000):
    """Return pairs of unlike length, from [CLS] to [SEP]."""
    random = np.random.default_rng(seed)
    return EncodedPairs(
        [
            tuple([101, *random.integers(106, vocab_size, random.integers(2, longest)), 102] for longest in (14, 7))
            for _ in range(count)
        ]
    )


def batch_of(pairs, rows, size=None, more=0):
    lengths = pairs.lengths[rows].max(axis=0) + more
    return Batch(np.array(rows), size or len(rows), *lengths.tolist())


def built(optimizer, t5):
    """Return the optimizer with its variables, as that of a training has them: made in a step, it is traced twice."""
    optimizer.build(t5.trainable)
    return optimizer


def make_step(t5, config):
    """Return a step of SGD, so that a gradient's size counts."""
    return TrainStep(t5, built(keras.optimizers.SGD(0.1, global_clipnorm=1.0), t5), config)


@functools.cache
def step_and_start(config):
    """Return a step of a new model, traced once for all tests, the model, and the weights that it starts with."""
    t5 = make_t5(config)
    return make_step(t5, config), t5, t5.model.get_weights()


def one_step(pairs, batches, number=0, t5=None, **options):
    """Return loss and accuracy of one step and the weights after it."""
    config = TrainingConfig(**{"dropout_rate": 0.0, "gradient_accumulation_steps": len(batches), **options})
    if t5 is None:
        step, t5, start = step_and_start(config)
        t5.model.set_weights(start)
    else:
        step = make_step(t5, config)
    loads = [lambda part, parts, batch=batch: load_part(pairs, batch, part, parts) for batch in batches]
    count = sum(int((pairs.lengths[batch.rows, 1] - 1).sum()) for batch in batches)
    loss, accuracy = step(number, loads, count)
    return float(loss), float(accuracy), {name: value.numpy() for name, value in named_variables(t5).items()}


def assert_same_step(one, other, atol=1e-6):
    assert one[0] == pytest.approx(other[0], rel=1e-5)
    assert one[1] == pytest.approx(other[1])
    for name, value in one[2].items():
        np.testing.assert_allclose(value, other[2][name], atol=atol, err_msg=name)


def test_a_step_is_that_of_a_plain_tape():
    """The loss over all tokens, and the update that its gradient gives, with stock Keras."""
    pairs = random_pairs(6)
    batch = batch_of(pairs, range(6))
    loss, accuracy, after = one_step(pairs, [batch])
    t5 = make_t5(TrainingConfig(dropout_rate=0.0))
    sources, targets = map(tf.constant, load_part(pairs, batch, 0, 1))
    with tf.GradientTape() as tape:
        logits = t5.model([sources, targets[:, :-1]], training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, 1:], logits)
        counts = tf.cast(targets[:, 1:] != 0, tf.float32)
        expected = tf.reduce_sum(losses * counts) / tf.reduce_sum(counts)
    variables = t5.model.trainable_variables
    gradients = [tf.convert_to_tensor(gradient) for gradient in tape.gradient(expected, variables)]
    gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
    for gradient, variable in zip(gradients, variables, strict=True):
        variable.assign_sub(0.1 * gradient)
    assert loss == pytest.approx(float(expected), rel=1e-5)
    right = np.equal(np.argmax(logits, -1), targets[:, 1:]) & (targets[:, 1:].numpy() != 0)
    assert accuracy == pytest.approx(right.sum() / counts.numpy().sum())
    for name, variable in named_variables(t5).items():
        np.testing.assert_allclose(after[name], variable.numpy(), atol=1e-6, err_msg=name)


def test_padding_more_changes_nothing():
    pairs = random_pairs(4)
    plain = one_step(pairs, [batch_of(pairs, range(4))])
    assert_same_step(plain, one_step(pairs, [batch_of(pairs, range(4), size=7, more=5)]))


def test_batches_whose_gradients_are_summed_are_one_batch():
    """Of unlike sizes and lengths: the mean is over the tokens of all, not over the batches' means."""
    pairs = random_pairs(9)
    joint = one_step(pairs, [batch_of(pairs, range(9))])
    parts = [batch_of(pairs, rows) for rows in (range(5), range(5, 6), range(6, 9))]
    assert_same_step(joint, one_step(pairs, parts))
    # The last step of an epoch may have fewer batches.
    assert_same_step(joint, one_step(pairs, parts, gradient_accumulation_steps=4))


@pytest.mark.slow
def test_sums_start_anew_with_each_step():
    pairs = random_pairs(8)
    config = TrainingConfig(dropout_rate=0.0, gradient_accumulation_steps=2)
    results = []
    for together in (1, 2):
        t5 = make_t5(config)
        step = TrainStep(t5, built(keras.optimizers.SGD(0.1), t5), TrainingConfig(gradient_accumulation_steps=together))
        for number in range(3):
            rows = np.arange(number, number + 4)
            batches = [batch_of(pairs, part) for part in np.split(rows, together)]
            loads = [lambda part, parts, batch=batch: load_part(pairs, batch, part, parts) for batch in batches]
            step(number, loads, int((pairs.lengths[rows, 1] - 1).sum()))
        results.append({name: value.numpy() for name, value in named_variables(t5).items()})
    for name, value in results[0].items():
        np.testing.assert_allclose(value, results[1][name], atol=2e-6, err_msg=name)


@pytest.mark.slow
def test_dropout_goes_by_the_number_of_the_step_and_the_seed():
    pairs = random_pairs(4)
    batch = batch_of(pairs, range(4))
    same, again, later, other = (
        one_step(pairs, [batch], number, dropout_rate=0.3, seed=seed)[0]
        for number, seed in ((3, 1), (3, 1), (4, 1), (3, 2))
    )
    assert same == again
    assert len({same, later, other}) == 3


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_nothing():
    schedule = WarmupLinearDecay(0.5, warmup_steps=4, total_steps=10)
    rates = [float(schedule(step)) for step in range(12)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert np.diff(rates[3:10]) == pytest.approx([-0.5 / 7] * 6)
    assert rates[9] > 0
    assert rates[10:] == [0, 0]
    assert float(WarmupLinearDecay(0.5, 0, 3)(0)) == 0.5


def test_decay_shrinks_matrices_only(tokenizer, tmp_path):
    """A step with gradients of 0 leaves everything in place but for the decay."""
    trainer = make_trainer(tokenizer, tmp_path, weight_decay=0.5, warmup_ratio=0.0)
    before = {name: variable.numpy() for name, variable in named_variables(trainer.t5).items()}
    optimizer = make_optimizer(trainer.t5, trainer.config, WarmupLinearDecay(1e-2, 0, 10))
    variables = trainer.t5.model.trainable_variables
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])
    for name, variable in named_variables(trainer.t5).items():
        factor = 1.0 if name.endswith(("scale", "relative_attention_bias")) else 1 - 0.5 * 1e-2
        np.testing.assert_allclose(variable.numpy(), before[name] * factor, rtol=1e-5, err_msg=name)


class Run(NamedTuple):
    """A finished run: its folder, what `fit` returned and the weights in the end."""

    folder: Path
    history: list
    weights: np.ndarray


def run(tokenizer, folder, pairs, **options):
    """Train for four epochs, with dropout."""
    trainer = make_trainer(tokenizer, folder, num_train_epochs=4, save_total_limit=2, **options)
    return Run(folder, untimed(trainer.fit(*pairs)), all_weights(trainer))


@pytest.fixture(scope="module")
def whole_run(tokenizer, pairs, tmp_path_factory):
    return run(tokenizer, tmp_path_factory.mktemp("whole"), pairs)


@pytest.mark.parametrize(
    ("seed", "is_same"), [(TrainingConfig.seed, True), pytest.param(2, False, marks=pytest.mark.slow)]
)
def test_two_runs_with_a_seed_are_equal_and_with_another_not(whole_run, tokenizer, tmp_path, pairs, seed, is_same):
    other = run(tokenizer, tmp_path, pairs, seed=seed)
    assert (other.history == whole_run.history) == is_same
    assert np.array_equal(other.weights, whole_run.weights) == is_same


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(whole_run, tokenizer, tmp_path, pairs, monkeypatch):
    """With dropout on: order, optimizer and random numbers all go on where they stopped."""
    with monkeypatch.context() as patch:
        patch.setattr(finetuning, "write_log", _interrupting(finetuning.write_log, after=2))
        with pytest.raises(KeyboardInterrupt):
            run(tokenizer, tmp_path, pairs)

    resumed = make_trainer(tokenizer, tmp_path, num_train_epochs=4, save_total_limit=2)
    assert [row["epoch"] for row in resumed.fit(*pairs, resume=True)] == [1, 2, 3, 4]
    np.testing.assert_array_equal(all_weights(resumed), whole_run.weights)
    with (tmp_path / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert untimed([{name: float(value) for name, value in row.items()} for row in rows]) == whole_run.history
    figures = ["epoch", "loss", "accuracy", "train_runtime", "train_samples_per_second", *figure_names("zh")]
    assert list(rows[0]) == figures
    for row in rows:
        for part in ("train", "eval"):
            pairs_seen = float(row[f"{part}_runtime"]) * float(row[f"{part}_samples_per_second"])
            assert pairs_seen == pytest.approx(12 if part == "train" else 1)


def untimed(rows):
    """Return rows without the figures that depend on the machine."""
    return [{name: row[name] for name in row if "runtime" not in name and "per_second" not in name} for row in rows]


def _interrupting(function, after):
    calls = []

    def called(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*args)

    return called


def test_a_new_run_puts_an_earlier_one_out_of_the_way(whole_run, tokenizer, tmp_path, pairs, capsys):
    """Its state must not be resumed by mistake, its best weights must not be lost to a first bad epoch."""
    shutil.copytree(whole_run.folder, tmp_path, dirs_exist_ok=True)
    best = (tmp_path / "best_model.weights").read_bytes()
    stopped = make_trainer(tokenizer, tmp_path, num_train_epochs=2, seed=7)
    stopped._train_epoch = _interrupting(stopped._train_epoch, after=0)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(*pairs)
    assert (tmp_path / "best_model.weights").read_bytes() == best
    # Killed before its first checkpoint, it begins anew: the earlier run's state is gone.
    rows = make_trainer(tokenizer, tmp_path, num_train_epochs=1, seed=7).fit(*pairs, resume=True)
    assert [row["epoch"] for row in rows] == [1]
    assert "training_state yet: starting from the beginning\n" in capsys.readouterr().out
    assert (tmp_path / "best_model.weights.previous").read_bytes() == best


def test_a_run_goes_on_with_its_pairs_only_and_tells_of_other_options(whole_run, tokenizer, tmp_path, pairs, capsys):
    shutil.copytree(whole_run.folder, tmp_path, dirs_exist_ok=True)
    assert {path.stem for path in (tmp_path / "training_state").glob("*.index")} == {"ckpt-3", "ckpt-4"}
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=5, save_total_limit=2)
    with pytest.raises(OptionError, match="cannot resume with other batches: digest of the pairs was"):
        trainer.fit(pairs[0][::-1], pairs[1], resume=True)
    assert len(trainer.fit(*pairs, resume=True)) == 5
    assert "going on with other options: num_train_epochs was 4 and is 5\n" in capsys.readouterr().err


def test_a_state_of_another_model_is_not_resumed(whole_run, tokenizer, tmp_path, pairs):
    shutil.copytree(whole_run.folder, tmp_path, dirs_exist_ok=True)
    with pytest.raises(CheckpointError, match="another model or precision"):
        make_trainer(tokenizer, tmp_path, num_train_epochs=2, mixed_precision="float16").fit(*pairs, resume=True)


def test_training_that_diverges_stops(tokenizer, tmp_path, pairs):
    with pytest.raises(PegasusError, match=r"the loss is nan at step .*; lower --learning_rate"):
        make_trainer(tokenizer, tmp_path, learning_rate=1e30, max_grad_norm=0.0, warmup_ratio=0.0).fit(*pairs)


def test_an_unknown_metric_is_refused(tokenizer, tmp_path, pairs):
    with pytest.raises(OptionError, match=r"metric_for_best_model must be one of rouge-1, .*, got BLEU"):
        make_trainer(tokenizer, tmp_path, metric_for_best_model="BLEU").fit(*pairs)


def test_best_weights_are_those_of_the_best_epoch(tokenizer, tmp_path, pairs, monkeypatch):
    scores = iter([0.2, 0.5, 0.4, 0.5])
    saved = []
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=4, metric_for_best_model="rouge-l")
    monkeypatch.setattr(trainer, "_validate", lambda _: {"rouge-l": next(scores), "bleu": 0.0})
    save = checkpoints.save_weights
    monkeypatch.setattr(
        finetuning, "save_weights", lambda t5, path: (saved.append(all_weights(trainer)), save(t5, path))
    )
    history = trainer.fit(*pairs)
    assert len(saved) == 2
    best = build_model(UNTRAINED_MODEL_DIR, tmp_path / "best_model.weights", **SMALL)
    loaded = np.concatenate([variable.numpy().ravel() for variable in named_variables(best).values()])
    np.testing.assert_array_equal(loaded, saved[1])
    assert [row["rouge-l"] for row in history] == [0.2, 0.5, 0.4, 0.5]


def test_training_stops_when_nothing_gets_better(tokenizer, tmp_path, pairs, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=5, early_stopping_patience=2)
    monkeypatch.setattr(trainer, "_validate", lambda _: {"bleu": next(scores)})
    assert len(trainer.fit(*pairs)) == 4


def test_the_curve_is_logged_for_tensorboard(whole_run):
    (events,) = (whole_run.folder / "tensorboard").iterdir()
    logged = {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    for row in whole_run.history:
        for name in ("loss", "accuracy", "rouge-1", "rouge-2", "rouge-l", "bleu"):
            assert logged[name, row["epoch"]] == pytest.approx(row[name])


def test_a_full_disk_leaves_the_last_good_weights(tokenizer, tmp_path, pairs, monkeypatch):
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=2)
    scores = iter([0.1, 0.2])
    monkeypatch.setattr(trainer, "_validate", lambda _: {"bleu": next(scores)})
    write = Path.write_bytes
    calls = []

    def write_once(path, data):
        calls.append(path)
        if len(calls) == 2:
            write(path, bytes(data)[: len(data) // 2])
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", write_once)
    with pytest.raises(CheckpointError, match="No space left"):
        trainer.fit(*pairs)
    build_model(UNTRAINED_MODEL_DIR, tmp_path / "best_model.weights", **SMALL)
    assert not list(tmp_path.glob(".*")), "a temporary file is left"


def test_no_pairs_are_an_error(tokenizer, tmp_path, pairs):
    with pytest.raises(DataError, match="at least one pair"):
        make_trainer(tokenizer, tmp_path).fit(pairs[0], [])


def run_steps(mixed_precision, vocab_size, steps, tmp_path, learning_rate=3e-3):
    """Return the losses of training steps on a random model, ids over the whole vocabulary."""
    (tmp_path / "config.json").write_text((UNTRAINED_MODEL_DIR / "config.json").read_text())
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]", 103: "[MASK]"}
    (tmp_path / "vocab.txt").write_text("".join(special.get(n, f"t{n}") + "\n" for n in range(vocab_size)))
    training.seed_everything(0)
    config = TrainingConfig(mixed_precision=mixed_precision, learning_rate=learning_rate)
    with training.precision(mixed_precision):
        t5 = build_model(
            tmp_path, with_lm="linear", vocab_size=vocab_size, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **SMALL,
        )  # fmt: skip
    optimizer = make_optimizer(t5, config, WarmupLinearDecay(learning_rate, steps // 10, steps))
    step = TrainStep(t5, optimizer, config)
    random = np.random.default_rng(1)
    # Few sources, over and over, so that there is something to learn; the last ids of the vocabulary among them.
    sources = tf.constant(random.integers(vocab_size - 40, vocab_size, (8, 10)), tf.int32)
    targets = tf.concat([tf.fill((8, 1), 101), sources[:, :4]], axis=1)
    return [float(step(number, [lambda *_: (sources, targets)], 32)[0]) for number in range(steps)]


@pytest.fixture(scope="module")
def fifty_losses(tmp_path_factory):
    losses = run_steps("no", 7000, 50, tmp_path_factory.mktemp("float32"))
    assert losses[-1] < 0.5 * losses[0]
    return losses


@pytest.mark.parametrize(("mixed_precision", "rtol", "atol"), [("float16", 0.02, 0.05), ("bfloat16", 0.05, 0.05)])
def test_fifty_steps_in_half_precision_follow_float32(mixed_precision, rtol, atol, fifty_losses, tmp_path):
    np.testing.assert_allclose(run_steps(mixed_precision, 7000, 50, tmp_path), fifty_losses, rtol=rtol, atol=atol)


@pytest.mark.slow
def test_a_vocabulary_of_50000_survives_float16(tmp_path):
    losses = run_steps("float16", 50_000, 30, tmp_path, learning_rate=1e-2)
    assert losses == pytest.approx(run_steps("no", 50_000, 30, tmp_path, learning_rate=1e-2), rel=0.03, abs=0.05)
    assert losses[-1] < 0.5 * losses[0]


def test_texts_beyond_the_limits_are_cut_and_counted(tokenizer, capsys):
    examples = [Example("很长的正文" * 20, "很长的标题" * 9), Example("短", "题")]
    encoded = training.encode_pairs(tokenizer, examples, DATA)
    assert encoded.lengths.tolist() == [[24, 8], [3, 3]]
    assert [len(ids) for ids in encoded[0]] == [24, 8]
    assert "2 training texts were cut to max_source_length 24" in capsys.readouterr().err


def test_adamw_is_that_of_keras():
    """Fused or not: five steps of random gradients leave the same weights."""
    random = np.random.default_rng(3)
    shapes = ((7, 5), (5,))
    gradients = [[random.normal(size=shape).astype(np.float32) for shape in shapes] for _ in range(5)]
    results = []
    for kind in (AdamW, keras.optimizers.AdamW):
        variables = [tf.Variable(tf.ones(shape)) for shape in shapes]
        optimizer = kind(WarmupLinearDecay(0.1, 2, 9), weight_decay=0.1, global_clipnorm=1.0)
        for step in gradients:
            optimizer.apply_gradients(zip(map(tf.constant, step), variables, strict=True))
        results.append([variable.numpy() for variable in variables])
    for one, other in zip(*results, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5)


def test_scale_parameter_is_a_rate_for_each_weight():
    """As Keras's AdamW for each alone, its rate set before every step; a weight of zeros moves too."""
    random = np.random.default_rng(4)
    starts = [(scale * random.normal(size=(7, 5))).astype(np.float32) for scale in (1.0, 1 / 128, 0.0)]
    gradients = [[random.normal(size=(7, 5)).astype(np.float32) for _ in starts] for _ in range(5)]
    variables, expected = [tf.Variable(start) for start in starts], [tf.Variable(start) for start in starts]
    scaled = AdamW(0.1, weight_decay=0.0, scale_parameter=True)
    alone = [keras.optimizers.AdamW(0.1, weight_decay=0.0) for _ in starts]
    for step in gradients:
        scaled.apply_gradients(zip(map(tf.constant, step), variables, strict=True))
        for optimizer, gradient, variable in zip(alone, step, expected, strict=True):
            optimizer.learning_rate = 0.1 * max(1e-3, float(np.sqrt(np.mean(variable.numpy() ** 2))))
            optimizer.apply_gradients([(tf.constant(gradient), variable)])
    for variable, other in zip(variables, expected, strict=True):
        np.testing.assert_allclose(variable.numpy(), other.numpy(), rtol=1e-4)


@pytest.mark.parametrize("scale_parameter", [False, True])
@pytest.mark.parametrize("mixed_precision", ["no", "float16"])
def test_the_first_step_moves_each_weight_by_its_rate(scale_parameter, mixed_precision, small_model_dir):
    """After decay, Adam's first step is the rate, whatever the gradient."""
    config = TrainingConfig(scale_parameter=scale_parameter, weight_decay=0.5, mixed_precision=mixed_precision)
    t5 = training.build_for_training(small_model_dir, Weights.RANDOM, config)
    weights = named_variables(t5)
    optimizer = make_optimizer(t5, config, WarmupLinearDecay(0.01, 0, 10**9))
    before = {name: weight.numpy() for name, weight in weights.items()}
    optimizer.apply_gradients((tf.ones_like(weight), weight) for weight in t5.model.trainable_variables)
    for name, weight in weights.items():
        decay = 1 if name.endswith(("scale", "relative_attention_bias")) else 1 - 0.5 * 0.01
        start = before[name] * decay
        rate = 0.01 * (max(1e-3, np.sqrt(np.mean(start**2))) if scale_parameter else 1)
        np.testing.assert_allclose(start - weight.numpy(), rate, rtol=0.01, atol=1e-6, err_msg=name)


def one_built_step(model_dir, **options):
    """Return a step of a model as the scripts build it, with dropout unless `options` say otherwise."""
    config = TrainingConfig(seed=3, **options)
    pairs, t5 = random_pairs(6), training.build_for_training(model_dir, Weights.RANDOM, config)
    return one_step(pairs, [batch_of(pairs, range(6))], t5=t5, seed=3, dropout_rate=0.1, xla=config.xla)


@pytest.mark.slow
@pytest.mark.parametrize("mixed_precision", ["no", "bfloat16"])
def test_activations_computed_twice_give_the_same_step(mixed_precision, small_model_dir):
    plain = one_built_step(small_model_dir, mixed_precision=mixed_precision)
    again = one_built_step(small_model_dir, mixed_precision=mixed_precision, gradient_checkpointing=True)
    assert_same_step(plain, again, atol=1e-6 if mixed_precision == "no" else 1e-4)


@pytest.mark.slow
def test_xla_gives_the_same_step(small_model_dir):
    plain = one_built_step(small_model_dir, dropout_rate=0.0)
    assert_same_step(plain, one_built_step(small_model_dir, dropout_rate=0.0, xla=True), atol=1e-5)


def peak_memory_of_a_step(gradient_checkpointing):
    """Return how much more memory, in MB, a process on Linux needs for a step on long texts than for the model."""
    script = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import numpy as np
from tests.paths import UNTRAINED_MODEL_DIR
from t5_pegasus.training.options import TrainingConfig
from t5_pegasus.locations import Weights
from t5_pegasus.training import build_for_training
from t5_pegasus.training.optimizer import WarmupLinearDecay, make_optimizer
from t5_pegasus.training.step import TrainStep
config = TrainingConfig(gradient_checkpointing={gradient_checkpointing})
t5 = build_for_training(UNTRAINED_MODEL_DIR, Weights.RANDOM, config)
step = TrainStep(t5, make_optimizer(t5, config, WarmupLinearDecay(1e-3, 1, 9)), config)
def megabytes():
    return int(open("/proc/self/status").read().partition("VmHWM:")[2].split()[0]) / 1024
open("/proc/self/clear_refs", "w").write("5")  # the peak so far is forgotten
before = megabytes()
batch = np.full((8, 384), 200, np.int32), np.full((8, 64), 200, np.int32)
step(0, [lambda *_: batch], 8 * 63)[0].numpy()
print(megabytes() - before)
"""
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return float(result.stdout)


@pytest.mark.slow
def test_activations_computed_twice_take_less_memory():
    assert peak_memory_of_a_step(True) < 0.8 * peak_memory_of_a_step(False)
