"""The files of an exported model: read by whom the umask lets, and refused unless all are as they were exported."""

import json
import os
import shutil
import stat

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus import AutoTitle
from t5_pegasus.config import ModelConfig
from t5_pegasus.engines import exported
from t5_pegasus.engines.exported import shipped_export
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import CheckpointError


@pytest.fixture(scope="module")
def whole(random_t5, random_model_dir, tmp_path_factory):
    """Return an export of the random model."""
    folder = tmp_path_factory.mktemp("exports") / "whole"
    export_model(random_t5, random_model_dir / "vocab.txt", folder)
    return folder


@pytest.fixture
def export(whole, tmp_path):
    """Return a copy of an export, to be damaged."""
    return shutil.copytree(whole, tmp_path / "export")


def set_value(name, value):
    """Return what alters config.json."""

    def alter(folder):
        path = folder / exported.CONFIG
        path.write_text(json.dumps({**json.loads(path.read_text()), name: value}))

    return alter


def cut_in_half(name):
    """Return what cuts a file."""
    return lambda folder: os.truncate(folder / name, (folder / name).stat().st_size // 2)


def as_before_graphs_4(folder):
    """Make config.json that of an export before there were hashes."""
    values = json.loads((folder / exported.CONFIG).read_text())
    kept = {name: value for name, value in values.items() if name not in ("sha256", "bytes", "config_sha256")}
    (folder / exported.CONFIG).write_text(json.dumps({**kept, "graphs": 3}))


# What is done to an export, and what must be said.
DAMAGES = {
    "half a vocabulary": (cut_in_half("vocab.txt"), "vocab.txt is not the file that was exported"),
    "another vocabulary": (
        lambda folder: (folder / "vocab.txt").write_text((folder / "vocab.txt").read_text()[::-1]),
        "vocab.txt is not the file that was exported",
    ),
    "more heads": (set_value("num_attention_heads", 8), "config.json was altered"),
    "fewer tokens": (set_value("vocab_size", 200), "config.json was altered"),
    "a size as text": (set_value("attention_head_size", "16"), "config.json was altered"),
    "no sizes": (lambda folder: (folder / "config.json").write_text('{"graphs": 4}'), "config.json was altered"),
    "a list": (lambda folder: (folder / "config.json").write_text("[]"), "must hold a JSON object, got list"),
    "half a config": (cut_in_half("config.json"), "config.json is not valid JSON"),
    "an earlier version": (as_before_graphs_4, "was exported by another version of t5_pegasus: export it again with"),
    "half a graph": (cut_in_half("encoder.onnx"), "encoder.onnx is not the file that was exported"),
    "the other graph": (
        lambda folder: shutil.copyfile(folder / "encoder.onnx", folder / "decoder.onnx"),
        "decoder.onnx is not the file that was exported",
    ),
    "half the weights": (cut_in_half("decoder.onnx.data"), r"decoder.onnx.data must have \d+ bytes, got \d+"),
    "no weights": (
        lambda folder: (folder / "encoder.onnx.data").unlink(),
        "cannot read .*encoder.onnx.data: No such file or directory",
    ),
    "no graph": (lambda folder: (folder / "decoder.onnx").unlink(), "is not an exported model: it has no decoder.onnx"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_an_altered_export_is_refused_in_one_line(export, name):
    damage, message = DAMAGES[name]
    damage(export)
    with pytest.raises(CheckpointError, match=message) as caught:
        exported.check_export(export)
    assert "\n" not in str(caught.value)


def test_no_title_is_written_with_half_a_vocabulary(export):
    cut_in_half("vocab.txt")(export)
    with pytest.raises(CheckpointError, match=r"vocab\.txt is not the file that was exported"):
        AutoTitle.load(export)


@given(st.sampled_from(exported.FILES), st.data())
def test_whatever_is_changed_in_a_graph_the_vocabulary_or_the_config_is_found(whole, tmp_path_factory, name, data):
    """A bit, or a part cut off; of the weights it is what was cut off."""
    folder = shutil.copytree(whole, tmp_path_factory.mktemp("damaged") / "export")
    content = bytearray((folder / name).read_bytes())
    index = data.draw(st.integers(0, len(content) - 1))
    if name in exported.WEIGHT_FILES or data.draw(st.booleans()):
        del content[index:]
    else:
        content[index] ^= 1 << data.draw(st.integers(0, 7))
    (folder / name).write_bytes(content)
    try:
        config = exported.check_export(folder)
    except CheckpointError:
        return
    finally:
        shutil.rmtree(folder)
    assert config == ModelConfig.load(whole)  # the end of the line was cut off, or nothing changed
    assert name == exported.CONFIG
    assert json.loads(content) == json.loads((whole / name).read_bytes())


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_permissions_follow_the_umask(random_t5, random_model_dir, tmp_path, umask):
    before = os.umask(umask)
    try:
        export_model(random_t5, random_model_dir / "vocab.txt", tmp_path / "export")
    finally:
        os.umask(before)
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "export").iterdir()}
    assert modes == dict.fromkeys(exported.FILES, 0o666 & ~umask)
    assert stat.S_IMODE((tmp_path / "export").stat().st_mode) == 0o777 & ~umask


def test_a_file_that_may_not_be_read_is_named(whole, shared_path, other_user):
    export = shutil.copytree(whole, shared_path / "export")
    with other_user():
        assert AutoTitle.load(export)
    (export / "decoder.onnx.data").chmod(0o600)
    with other_user(), pytest.raises(CheckpointError, match=r"^cannot read .*decoder\.onnx\.data: Permission denied$"):
        AutoTitle.load(export)


def test_an_export_that_ships_is_used_for_the_weights_it_was_made_of_alone(random_t5, random_model_dir, tmp_path):
    model = tmp_path / "model"
    shutil.copytree(random_model_dir, model)
    weights = model / "model.safetensors"
    assert shipped_export(model, weights) is None
    export_model(random_t5, model / "vocab.txt", model / "exported", weights=weights)
    assert shipped_export(model, weights) == model / "exported"
    assert shipped_export(model, model / "best_model.weights") is None
    for name in ("model.safetensors", "vocab.txt", "config.json", "exported/decoder.onnx"):
        path = model / name
        before = path.read_bytes()
        text = before.replace(b"false", b"true", 1) if name == "config.json" else before + b"\n"
        path.write_bytes(text)
        assert shipped_export(model, weights) is None, name
        path.write_bytes(before)
    assert shipped_export(model, weights) == model / "exported"
