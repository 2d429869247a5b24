"""The loss, the optimizer and the loop over epochs, on a model small enough to train in seconds."""

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from t5_pegasus import PegasusTokenizer, build_model, checkpoints, training
from t5_pegasus.backend import tf
from t5_pegasus.checkpoints import named_variables
from t5_pegasus.config import DataConfig, TrainingConfig
from t5_pegasus.errors import CheckpointError, DataError, OptionError, PegasusError
from t5_pegasus.examples import Example
from t5_pegasus.locations import TINY_MODEL_DIR

SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "attention_head_size": 16,
}
DATA = DataConfig(max_source_length=24, max_target_length=8)


@pytest.fixture(scope="module")
def tokenizer():
    return PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")


@pytest.fixture(scope="module")
def pairs(sample_pairs):
    return sample_pairs[:12], sample_pairs[12:16]


def make_trainer(tokenizer, output_dir, **options):
    config = TrainingConfig(**{"learning_rate": 1e-2, "per_device_train_batch_size": 4, **options})
    training.seed_everything(config.seed)
    with training.precision(config.mixed_precision):
        t5 = build_model(TINY_MODEL_DIR, with_lm="linear", **SMALL)
    return training.Trainer(t5, tokenizer, config, DATA, output_dir)


def all_weights(trainer):
    return np.concatenate([variable.numpy().ravel() for variable in named_variables(trainer.t5).values()])


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_loss_is_that_of_a_plain_loop_over_tokens(label_smoothing, dtype):
    random = np.random.default_rng(5)
    logits = (random.normal(size=(3, 4, 11)) * 100).astype(dtype)
    labels = np.array([[3, 4, 5, 0], [1, 0, 0, 0], [10, 9, 8, 7]], np.int32)
    losses, right = [], []
    for row, row_labels in zip(logits.astype(np.float64), labels, strict=True):
        for scores, label in zip(row, row_labels, strict=True):
            if label != 0:
                log_probs = scores - scores.max() - math.log(np.exp(scores - scores.max()).sum())
                target = np.full(11, label_smoothing / 11)
                target[label] += 1 - label_smoothing
                losses.append(-(target * log_probs).sum())
                right.append(scores.argmax() == label)
    loss, accuracy = training.token_loss(tf.constant(logits), tf.constant(labels), label_smoothing)
    assert loss.dtype == tf.float32
    assert float(loss) == pytest.approx(np.mean(losses), rel=1e-5)
    assert float(accuracy) == pytest.approx(np.mean(right))


def test_padding_more_changes_no_loss_and_no_gradient(tokenizer, tmp_path):
    trainer = make_trainer(tokenizer, tmp_path, dropout_rate=0.0)
    random = np.random.default_rng(0)
    sources, targets = random.integers(106, 7000, (2, 3, 9)).astype(np.int32)

    def loss_and_gradients(sources, targets):
        with tf.GradientTape() as tape:
            logits = trainer.t5.model([sources, targets[:, :-1]], training=False)
            loss, _ = training.token_loss(logits, targets[:, 1:])
        return float(loss), [
            tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, trainer.t5.model.trainable_variables)
        ]

    loss, gradients = loss_and_gradients(sources, targets)
    padded_loss, padded = loss_and_gradients(np.pad(sources, ((0, 0), (0, 5))), np.pad(targets, ((0, 0), (0, 3))))
    assert padded_loss == pytest.approx(loss, abs=1e-5)
    for one, other in zip(gradients, padded, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_the_learning_rate_climbs_to_its_peak_and_falls_to_nothing():
    schedule = training.WarmupLinearDecay(0.5, warmup_steps=4, total_steps=10)
    rates = [float(schedule(step)) for step in range(12)]
    assert rates[:4] == pytest.approx([0.125, 0.25, 0.375, 0.5])
    assert np.diff(rates[3:10]) == pytest.approx([-0.5 / 7] * 6)
    assert rates[9] > 0
    assert rates[10:] == [0, 0]
    assert float(training.WarmupLinearDecay(0.5, 0, 3)(0)) == 0.5


def test_decay_shrinks_matrices_only(tokenizer, tmp_path):
    """A step with gradients of 0 leaves everything in place but for the decay."""
    trainer = make_trainer(tokenizer, tmp_path, weight_decay=0.5, warmup_ratio=0.0)
    before = {name: variable.numpy() for name, variable in named_variables(trainer.t5).items()}
    optimizer = training.make_optimizer(trainer.t5, trainer.config, total_steps=10)
    variables = trainer.t5.model.trainable_variables
    optimizer.apply_gradients([(tf.zeros_like(variable), variable) for variable in variables])
    for name, variable in named_variables(trainer.t5).items():
        factor = 1.0 if name.endswith(("scale", "relative_attention_bias")) else 1 - 0.5 * 1e-2
        np.testing.assert_allclose(variable.numpy(), before[name] * factor, rtol=1e-5, err_msg=name)


def test_two_runs_with_a_seed_are_equal_and_with_another_not(tokenizer, tmp_path, pairs):
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        trainer = make_trainer(tokenizer, tmp_path / name, num_train_epochs=2, seed=seed)
        runs.append((trainer.fit(*pairs), all_weights(trainer)))
    assert runs[0][0] == runs[1][0]
    np.testing.assert_array_equal(runs[0][1], runs[1][1])
    assert runs[0][0] != runs[2][0]


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(tokenizer, tmp_path, pairs, monkeypatch):
    """With dropout on: order, optimizer and random numbers all go on where they stopped."""
    whole = make_trainer(tokenizer, tmp_path / "whole", num_train_epochs=4)
    history = whole.fit(*pairs)

    stopped = make_trainer(tokenizer, tmp_path / "stopped", num_train_epochs=4)
    with monkeypatch.context() as patch:
        patch.setattr(training, "_write_log", _interrupting(training._write_log, after=2))
        with pytest.raises(KeyboardInterrupt):
            stopped.fit(*pairs)

    resumed = make_trainer(tokenizer, tmp_path / "stopped", num_train_epochs=4, seed=42)
    assert [row["epoch"] for row in resumed.fit(*pairs, resume=True)] == [1, 2, 3, 4]
    np.testing.assert_array_equal(all_weights(resumed), all_weights(whole))
    with (tmp_path / "stopped" / "training_log.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history


def _interrupting(function, after):
    calls = []

    def called(*args):
        calls.append(args)
        if len(calls) > after:
            raise KeyboardInterrupt
        return function(*args)

    return called


def test_a_new_run_puts_an_earlier_one_out_of_the_way(tokenizer, tmp_path, pairs):
    """Its state must not be resumed by mistake, its best weights must not be lost to a first bad epoch."""
    make_trainer(tokenizer, tmp_path, num_train_epochs=2).fit(*pairs)
    best = (tmp_path / "best_model.weights").read_bytes()
    stopped = make_trainer(tokenizer, tmp_path, num_train_epochs=2, seed=7)
    stopped._train_epoch = _interrupting(stopped._train_epoch, after=0)
    with pytest.raises(KeyboardInterrupt):
        stopped.fit(*pairs)
    assert (tmp_path / "best_model.weights").read_bytes() == best
    with pytest.raises(OptionError, match="nothing to resume"):
        make_trainer(tokenizer, tmp_path, num_train_epochs=2, seed=7).fit(*pairs, resume=True)
    make_trainer(tokenizer, tmp_path, num_train_epochs=1, seed=7).fit(*pairs)
    assert (tmp_path / "best_model.weights.previous").read_bytes() == best


def test_a_state_of_another_model_is_not_resumed(tokenizer, tmp_path, pairs):
    make_trainer(tokenizer, tmp_path, num_train_epochs=1).fit(*pairs)
    with pytest.raises(CheckpointError, match="another model or precision"):
        make_trainer(tokenizer, tmp_path, num_train_epochs=2, mixed_precision="float16").fit(*pairs, resume=True)


def test_training_that_diverges_stops(tokenizer, tmp_path, pairs):
    with pytest.raises(PegasusError, match=r"the loss is nan at step .*; lower --learning_rate"):
        make_trainer(tokenizer, tmp_path, learning_rate=1e30, max_grad_norm=0.0, warmup_ratio=0.0).fit(*pairs)


def test_an_unknown_metric_is_refused(tokenizer, tmp_path, pairs):
    with pytest.raises(OptionError, match=r"metric_for_best_model must be one of rouge-1, .*, got BLEU"):
        make_trainer(tokenizer, tmp_path, metric_for_best_model="BLEU").fit(*pairs)


def test_nothing_to_resume_is_said(tokenizer, tmp_path, pairs):
    with pytest.raises(OptionError, match="nothing to resume"):
        make_trainer(tokenizer, tmp_path).fit(*pairs, resume=True)


def test_best_weights_are_those_of_the_best_epoch(tokenizer, tmp_path, pairs, monkeypatch):
    scores = iter([0.2, 0.5, 0.4, 0.5])
    saved = []
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=4, metric_for_best_model="rouge-l")
    monkeypatch.setattr(trainer, "_validate", lambda _: {"rouge-l": next(scores), "bleu": 0.0})
    save = checkpoints.save_weights
    monkeypatch.setattr(training, "save_weights", lambda t5, path: (saved.append(all_weights(trainer)), save(t5, path)))
    history = trainer.fit(*pairs)
    assert len(saved) == 2
    best = build_model(TINY_MODEL_DIR, tmp_path / "best_model.weights", **SMALL)
    loaded = np.concatenate([variable.numpy().ravel() for variable in named_variables(best).values()])
    np.testing.assert_array_equal(loaded, saved[1])
    assert [row["rouge-l"] for row in history] == [0.2, 0.5, 0.4, 0.5]


def test_training_stops_when_nothing_gets_better(tokenizer, tmp_path, pairs, monkeypatch):
    scores = iter([0.1, 0.3, 0.2, 0.3, 0.9])
    trainer = make_trainer(tokenizer, tmp_path, num_train_epochs=5, early_stopping_patience=2)
    monkeypatch.setattr(trainer, "_validate", lambda _: {"bleu": next(scores)})
    assert len(trainer.fit(*pairs)) == 4


def test_the_curve_is_logged_for_tensorboard(tokenizer, tmp_path, pairs):
    history = make_trainer(tokenizer, tmp_path, num_train_epochs=2).fit(*pairs)
    (events,) = (tmp_path / "tensorboard").iterdir()
    logged = {
        (value.tag, event.step): float(tf.make_ndarray(value.tensor))
        for event in tf.compat.v1.train.summary_iterator(str(events))
        for value in event.summary.value
    }
    for row in history:
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
    build_model(TINY_MODEL_DIR, tmp_path / "best_model.weights", **SMALL)
    assert not list(tmp_path.glob(".*")), "a temporary file is left"


def test_no_pairs_are_an_error(tokenizer, tmp_path, pairs):
    with pytest.raises(DataError, match="at least one pair"):
        make_trainer(tokenizer, tmp_path).fit(pairs[0], [])


def run_steps(mixed_precision, vocab_size, steps, tmp_path, learning_rate=3e-3):
    """Return the losses of training steps on a random model, ids over the whole vocabulary."""
    (tmp_path / "config.json").write_text((TINY_MODEL_DIR / "config.json").read_text())
    (tmp_path / "vocab.txt").write_text("".join(f"t{n}\n" for n in range(vocab_size)))
    training.seed_everything(0)
    config = TrainingConfig(mixed_precision=mixed_precision, learning_rate=learning_rate)
    with training.precision(mixed_precision):
        t5 = build_model(
            tmp_path, with_lm="linear", vocab_size=vocab_size, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **SMALL,
        )  # fmt: skip
    step = training.make_train_step(t5, training.make_optimizer(t5, config, steps))
    random = np.random.default_rng(1)
    # Few sources, over and over, so that there is something to learn; the last ids of the vocabulary among them.
    sources = tf.constant(random.integers(vocab_size - 40, vocab_size, (8, 10)), tf.int32)
    targets = tf.concat([tf.fill((8, 1), 101), sources[:, :4]], axis=1)
    return [float(step(sources, targets)[0]) for _ in range(steps)]


def test_fifty_steps_in_float16_follow_float32(tmp_path):
    expected = run_steps("no", 7000, 50, tmp_path)
    losses = run_steps("float16", 7000, 50, tmp_path)
    assert expected[-1] < 0.5 * expected[0]
    np.testing.assert_allclose(losses, expected, rtol=0.02, atol=0.05)


def test_bfloat16_follows_float32(tmp_path):
    expected = run_steps("no", 7000, 20, tmp_path)
    np.testing.assert_allclose(run_steps("bfloat16", 7000, 20, tmp_path), expected, rtol=0.05)


def test_a_vocabulary_of_50000_survives_float16(tmp_path):
    losses = run_steps("float16", 50_000, 30, tmp_path, learning_rate=1e-2)
    assert losses == pytest.approx(run_steps("no", 50_000, 30, tmp_path, learning_rate=1e-2), rel=0.03, abs=0.05)
    assert losses[-1] < 0.5 * losses[0]


def test_texts_beyond_the_limits_are_cut_and_counted(tokenizer):
    before = tokenizer.num_truncated
    encoded = training.encode_pairs(
        tokenizer, [Example("很长的正文" * 20, "很长的标题" * 9), Example("短", "题")], DATA
    )
    assert [(len(source), len(target)) for source, target in encoded] == [(24, 8), (3, 3)]
    assert tokenizer.num_truncated == before + 2
