"""Fixtures that several test files share."""

import contextlib
import functools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from t5_pegasus.locations import TINY_MODEL_DIR
from tests.models import SMALL
from tests.paths import UNTRAINED_MODEL_DIR

ROOT = Path(__file__).resolve().parent.parent

# A test run in the background has Ctrl-C ignored and would hand that on to the scripts it starts and interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)

# How long an example takes says nothing on a machine that has other work to do.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Return the folder of public data sets (CSL, LCTT, the official vocabulary); skip where it is not given."""
    folder = os.environ.get("T5_PEGASUS_DATA")
    if not folder:
        pytest.skip("T5_PEGASUS_DATA does not name a folder of public data sets")
    return Path(folder)


@pytest.fixture
def shared_path() -> Iterator[Path]:
    """Return an empty folder that every user may enter; those of pytest are for one user."""
    before = os.umask(0o022)
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)
    os.umask(before)


@pytest.fixture
def other_user():
    """Return a context manager inside which this process runs as another user; skip where root alone could do so."""
    if not hasattr(os, "setresuid") or os.geteuid() != 0:
        pytest.skip("only root can become another user")

    @contextlib.contextmanager
    def become() -> Iterator[None]:
        os.setresuid(65534, 65534, 0)
        try:
            yield
        finally:
            os.setresuid(0, 0, 0)

    return become


@pytest.fixture(scope="session")
def hugging_face(tmp_path_factory) -> Path:
    """Return a folder of model directories that transformers wrote; `tests/golden/make_hugging_face.py` made them."""
    folder, golden = tmp_path_factory.mktemp("hugging_face"), ROOT / "tests" / "golden" / "hugging_face"
    shutil.copytree(golden, folder, dirs_exist_ok=True)
    for path in golden.iterdir():
        if path.is_dir() and not (path / "vocab.txt").exists():
            shutil.copyfile(golden / "spiece.model", folder / path.name / "spiece.model")
    return folder


@pytest.fixture(scope="session")
def hugging_face_t5(hugging_face):
    """Return a function that builds the network of one of these folders, giving logits, once."""
    from t5_pegasus.networks.t5 import build_model

    return functools.cache(lambda name: build_model(hugging_face / name, with_lm="linear"))


@pytest.fixture(scope="session")
def sample_pairs():
    """Return the pairs of data/test.tsv."""
    from t5_pegasus import read_examples

    return list(read_examples(ROOT / "data" / "test.tsv"))


@pytest.fixture(scope="session")
def small_model_dir(tmp_path_factory) -> Path:
    """Return a model directory without weights: of one layer of width 32, and 7,000 tokens."""
    folder = tmp_path_factory.mktemp("small")
    config = json.loads((UNTRAINED_MODEL_DIR / "config.json").read_text(encoding="utf-8")) | SMALL
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copyfile(UNTRAINED_MODEL_DIR / "vocab.txt", folder / "vocab.txt")
    return folder


@pytest.fixture(scope="session")
def trained_dir(tmp_path_factory) -> Path:
    """Return a model directory whose best_model.weights write titles: the shipped ones, in T5-PEGASUS's own network.

    That is, with a head of its own and a bias in cross-attention, which the shipped network does without: its titles
    are other ones there, but as sure of each token as those of a trained model are.
    """
    from t5_pegasus import build_model
    from t5_pegasus.networks.checkpoints import save_weights

    folder = tmp_path_factory.mktemp("trained")
    config = json.loads((TINY_MODEL_DIR / "config.json").read_text(encoding="utf-8"))
    config |= {"cross_position_bias": True, "tie_word_embeddings": False}
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shutil.copyfile(TINY_MODEL_DIR / "vocab.txt", folder / "vocab.txt")
    save_weights(build_model(TINY_MODEL_DIR, cross_position_bias=True), folder / "best_model.weights")
    return folder


@pytest.fixture(scope="session")
def trained_title(trained_dir):
    """Return an AutoTitle over the weights of `trained_dir`."""
    from t5_pegasus import AutoTitle

    return AutoTitle.load(trained_dir, output_dir=trained_dir)


@pytest.fixture(scope="session")
def random_t5():
    """Return a network of two layers and 300 tokens that gives logits; its weights are random, norms and biases too."""
    from t5_pegasus.config import ModelConfig
    from t5_pegasus.networks.checkpoints import named_variables
    from t5_pegasus.networks.t5 import build_from_config, initialize
    from t5_pegasus.training import seed_everything

    config = ModelConfig(
        vocab_size=300,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        attention_head_size=16,
        intermediate_size=96,
    )
    seed_everything(0)
    t5 = build_from_config(config, with_lm="linear")
    initialize(t5)
    rng = np.random.default_rng(0)
    for name, variable in named_variables(t5).items():
        if name.endswith("/scale"):
            variable.assign(rng.uniform(0.5, 1.5, variable.shape))
        elif name.endswith("/relative_attention_bias"):
            variable.assign(rng.normal(size=variable.shape))
    return t5


@pytest.fixture(scope="session")
def random_model_dir(random_t5, tmp_path_factory) -> Path:
    """Return a model directory of `random_t5`: config.json, vocab.txt and model.safetensors."""
    from t5_pegasus.networks.checkpoints import save_weights

    folder = tmp_path_factory.mktemp("random_model")
    (folder / "config.json").write_text(json.dumps(random_t5.config.to_dict()), encoding="utf-8")
    special = {0: "[PAD]", 100: "[UNK]", 101: "[CLS]", 102: "[SEP]"}
    tokens = (special.get(index, chr(0x4E00 + index)) for index in range(random_t5.config.vocab_size))
    (folder / "vocab.txt").write_text("\n".join(tokens), encoding="utf-8")
    save_weights(random_t5, folder / "model.safetensors")
    return folder
