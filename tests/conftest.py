"""Fixtures that several test files share."""

import os
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def public_data() -> Path:
    """Return the folder of public data sets (CSL, LCTT, the official vocabulary); skip where it is not given."""
    folder = os.environ.get("T5_PEGASUS_DATA")
    if not folder:
        pytest.skip("T5_PEGASUS_DATA does not name a folder of public data sets")
    return Path(folder)


@pytest.fixture(scope="session")
def sample_pairs():
    """Return the pairs of data/test.tsv."""
    from t5_pegasus import read_examples

    return list(read_examples(ROOT / "data" / "test.tsv"))


@pytest.fixture(scope="session")
def trained_dir(tmp_path_factory) -> Path:
    """Return a folder with best_model.weights of the tiny model, trained on data/: once, in under two minutes."""
    import finetune

    folder = tmp_path_factory.mktemp("trained")
    flags = "--num_train_epochs 8 --learning_rate 1e-3 --warmup_ratio 0.2 --max_eval_samples 5".split()
    assert (
        finetune.main(["--model_dir", str(ROOT / "chinese_t5_pegasus_tiny"), "--output_dir", str(folder), *flags]) == 0
    )
    return folder


@pytest.fixture(scope="session")
def trained_title(trained_dir):
    """Return an AutoTitle over the weights of `trained_dir`."""
    from t5_pegasus import AutoTitle

    return AutoTitle.load(ROOT / "chinese_t5_pegasus_tiny", output_dir=trained_dir)
