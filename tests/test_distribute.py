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
from conftest import ROOT

from t5_pegasus.backend import tf
from t5_pegasus.locations import TINY_MODEL_DIR

SMALL = {"hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 48, "num_attention_heads": 2}

# Runs a script's `main` on as many logical CPU devices as its first argument says.
RUNNER = """
import importlib, sys
sys.path.insert(0, {root!r})
from t5_pegasus import cli
from t5_pegasus.backend import tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * int(sys.argv[1]))
script = importlib.import_module(sys.argv[2])
cli.run(lambda _: script.main(sys.argv[3:]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory, sample_pairs):
    """Return a folder with a small model directory, and pairs that all fall into one bucket."""
    folder = tmp_path_factory.mktemp("distribute")
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(json.loads((TINY_MODEL_DIR / "config.json").read_text()) | SMALL))
    shutil.copy(TINY_MODEL_DIR / "vocab.txt", model)
    lines = [json.dumps({"content": pair.content, "title": pair.title}) for pair in sample_pairs[:30]]
    (folder / "pairs.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def pretrain_flags(folder, output, batch_tokens, *flags):
    arguments = {
        "--model_dir": folder / "model", "--train_file": folder / "pairs.jsonl", "--output_dir": folder / output,
        "--max_steps": 6, "--save_steps": 3, "--logging_steps": 1, "--batch_tokens": batch_tokens,
        "--max_source_length": 48, "--max_target_length": 16, "--learning_rate": 1e-2, "--warmup_steps": 2,
    }  # fmt: skip
    return ["pretrain", *(str(each) for item in arguments.items() for each in item), *map(str, flags)]


def start(arguments, devices=1, cluster=None, index=0):
    environment = dict(os.environ)
    if cluster:
        task = {"cluster": {"worker": cluster}, "task": {"type": "worker", "index": index}}
        environment["TF_CONFIG"] = json.dumps(task)
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


def start_workers(arguments):
    ports = []
    sockets = [socket.socket() for _ in range(2)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
        ports.append(each.getsockname()[1])
    for each in sockets:
        each.close()
    cluster = [f"127.0.0.1:{port}" for port in ports]
    return [start([*arguments, "--distribute", "multiworker"], 1, cluster, index) for index in range(2)]


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
    """Return the folder of a run on one device, with batches of 8 pairs."""
    finish(start(pretrain_flags(folder, "joint", 1024, "--dropout_rate", 0)))
    return folder / "joint"


@pytest.mark.slow
def test_two_devices_learn_as_one_with_the_joint_batch(folder, joint_run):
    flags = pretrain_flags(folder, "mirrored", 512, "--dropout_rate", 0, "--distribute", "mirrored")
    finish(start(flags, devices=2))
    assert_same_training(folder / "mirrored", joint_run)


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


@pytest.mark.slow
def test_killed_workers_go_on_as_if_nothing_had_been(folder):
    """Dropout is on: the curve to the last digit."""
    finish(*start_workers(pretrain_flags(folder, "whole", 512)))
    arguments = pretrain_flags(folder, "killed", 512)
    workers = start_workers(arguments)
    try:
        for line in workers[0].stdout:
            if line.startswith("step 5,"):
                break
    finally:
        for worker in workers:
            worker.send_signal(signal.SIGKILL)
            worker.communicate(timeout=60)
    outputs = finish(*start_workers([*arguments, "--resume"]))
    assert all("going on after step 3\n" in output for output in outputs)
    assert read_log(folder / "killed") == read_log(folder / "whole")
    expected = weights_of(folder / "whole")
    for name, value in weights_of(folder / "killed").items():
        np.testing.assert_array_equal(value, expected[name], err_msg=name)


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


def test_a_cluster_without_its_description_is_refused(folder):
    process = start(pretrain_flags(folder, "lonely", 512, "--distribute", "multiworker"))
    output, _ = process.communicate(timeout=100)
    assert process.returncode == 2
    assert "error: distribute multiworker needs the environment variable TF_CONFIG" in output.splitlines()[-1]
