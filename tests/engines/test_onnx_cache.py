"""The export of weights: made once, made anew when something changed, never half-made, nothing else removed."""

import os
import re
import shutil
import subprocess
import sys

import pytest

from t5_pegasus import AutoTitle
from t5_pegasus.engines import choice, onnx_export
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx_cache import cached_export
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks import t5
from t5_pegasus.networks.checkpoints import named_variables, save_weights

TEXT = "".join(chr(0x4E00 + number) for number in range(200, 240))


@pytest.fixture
def own_model(random_model_dir, tmp_path, monkeypatch):
    """Return a model directory of the test's own: tiny, with random weights; on a machine without a GPU."""
    monkeypatch.setattr(choice, "choose_engine", lambda: "onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return shutil.copytree(random_model_dir, tmp_path / "model")


def test_the_export_is_made_once_and_said(own_model, capsys, monkeypatch):
    weights = own_model / "model.safetensors"
    first = AutoTitle.load(own_model, weights)
    assert "exporting" in capsys.readouterr().err
    monkeypatch.setattr(t5, "build_model", lambda *_: pytest.fail("the model is not needed"))
    again = AutoTitle.load(own_model, weights)
    assert capsys.readouterr().err == ""
    assert again.generate_n_best([TEXT], num_beams=3) == first.generate_n_best([TEXT], num_beams=3)
    folder = own_model / "model.safetensors.onnx"
    assert {path.name for path in own_model.iterdir()} == {"config.json", "vocab.txt", weights.name, folder.name}
    assert [bool(re.fullmatch("[0-9a-f]{16}-[0-9a-f]{16}", path.name)) for path in folder.iterdir()] == [True]


@pytest.mark.parametrize("name", ["best_model.weights", "model.ckpt"])
def test_it_is_made_anew_when_the_weights_change(own_model, random_t5, name):
    """In a file, and in the several files of a TensorFlow checkpoint."""
    weights = own_model / name
    save_weights(random_t5, weights)
    before = AutoTitle.load(own_model, weights).generate_n_best([TEXT], num_beams=2)
    first = cached_export(own_model, weights)
    head = named_variables(random_t5)["decoder/logits/kernel"]
    kept = head.numpy()
    try:
        head.assign(-kept)
        save_weights(random_t5, weights)
    finally:
        head.assign(kept)
    assert AutoTitle.load(own_model, weights).generate_n_best([TEXT], num_beams=2) != before
    second = cached_export(own_model, weights)
    assert second != first
    assert list((own_model / f"{name}.onnx").iterdir()) == [second]  # the old one is of no use to anyone


def test_one_file_of_weights_serves_several_model_directories(own_model, tmp_path):
    weights = own_model / "model.safetensors"
    other = shutil.copytree(own_model, tmp_path / "other")
    (other / "config.json").write_text((own_model / "config.json").read_text() + "\n")
    exports = {cached_export(folder, weights) for folder in (own_model, other, own_model, other)}
    assert len(exports) == 2
    assert set((own_model / "model.safetensors.onnx").iterdir()) == exports


@pytest.mark.parametrize("damage", [os.unlink, lambda path: os.truncate(path, 1000)], ids=["deleted", "cut-off"])
def test_an_export_that_was_damaged_is_made_anew_and_what_is_not_ours_stays(own_model, damage):
    folder = own_model / "model.safetensors.onnx"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    target = cached_export(own_model, own_model / "model.safetensors")
    size = (target / "decoder.onnx.data").stat().st_size
    damage(target / "decoder.onnx.data")
    for name in (f".{target.name.translate({ord('0'): '1'})}.0.tmp", f".{target.name}.lock"):
        (folder / name).mkdir()
        os.utime(folder / name, (0, 0))
    assert cached_export(own_model, own_model / "model.safetensors") == target
    assert (target / "decoder.onnx.data").stat().st_size == size
    assert {path.name for path in folder.iterdir()} == {"notes.txt", target.name}


def test_an_export_that_fails_leaves_nothing_and_the_model_in_memory_serves(own_model, capsys, monkeypatch):
    expected = AutoTitle.load(own_model, engine="keras").generate(TEXT)
    monkeypatch.setattr(onnx_export.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    found = AutoTitle.load(own_model, own_model / "model.safetensors")
    assert isinstance(found.decoder.engine, KerasEngine)
    assert found.generate(TEXT) == expected
    assert "cannot export to" in capsys.readouterr().err
    assert not (own_model / "model.safetensors.onnx").exists()


def test_where_the_weights_can_only_be_read_the_export_is_in_the_user_s_cache(own_model, tmp_path, capsys, monkeypatch):
    weights = own_model / "model.safetensors"
    expected = AutoTitle.load(own_model, engine="keras").generate(TEXT)
    (own_model / "model.safetensors.onnx").write_text("a file where the folder is to be")
    assert AutoTitle.load(own_model, weights).generate(TEXT) == expected
    found = cached_export(own_model, weights)
    assert found.is_relative_to(tmp_path / "cache" / "t5_pegasus")
    assert capsys.readouterr().err.count("exporting") == 1
    # Weights of the same name in another place have a folder of their own: neither removes the other's.
    other = shutil.copytree(own_model, tmp_path / "other")
    with open(other / "model.safetensors", "ab") as file:
        file.write(b"\n")
    monkeypatch.setattr("t5_pegasus.engines.onnx_cache._export", lambda *arguments: arguments[-1].mkdir())
    assert cached_export(other, other / "model.safetensors").parent != found.parent
    assert cached_export(own_model, weights) == found


def test_an_export_that_another_user_may_read_is_used_by_both(shared_path, random_model_dir, other_user, monkeypatch):
    """One that is not for others stays as it is, and the other user has an export of their own."""
    monkeypatch.setattr(choice, "choose_engine", lambda: "onnx")
    monkeypatch.setenv("XDG_CACHE_HOME", str(shared_path / "cache"))
    (shared_path / "cache").mkdir()
    (shared_path / "cache").chmod(0o777)
    model_dir = shutil.copytree(random_model_dir, shared_path / "model")
    model_dir.chmod(0o755)
    weights = model_dir / "model.safetensors"
    title, export = AutoTitle.load(model_dir, weights).generate(TEXT), cached_export(model_dir, weights)
    with other_user():
        assert cached_export(model_dir, weights) == export
        assert AutoTitle.load(export).generate(TEXT) == title
    export.parent.chmod(0o777)
    for hidden, mode in ((export / "decoder.onnx.data", 0o600), (export, 0o700)):
        hidden.chmod(mode)
        with other_user():
            own = cached_export(model_dir, weights)
            assert own.is_relative_to(shared_path / "cache")
            assert AutoTitle.load(own).generate(TEXT) == title
        assert [path.name for path in export.parent.iterdir()] == [export.name]
    assert cached_export(model_dir, weights) == export


def test_where_nothing_can_be_written_the_model_is_built_once(own_model, capsys, monkeypatch):
    (own_model / "model.safetensors.onnx").write_text("a file where the folder is to be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(own_model / "model.safetensors.onnx"))
    built = []
    build_model = t5.build_model
    monkeypatch.setattr(t5, "build_model", lambda *arguments: built.append(1) or build_model(*arguments))
    assert isinstance(AutoTitle.load(own_model).decoder.engine, KerasEngine)
    assert built == [1]
    assert "using engine keras" in capsys.readouterr().err


def test_a_model_that_onnx_runtime_does_not_compute_is_refused_before_it_is_built(own_model, monkeypatch):
    config = (own_model / "config.json").read_text().replace('"gelu"', '"tanh"')
    (own_model / "config.json").write_text(config)
    monkeypatch.setattr(t5, "build_model", lambda *_: pytest.fail("the model is not needed"))
    with pytest.raises(OptionError, match="use engine reference"):
        AutoTitle.load(own_model)


def test_of_processes_that_start_at_once_one_makes_the_export(own_model):
    code = (
        "import sys; from t5_pegasus import AutoTitle\n"
        f"print(AutoTitle.load({str(own_model)!r}, engine='onnx').generate({TEXT!r}))\n"
        "print('tensorflow' in sys.modules)"
    )
    command = [sys.executable, "-c", code]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    running = [subprocess.Popen(command, cwd=ROOT, **pipes) for _ in range(2)]
    outputs = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sum(error.count("exporting") for _, error in outputs) == 1
    titles = [output.splitlines()[0] for output, _ in outputs]
    assert len(list((own_model / "model.safetensors.onnx").iterdir())) == 1
    later = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout.splitlines()
    assert [*titles, "False"] == [later[0], later[0], later[1]]
