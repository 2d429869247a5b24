"""Which model directory and which weights are taken when nothing is said."""

import pytest

from t5_pegasus import locations
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import (
    BASE_MODEL_DIR,
    DATA_DIR,
    TINY_MODEL_DIR,
    TO_BUILD,
    TO_GENERATE,
    Weights,
    choose_model_dir,
    find_weights,
    locate_weights,
)


@pytest.fixture
def base(tmp_path, monkeypatch):
    """Return a folder that stands in for chinese_t5_pegasus_base/, without weights."""
    folder = tmp_path / "base"
    folder.mkdir()
    monkeypatch.setattr(locations, "BASE_MODEL_DIR", folder)
    return folder


@pytest.fixture(autouse=True)
def empty_files_are_weights(monkeypatch):
    """Let what is only looked for be an empty file."""
    monkeypatch.setattr(locations, "check_weights", lambda path: None)


def test_the_defaults_are_in_the_repository():
    assert (DATA_DIR / "train.tsv").is_file()
    assert (BASE_MODEL_DIR / "config.json").is_file()
    assert (TINY_MODEL_DIR / "vocab.txt").is_file()


@pytest.mark.parametrize("name", ["model.ckpt.index", "model.safetensors", "best_model.weights"])
def test_the_base_model_is_taken_where_its_weights_are(base, name, capsys):
    assert choose_model_dir(None) == TINY_MODEL_DIR
    assert capsys.readouterr().err == "no weights in base/, using chinese_t5_pegasus_tiny/\n"
    (base / name).touch()
    assert choose_model_dir(None) == base
    assert capsys.readouterr().err == ""


def test_a_directory_that_is_named_is_taken(base, tmp_path, capsys):
    for name in ("config.json", "vocab.txt"):
        (base / name).touch()
    assert choose_model_dir(str(base)) == base
    assert capsys.readouterr().err == ""
    (tmp_path / "file").touch()
    for name in ("none", "file"):
        with pytest.raises(OptionError, match=rf"config.json and vocab.txt, got .*{name} without config.json$"):
            choose_model_dir(tmp_path / name)


def test_the_nearest_weights_are_taken(tmp_path, capsys):
    model, output = tmp_path / "model", tmp_path / "output"
    model.mkdir()
    output.mkdir()
    with pytest.raises(
        CheckpointError, match=rf"no best_model.weights in {output} or {model}: make it with `python fi"
    ):
        find_weights(model, None, output)
    # From the last resort to the first choice, each goes before those already there.
    for name in ("model.safetensors", "model.ckpt.index"):
        (model / name).touch()
        expected = model / name.removesuffix(".index")
        assert find_weights(model, None, output) == expected
        assert capsys.readouterr().err == f"no best_model.weights found, using the pretrained weights {expected}\n"
    for folder in (model, output):
        (folder / "best_model.weights").touch()
        assert find_weights(model, None, output) == folder / "best_model.weights"
        assert capsys.readouterr().err == f"using the weights {folder / 'best_model.weights'}\n"
    assert find_weights(model, model / "model.safetensors", output) == model / "model.safetensors"
    assert find_weights(model, str(model / "model.ckpt"), output) == model / "model.ckpt"
    assert capsys.readouterr().err == ""


def test_nothing_is_said_of_the_weights_of_the_shipped_model_unless_a_run_was_named(tmp_path, capsys):
    shipped = TINY_MODEL_DIR / "model.safetensors"
    assert find_weights(TINY_MODEL_DIR) == shipped
    assert capsys.readouterr().err == ""
    assert find_weights(TINY_MODEL_DIR, None, tmp_path) == shipped
    assert capsys.readouterr().err == f"no best_model.weights found, using the pretrained weights {shipped}\n"


@pytest.mark.parametrize("kind", [None, Weights.PRETRAINED, "model.safetensors"])
def test_damaged_weights_are_refused_where_they_are_found(tmp_path, monkeypatch, kind):
    monkeypatch.undo()
    (tmp_path / "model.safetensors").write_bytes(b"junk")
    weights = tmp_path / kind if isinstance(kind, str) else kind
    with pytest.raises(CheckpointError, match="is neither HDF5 nor safetensors nor a TensorFlow checkpoint"):
        locate_weights(tmp_path, weights, TO_BUILD)


def test_weights_that_are_named_must_be_there(tmp_path):
    (tmp_path / "best_model.weights").touch()
    for name in ("none", "."):
        with pytest.raises(CheckpointError, match=r"^no weights at .*"):
            find_weights(tmp_path, tmp_path / name, tmp_path)


def test_which_weights_are_meant(tmp_path):
    """What `weights=None` means to who builds or trains a model and to who generates; and each kind by its name."""
    model, run = tmp_path / "model", tmp_path / "run"
    model.mkdir()
    run.mkdir()
    assert locate_weights(model, None, TO_BUILD, run) is Weights.RANDOM
    with pytest.raises(CheckpointError, match=rf"^no model\.ckpt or model\.safetensors in {model}$"):
        locate_weights(model, Weights.PRETRAINED, TO_BUILD, run)
    with pytest.raises(CheckpointError, match=rf"^no best_model\.weights in {run} or {model}: make it with"):
        locate_weights(model, Weights.FINE_TUNED, TO_GENERATE, run)
    (run / "best_model.weights").touch()
    assert locate_weights(model, None, TO_BUILD, run) is Weights.RANDOM, "training starts from pretrained weights only"
    (model / "model.safetensors").touch()
    assert locate_weights(model, None, TO_BUILD, run) == model / "model.safetensors"
    assert locate_weights(model, None, TO_GENERATE, run) == run / "best_model.weights"
    for usual in (TO_BUILD, TO_GENERATE):
        assert locate_weights(model, Weights.RANDOM, usual, run) is Weights.RANDOM
        assert locate_weights(model, Weights.PRETRAINED, usual, run) == model / "model.safetensors"
        assert locate_weights(model, Weights.FINE_TUNED, usual, run) == run / "best_model.weights"
        assert locate_weights(model, str(run / "best_model.weights"), usual) == run / "best_model.weights"


def test_generation_needs_trained_weights(tmp_path, capsys):
    (tmp_path / "model.ckpt.index").touch()
    assert find_weights(tmp_path, Weights.PRETRAINED, tmp_path) == tmp_path / "model.ckpt"
    assert capsys.readouterr().err == f"using the weights {tmp_path / 'model.ckpt'}\n"
    with pytest.raises(OptionError, match="weights must be trained to generate with, got random ones"):
        find_weights(tmp_path, Weights.RANDOM)
