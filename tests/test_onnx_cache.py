"""The export beside the weights: made once, made anew when something changed, never half-made."""

import json
import os
import shutil
import subprocess
import sys

import pytest

from t5_pegasus import AutoTitle, export, model
from t5_pegasus.checkpoints import named_variables, save_weights
from t5_pegasus.locations import ROOT
from t5_pegasus.onnx_cache import cached_export


@pytest.fixture
def own_model(random_model_dir, tmp_path):
    """Return a model directory of the test's own: tiny, with random weights."""
    return shutil.copytree(random_model_dir, tmp_path / "model")


def test_the_export_is_made_once_and_said(own_model, capsys, monkeypatch):
    weights = own_model / "model.safetensors"
    title = AutoTitle.load(own_model, weights)
    assert "exporting" in capsys.readouterr().err
    folder = own_model / "model.safetensors.onnx"
    assert {path.name for path in folder.iterdir()} >= {"encoder.onnx", "decoder.onnx", "config.json", "vocab.txt"}
    monkeypatch.setattr(model, "build_model", lambda *_: pytest.fail("the model is not needed"))
    again = AutoTitle.load(own_model, weights)
    assert capsys.readouterr().err == ""
    text = "".join(chr(0x4E00 + number) for number in range(200, 240))
    assert again.generate_n_best([text], num_beams=3) == title.generate_n_best([text], num_beams=3)
    assert sorted(path.name for path in own_model.iterdir()) == [
        "config.json",
        "model.safetensors",
        "model.safetensors.onnx",
        "vocab.txt",
    ]


@pytest.mark.parametrize("name", ["best_model.weights", "model.ckpt"])
def test_it_is_made_anew_when_the_weights_change(own_model, random_t5, name):
    """In a file, and in the several files of a TensorFlow checkpoint."""
    weights = own_model / name
    save_weights(random_t5, weights)
    text = "".join(chr(0x4E00 + number) for number in range(200, 240))
    before = AutoTitle.load(own_model, weights).generate_n_best([text], num_beams=2)
    key = json.loads((cached_export(own_model, weights) / "config.json").read_text())["key"]
    head = named_variables(random_t5)["decoder/logits/kernel"]
    kept = head.numpy()
    try:
        head.assign(-kept)
        save_weights(random_t5, weights)
    finally:
        head.assign(kept)
    after = AutoTitle.load(own_model, weights).generate_n_best([text], num_beams=2)
    assert after != before
    assert json.loads((cached_export(own_model, weights) / "config.json").read_text())["key"] != key
    assert [path.name for path in own_model.glob("*.onnx")] == [f"{name}.onnx"]


def test_an_export_that_fails_leaves_nothing(own_model, monkeypatch):
    monkeypatch.setattr(export.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    before = sorted(own_model.iterdir())
    with pytest.raises(OSError, match="No space left"):
        cached_export(own_model, own_model / "model.safetensors")
    assert sorted(own_model.iterdir()) == before


def test_where_it_cannot_be_written_the_model_in_memory_serves(own_model, capsys, monkeypatch):
    monkeypatch.setattr(export.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(30, "Read-only")))
    title = AutoTitle.load(own_model, own_model / "model.safetensors")
    assert "cannot export beside" in capsys.readouterr().err
    assert isinstance(title.generate("一二三"), str)


def test_the_second_start_loads_no_tensorflow(own_model):
    cached_export(own_model, own_model / "model.safetensors")
    code = (
        "import sys; from t5_pegasus import AutoTitle\n"
        f"print(AutoTitle.load({str(own_model)!r}).generate('一二三'))\n"
        "assert not {'tensorflow', 'tf_keras', 'bert4keras', 'onnx'} & set(sys.modules)"
    )
    environment = {**os.environ, "PATH": "/usr/bin"}
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT, env=environment
    )
    assert result.returncode == 0, result.stderr
