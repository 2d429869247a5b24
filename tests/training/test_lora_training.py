"""Fine-tuning an adapter: its gradients, what is saved, exact restarts, and the command."""

import dataclasses
import functools
import json

import numpy as np
import pytest
import safetensors.numpy

import finetune
from t5_pegasus import training
from t5_pegasus.config import ModelConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import weights_hash
from t5_pegasus.networks.adapter_files import check_base, read_record
from t5_pegasus.networks.backend import keras, tf
from t5_pegasus.networks.checkpoints import named_variables, save_weights
from t5_pegasus.networks.lora import LoraConfig
from t5_pegasus.networks.lora_layers import merge
from t5_pegasus.networks.t5 import build_from_config, initialize
from t5_pegasus.training.batches import Batch
from t5_pegasus.training.finetuning import Trainer
from t5_pegasus.training.optimizer import WarmupLinearDecay, make_optimizer
from t5_pegasus.training.options import MethodConfig, TrainingConfig
from t5_pegasus.training.pairs import EncodedPairs, load_part
from t5_pegasus.training.step import TrainStep

DATA = DataConfig(max_source_length=16, max_target_length=6)
EVERYWHERE = LoraConfig(r=2, target_modules=("q", "wi_0", "wo", "embedding", "head"), lora_dropout=0.3)
PAIRS = EncodedPairs([([101, *range(5 + n, 12 + 2 * n), 102], [101, 30 + n, 40, 50 + n, 102]) for n in range(4)])


@pytest.fixture(scope="module")
def small_dir(tmp_path_factory):
    """Return a model directory with random weights of one layer."""
    folder = tmp_path_factory.mktemp("small")
    config = ModelConfig(300, 16, 1, 2, 20, 8)
    training.seed_everything(5)
    t5 = build_from_config(config, with_lm="linear")
    initialize(t5)
    save_weights(t5, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(config.to_dict()), encoding="utf-8")
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    tokens = (special.get(index, chr(0x4E00 + index)) for index in range(300))
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    return folder


def build(small_dir, lora, **options):
    config = TrainingConfig(dropout_rate=0.0, **options)
    return training.build_for_training(small_dir, None, config, lora), config


def values_of(t5):
    return [variable.numpy() for variable in t5.lora.learned]


def shake(t5, spread=0.3):
    random = np.random.default_rng(3)
    for variable in t5.lora.learned:
        variable.assign(random.normal(scale=spread, size=variable.shape))


def take_step(t5, config, batches, optimizer=None):
    """Take a step of SGD, which without clipping is the gradient."""
    step = TrainStep(t5, optimizer or keras.optimizers.SGD(1.0), config)
    lengths = PAIRS.lengths.max(axis=0).tolist()
    loads = [functools.partial(load_part, PAIRS, Batch(np.array(rows), len(rows), *lengths)) for rows in batches]
    return float(step(0, loads, 16)[0])


def test_gradients_are_those_of_a_tape_and_frozen_weights_have_none(small_dir):
    t5, config = build(small_dir, dataclasses.replace(EVERYWHERE, lora_dropout=0.0))
    shake(t5)
    before, frozen = values_of(t5), {name: each.numpy() for name, each in named_variables(t5).items()}
    sources, targets = load_part(PAIRS, Batch(np.arange(4), 4, *PAIRS.lengths.max(axis=0).tolist()), 0, 1)
    with tf.GradientTape() as tape:
        logits = t5.model([sources, targets[:, :-1]], training=True)
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(targets[:, 1:], logits)
        loss = tf.reduce_sum(losses * tf.cast(targets[:, 1:] != 0, tf.float32)) / 16
    expected = [tf.convert_to_tensor(each).numpy() for each in tape.gradient(loss, t5.lora.learned)]
    assert take_step(t5, config, [range(4)]) == pytest.approx(float(loss), rel=1e-5)
    for variable, old, slope in zip(t5.lora.learned, before, expected, strict=True):
        np.testing.assert_allclose(old - variable.numpy(), slope, atol=1e-3 * np.abs(slope).max())
        assert np.abs(slope).max() > 1e-4, variable.name
    for name, value in frozen.items():
        np.testing.assert_array_equal(named_variables(t5)[name].numpy(), value, err_msg=name)
    optimizer = make_optimizer(t5, config, WarmupLinearDecay(1e-2, 0, 9))
    shapes = sorted(tuple(each.shape) for each in optimizer.variables if len(each.shape))
    assert shapes == sorted(tuple(each.shape) for each in t5.lora.learned * 2)  # momentum and velocity


@pytest.mark.slow
def test_no_weight_is_read_after_its_update(small_dir):
    """As TensorFlow optimized the graph: it drops edges of control from a second read of a weight to its update."""
    from tensorflow.python.eager import context  # nothing public tells the optimized graph

    t5, config = build(small_dir, EVERYWHERE, gradient_checkpointing=True)
    context.enable_run_metadata()
    take_step(t5, config, [range(4)])
    graphs = [each.post_optimization_graph for each in context.export_run_metadata().function_graphs]
    context.disable_run_metadata()
    nodes = {node.name: node for node in max(graphs, key=lambda graph: len(graph.node)).node}
    parents = {name: [each.lstrip("^").partition(":")[0] for each in node.input] for name, node in nodes.items()}
    updates = [name for name, node in nodes.items() if node.op == "AssignAddVariableOp" and node.input[0] in nodes]
    twice = 0
    for update in updates:
        before, left = set(), [update]
        while left:
            name = left.pop()
            if name not in before:
                before.add(name)
                left += parents[name]
        weight = nodes[update].input[0]
        reads = {name for name, node in nodes.items() if node.op == "ReadVariableOp" and node.input[0] == weight}
        assert reads <= before, (update, reads - before)
        twice += len(reads) > 1
    assert len(updates) >= len(t5.lora.learned)
    assert twice > 2  # of the head, and of what is recomputed


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        {"gradient_checkpointing": True},
        {"gradient_accumulation_steps": 2},
        {"xla": True},
        {"xla": True, "gradient_checkpointing": True, "gradient_accumulation_steps": 2},
    ],
    ids=["recomputed", "summed", "compiled", "all"],
)
def test_a_step_with_dropout_is_the_same_recomputed_summed_or_compiled(small_dir, options):
    """Summed batches draw other dropout than one batch, and XLA its own, so that they are compared without."""
    has_dropout = options == {"gradient_checkpointing": True}
    lora = EVERYWHERE if has_dropout else dataclasses.replace(EVERYWHERE, lora_dropout=0.0)
    found = []
    for each in ({}, options):
        t5, config = build(small_dir, lora, **each)
        shake(t5)
        take_step(t5, config, [range(4)] if config.gradient_accumulation_steps == 1 else [[0, 1], [2, 3]])
        found.append(values_of(t5))
    for variable, one, other in zip(t5.lora.learned, *found, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5, err_msg=variable.name)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options", [{}, {"gradient_checkpointing": True, "gradient_accumulation_steps": 2}], ids=["plain", "summed"]
)
def test_a_step_in_half_precision_is_nearly_that_of_float32(small_dir, options):
    """With the scaling of the loss that float16 has."""
    lora, changes = dataclasses.replace(EVERYWHERE, lora_dropout=0.0), []
    for each in ({}, {"mixed_precision": "float16", **options}):
        t5, config = build(small_dir, lora, max_grad_norm=0.0, **each)
        shake(t5)
        before = values_of(t5)
        optimizer = keras.optimizers.SGD(1.0)
        if each:
            optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer, initial_scale=64.0)
        together = config.gradient_accumulation_steps
        take_step(t5, config, [range(4)] if together == 1 else [[0, 1], [2, 3]], optimizer)
        changes.append([old - new for old, new in zip(before, values_of(t5), strict=True)])
    for one, other in zip(*changes, strict=True):
        assert np.linalg.norm(one - other) < 0.1 * np.linalg.norm(one)


@pytest.mark.slow
def test_bfloat16_rounds_the_gradients_of_an_adapter_as_those_of_its_merged_weights(small_dir):
    """Those of full training, `slope`, give the gradients of both factors: `slope @ b.T` and `a.T @ slope`."""
    lora, found = dataclasses.replace(EVERYWHERE, lora_dropout=0.0), {"lora": [], "full": []}
    for mixed_precision in ("no", "bfloat16"):
        t5, config = build(small_dir, lora, max_grad_norm=0.0, mixed_precision=mixed_precision)
        shake(t5, 0.05)
        adapter, before = t5.lora.adapter(), values_of(t5)
        take_step(t5, config, [range(4)])
        found["lora"].append(np.concatenate([(a - b).ravel() for a, b in zip(before, values_of(t5), strict=True)]))
        full = training.build_for_training(small_dir, None, config)
        merge(full, adapter)
        weights = {name: full.named_variables[name].numpy() for name in adapter.factors}
        take_step(full, config, [range(4)])
        slopes = []
        for name, (a, b, scale) in adapter.factors.items():
            slope = scale * (weights[name] - full.named_variables[name].numpy())
            slopes += [(slope @ b.T).ravel(), (a.T @ slope).ravel()]
        found["full"].append(np.concatenate(slopes))
    np.testing.assert_allclose(found["lora"][0], found["full"][0], atol=1e-4 * np.abs(found["full"][0]).max())
    errors = {way: np.linalg.norm(half - exact) / np.linalg.norm(exact) for way, (exact, half) in found.items()}
    assert 1e-3 < errors["lora"] < 1.5 * errors["full"] < 0.05


@pytest.mark.slow
def test_dropout_is_before_the_products_alone(small_dir):
    losses = []
    for dropout in (0.0, 0.5):
        t5, config = build(small_dir, dataclasses.replace(EVERYWHERE, lora_dropout=dropout))
        losses.append(take_step(t5, config, [range(4)]))  # where b is zero, it changes nothing
        shake(t5)
        losses.append(take_step(t5, config, [range(4)]))
    assert losses[0] == losses[2]
    assert abs(losses[1] - losses[3]) > 1e-3


@pytest.fixture(scope="module")
def pairs_file(tmp_path_factory):
    """Return a file of pairs of characters that the random model has."""
    path = tmp_path_factory.mktemp("pairs") / "pairs.tsv"
    rows = [("".join(chr(0x4E00 + (7 * n + k) % 90 + 5) for k in range(12)), chr(0x4E10 + n) * 3) for n in range(6)]
    path.write_text("".join(f"{title}\t{content}\n" for content, title in rows), encoding="utf-8")
    return path


def run(small_dir, pairs_file, folder, *flags):
    common = ["--model_dir", small_dir, "--train_file", pairs_file, "--valid_file", pairs_file]
    sizes = ["--max_source_length", "16", "--max_target_length", "6", "--batch_size", "3", "--method", "lora"]
    return finetune.main([*map(str, (*common, "--output_dir", folder)), *sizes, *flags])


def test_the_command_leaves_an_adapter(small_dir, pairs_file, tmp_path, capsys):
    flags = ["--epochs", "1", "--max_eval_samples", "1", "--lora_r", "4", "--lora_target_modules", "q,wo"]
    assert run(small_dir, pairs_file, tmp_path, *flags) == 0
    shown = capsys.readouterr().out
    assert "trainable parameters: 672 || all: 15,504 || 4.3344 %" in shown
    best = tmp_path / "best_adapter"
    assert f"the best adapter is in {best}" in shown
    assert not (tmp_path / "best_model.weights").exists()
    files = ["adapter_config.json", "adapter_model.safetensors", "t5_pegasus.json"]
    assert sorted(path.name for path in best.iterdir()) == files
    record = read_record(best)
    assert record.base_model == small_dir.name
    assert record.base_sha256 == weights_hash(small_dir / "model.safetensors")
    assert set(record.scores) >= {"epoch", "loss", "rouge-l", "bleu"}
    # The state has the adapter and the optimizer's, not the model.
    size = sum(path.stat().st_size for path in (tmp_path / "training_state").glob("*.data*"))
    assert size < 3 * 4 * 672 + 20_000
    with pytest.raises(CheckpointError, match=r"was trained on other weights.*--ignore_base_hash"):
        check_base(best, "0" * 64)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [(), ("--mixed_precision", "float16", "--gradient_checkpointing", "--gradient_accumulation_steps", "2")],
    ids=["plain", "half"],
)
def test_a_resumed_run_ends_where_an_uninterrupted_one_does(small_dir, pairs_file, tmp_path, monkeypatch, options):
    flags = ["--lora_dropout", "0.1", "--learning_rate", "1e-2", "--epochs", "3", "--max_eval_samples", "1", *options]
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert run(small_dir, pairs_file, whole, *flags) == 0
    usual = Trainer._train_epoch

    def stop(self, step, pairs, epoch):
        if epoch == 2:
            raise KeyboardInterrupt
        return usual(self, step, pairs, epoch)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_epoch", stop)
        with pytest.raises(KeyboardInterrupt):
            run(small_dir, pairs_file, parts, *flags)
    assert run(small_dir, pairs_file, parts, *flags, "--resume") == 0
    rows = [(folder / "training_log.csv").read_text().splitlines()[1:] for folder in (whole, parts)]
    assert len(rows[0]) == 3
    for one, other in zip(*rows, strict=True):  # the loss shows every weight
        assert one.split(",")[1] == other.split(",")[1]
    # Beside other weights it does not go on.
    weights = small_dir / "model.safetensors"
    other = tmp_path / "other.safetensors"
    values = safetensors.numpy.load_file(weights)
    other.write_bytes(safetensors.numpy.save({name: value * 2 for name, value in values.items()}))
    with pytest.raises(OptionError, match="cannot resume with other base weights"):
        run(small_dir, pairs_file, parts, *flags, "--resume", "--weights", str(other))


@pytest.mark.slow
def test_an_adapter_goes_on(small_dir, pairs_file, tmp_path):
    flags = ["--epochs", "1", "--learning_rate", "1e-2"]
    assert run(small_dir, pairs_file, tmp_path / "one", *flags, "--lora_r", "3") == 0
    first = tmp_path / "one" / "best_adapter"
    assert run(small_dir, pairs_file, tmp_path / "two", *flags, "--adapter", str(first)) == 0
    assert json.loads((tmp_path / "two/best_adapter/adapter_config.json").read_text())["r"] == 3
    first_values, values = (
        safetensors.numpy.load_file(folder / "adapter_model.safetensors")
        for folder in (first, tmp_path / "two" / "best_adapter")
    )
    for name, value in first_values.items():  # a step further, not begun anew
        assert 0 < np.abs(values[name] - value).max() < 0.1, name
    with pytest.raises(OptionError, match="adapter is only for method lora"):
        finetune.main(["--adapter", str(first)])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lora_r": 4}, "lora_r is only for method lora, got 4"),
        ({"method": "lora", "lora_r": 0}, "lora_r must be at least 1, got 0"),
        ({"method": "lora", "lora_bias": "all"}, "lora_bias must be one of none, got all"),
        ({"method": "lora", "lora_target_modules": " , "}, "lora_target_modules must name a projection"),
        ({"method": "ia3"}, "method must be one of full, lora, got ia3"),
    ],
)
def test_methods_that_there_are_not_are_refused(options, message):
    with pytest.raises(OptionError, match=message):
        MethodConfig(**options)


def test_lora_needs_weights_and_its_own_steps(small_dir):
    with pytest.raises(OptionError, match="scale_parameter is only for method full"):
        build(small_dir, LoraConfig(), scale_parameter=True)
