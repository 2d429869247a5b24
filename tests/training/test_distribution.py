"""Training on several devices and in several processes is training on one, with the joint batch."""

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus import build_model
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.checkpoints import save_weights

TASK = {"type": "worker", "index": 0}

# Runs a script's `main` on as many logical CPU devices as its first argument says.
RUNNER = """
import importlib, sys
sys.path.insert(0, {root!r})
from t5_pegasus import cli
from t5_pegasus.networks.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
script = importlib.import_module(sys.argv[2])
cli.run(lambda _: script.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, small_model_dir, sample_pairs):
    """Return a folder with a small model directory, and 17 short and 16 long pairs: two buckets, and one pair over."""
    folder = tmp_path_factory.mktemp("distribute")
    shutil.copytree(small_model_dir, folder / "model")
    lines = [
        json.dumps({"content": pair.content[: 20 if number < 17 else 200], "title": pair.title})
        for number, pair in enumerate(sample_pairs[:33])
    ]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def pretrain_flags(folder, output, batch_tokens, *flags):
    arguments = {
        "--model_dir": folder / "model", "--train_file": folder / "pairs.jsonl", "--output_dir": folder / output,
        "--max_steps": 6, "--save_steps": 3, "--logging_steps": 1, "--batch_tokens": batch_tokens,
        "--max_source_length": 96, "--max_target_length": 16, "--pad_to_multiple_of": 32, "--learning_rate": 1e-2,
        "--warmup_steps": 2,
    }  # fmt: skip
    return ["pretrain", *(str(each) for item in arguments.items() for each in item), *map(str, flags)]


def start(arguments, devices=1, config=None):
    """Start a script; `config` is its TF_CONFIG."""
    environment = {**os.environ, "TF_CONFIG": config} if config else os.environ
    return subprocess.Popen(
        [sys.executable, "-c", RUNNER.format(root=str(ROOT)), str(devices), *arguments],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(*processes):
    outputs = [process.communicate(timeout=200)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * len(processes), "\n".join(outputs)
    return outputs


def start_workers(arguments, *more):
    """Start two workers; `more` are further arguments of each."""
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
        ports.append(each.getsockname()[1])
    for each in sockets:
        each.close()
    cluster = [f"127.0.0.1:{port}" for port in ports]
    more = more or ((), ())
    arguments = [*arguments, "--distribute", "multiworker"]
    tasks = [json.dumps({"cluster": {"worker": cluster}, "task": {**TASK, "index": index}}) for index in range(2)]
    return [start([*arguments, *map(str, each)], config=task) for each, task in zip(more, tasks, strict=True)]


def read_log(folder, name="pretraining_log.csv"):
    with (folder / name).open() as file:
        return [{key: float(row[key]) for key in row if key != "tokens_per_second"} for row in csv.DictReader(file)]


def weights_of(folder):
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_same_training(one, other):
    for row, expected in zip(read_log(one), read_log(other), strict=True):
        assert row == pytest.approx(expected, rel=1e-5)
    expected = weights_of(other)
    for name, value in weights_of(one).items():
        # AdamW divides by the root of what may be nothing but rounding, where a gradient is almost 0.
        assert np.mean(np.abs(value - expected[name]) > 1e-4) < 0.01, name


@pytest.fixture(scope="module")
def joint_run(folder):
    """Return the folder of a run on one device, with batches of at most 16 short or 8 long pairs."""
    finish(start(pretrain_flags(folder, "joint", 1024, "--dropout_rate", 0)))
    return folder / "joint"


@pytest.mark.slow
@pytest.mark.parametrize("option", [(), ("--gradient_checkpointing",), ("--xla",)], ids=str)
def test_two_devices_learn_as_one_with_the_joint_batch(folder, joint_run, option):
    """Also where an odd pair leaves the second device nothing but padding."""
    output = "".join(("mirrored", *option))
    flags = pretrain_flags(folder, output, 512, "--dropout_rate", 0, "--distribute", "mirrored", *option)
    finish(start(flags, devices=2))
    assert_same_training(folder / output, joint_run)


@pytest.mark.slow
def test_two_devices_take_one_rate_for_each_weight(folder):
    flags = ("--dropout_rate", 0, "--scale_parameter", "--learning_rate", 0.1)
    finish(start(pretrain_flags(folder, "scaled_joint", 1024, *flags)))
    finish(start(pretrain_flags(folder, "scaled", 512, *flags, "--distribute", "mirrored"), devices=2))
    assert_same_training(folder / "scaled", folder / "scaled_joint")


@pytest.mark.slow
def test_two_workers_learn_as_one_with_the_joint_batch(folder, joint_run):
    """Also with the gradients of two batches summed on each worker before they are told."""
    finish(*start_workers(pretrain_flags(folder, "workers", 512, "--dropout_rate", 0)))
    assert_same_training(folder / "workers", joint_run)
    summed = pretrain_flags(folder, "summed", 256, "--dropout_rate", 0, "--gradient_accumulation_steps", 2)
    finish(*start_workers(summed))
    one = pretrain_flags(folder, "summed_one", 512, "--dropout_rate", 0, "--gradient_accumulation_steps", 2)
    finish(start(one))
    assert_same_training(folder / "summed", folder / "summed_one")


@pytest.fixture(scope="module")
def whole_run(folder):
    """Return the folder of a run on two workers with dropout."""
    finish(*start_workers(pretrain_flags(folder, "whole", 512)))
    return folder / "whole"


@pytest.mark.slow
@pytest.mark.parametrize("killed", [(0, 1), (0,), (1,)], ids=str)
def test_killed_workers_go_on_as_if_nothing_had_been(folder, whole_run, killed):
    """Dropout is on: the curve to the last digit. A worker that is left alone stops and says so in one line."""
    output = folder / f"killed{killed}"
    arguments = pretrain_flags(folder, output.name, 512)
    workers = start_workers(arguments)
    try:
        for line in workers[0].stdout:
            if line.startswith("step 5,"):
                break
        for index in killed:
            workers[index].send_signal(signal.SIGKILL)
        for index in {0, 1}.difference(killed):
            last = workers[index].communicate(timeout=200)[0].splitlines()[-1]
            assert (workers[index].returncode, last[:26]) == (2, "error: TensorFlow stopped ")
    finally:
        for worker in workers:
            worker.kill()
            worker.communicate(timeout=60)
    outputs = finish(*start_workers([*arguments, "--resume"]))
    assert all("going on after step 3\n" in output for output in outputs)
    assert read_log(output) == read_log(whole_run)
    expected = weights_of(whole_run)
    for name, value in weights_of(output).items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


@pytest.mark.slow
def test_workers_with_unlike_pairs_or_states_stop(folder, joint_run):
    """All of them, with one line, and before a step."""
    lines = (folder / "pairs.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "reversed.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    shutil.copytree(joint_run, folder / "stale")
    unlike = {
        "digest of the pairs": ("--train_file", folder / "reversed.jsonl"),
        "the last checkpoint": ("--output_dir", folder / "stale"),
    }
    for name, change in unlike.items():
        arguments = pretrain_flags(folder, "fresh", 512, "--resume")
        workers = start_workers(arguments, (), change)
        outputs = [worker.communicate(timeout=200)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [2, 2], outputs
        assert all(
            output.splitlines()[-1].startswith(f"error: the workers differ in {name} (here ") for output in outputs
        )
    assert not (folder / "fresh" / "model.ckpt.index").exists()


@pytest.mark.slow
def test_fine_tuning_on_two_workers_is_that_of_one_with_the_joint_batch(folder):
    arguments = [
        "finetune", "--model_dir", folder / "model", "--train_file", folder / "pairs.jsonl", "--valid_file",
        folder / "pairs.jsonl", "--max_eval_samples", 3, "--epochs", 2, "--max_source_length", 32, "--dropout_rate", 0,
    ]  # fmt: skip

    def flags(output, batch_size):
        return [*map(str, arguments), "--output_dir", str(folder / output), "--batch_size", str(batch_size)]

    finish(start(flags("tuned_joint", 8)))
    finish(*start_workers(flags("tuned", 4)))
    logs = [read_log(folder / name, "training_log.csv") for name in ("tuned", "tuned_joint")]
    for row, expected in zip(*logs, strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert (folder / "tuned" / "best_model.weights").is_file()
    assert len(list((folder / "tuned" / "tensorboard").iterdir())) == 1


@pytest.fixture(scope="module")
def lora_flags(folder, small_model_dir):
    """Return a function that gives the flags of a training of an adapter beside weights, random ones."""
    shutil.copytree(small_model_dir, folder / "base")
    save_weights(build_model(small_model_dir), folder / "base" / "model.safetensors")
    arguments = [
        "finetune", "--model_dir", folder / "base", "--train_file", folder / "pairs.jsonl", "--valid_file",
        folder / "pairs.jsonl", "--max_eval_samples", 1, "--epochs", 2, "--max_source_length", 32,
        "--max_target_length", 16, "--pad_to_multiple_of", 16, "--dropout_rate", 0, "--learning_rate", 1e-2,
        "--method", "lora", "--lora_r", 2, "--lora_target_modules", "q,wo,embedding,head",
    ]  # fmt: skip

    def flags(output, batch_size, *option):
        return [*map(str, (*arguments, "--output_dir", folder / output, "--batch_size", batch_size)), *option]

    return flags


@pytest.fixture(scope="module")
def lora_joint(folder, lora_flags):
    """Return the folder of a training of an adapter on one device, with batches of 8 pairs."""
    finish(start(lora_flags("lora_joint", 8)))
    return folder / "lora_joint"


def assert_same_adapter(one, other, rel):
    """Compare the losses, which show the weights before, and what the epochs made of the adapter."""
    for row, expected in zip(*(read_log(path, "training_log.csv") for path in (one, other)), strict=True):
        assert row["loss"] == pytest.approx(expected["loss"], rel=rel)
    adapters = [safetensors.numpy.load_file(path / "best_adapter/adapter_model.safetensors") for path in (one, other)]
    assert adapters[0].keys() == adapters[1].keys()
    for name, value in adapters[0].items():
        assert np.mean(np.abs(value - adapters[1][name]) > 100 * rel) < 0.01, name


@pytest.mark.slow
@pytest.mark.parametrize("option", [(), ("--gradient_checkpointing",), ("--xla",)], ids=str)
def test_an_adapter_learns_on_two_devices_as_on_one(folder, lora_flags, lora_joint, option):
    output = "".join(("lora_mirrored", *option))
    finish(start(lora_flags(output, 4, "--distribute", "mirrored", *option), devices=2))
    assert_same_adapter(folder / output, lora_joint, 1e-5)


@pytest.mark.slow
def test_an_adapter_learns_on_two_workers_as_on_one(folder, lora_flags, lora_joint):
    """With the gradients of two batches summed on each before they are told."""
    finish(*start_workers(lora_flags("lora_workers", 2, "--gradient_accumulation_steps", "2")))
    finish(start(lora_flags("lora_summed", 4, "--gradient_accumulation_steps", "2")))
    assert_same_adapter(folder / "lora_workers", folder / "lora_summed", 1e-5)


@pytest.mark.slow
def test_an_adapter_learns_on_two_devices_in_half_precision(folder, lora_flags, lora_joint):
    """Beside frozen matrices in half precision, of which each device has its own."""
    option = ("--mixed_precision", "bfloat16")
    finish(start(lora_flags("lora_half", 4, "--distribute", "mirrored", *option), devices=2))
    losses = [read_log(path, "training_log.csv")[-1]["loss"] for path in (folder / "lora_half", lora_joint)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-2)


# Runs `pretrain.py` once for each TF_CONFIG, a JSON line of standard input, null for none; prints its errors as JSON.
REFUSALS = """
import json, os, sys
sys.path.insert(0, {root!r})
import pretrain
from t5_pegasus.errors import PegasusError
for line in sys.stdin:
    os.environ.pop("TF_CONFIG", None)
    if json.loads(line) is not None:
        os.environ["TF_CONFIG"] = line.strip()
    try:
        pretrain.main(sys.argv[1:])
    except PegasusError as error:
        print("error:", json.dumps(str(error)), flush=True)
"""


def test_a_cluster_that_cannot_be_is_refused_in_one_line(folder):
    rows = [
        (None, "got None"),
        ({"cluster": {"worker": ["127.0.0.1:1"]}, "task": {"index": 0}}, "KeyError: 'type'"),
        ({"cluster": {"worker": ["127.0.0.1:1"]}, "task": {**TASK, "index": 3}}, "ValueError: "),
        ({"cluster": {"worker": "127.0.0.1:1"}, "task": TASK}, "TypeError: "),
        ({"cluster": {"worker": ["127.0.0.1:{taken}", "127.0.0.1:1"]}, "task": TASK}, "UnknownError: "),
    ]
    _, *flags = pretrain_flags(folder, "lonely", 512, "--distribute", "multiworker")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        lines = "".join(f"{json.dumps(description)}\n" for description, _ in rows)
        result = subprocess.run(
            [sys.executable, "-c", REFUSALS.format(root=str(ROOT)), *flags],
            input=lines.replace("{taken}", str(taken.getsockname()[1])),
            capture_output=True,
            text=True,
            timeout=300,
        )
    errors = [json.loads(line[7:]) for line in result.stdout.splitlines() if line.startswith("error: ")]
    assert len(errors) == len(rows), result.stderr
    for error, (_, message) in zip(errors, rows, strict=True):
        assert error.startswith("distribute multiworker needs the environment variable TF_CONFIG")
        assert message in error
        assert "\n" not in error
