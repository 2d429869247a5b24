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
