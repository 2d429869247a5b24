"""`pip install .` in an empty environment: titles, scores and the check, without TensorFlow."""

import json
import os
import subprocess
import sys
import venv

import pytest

from t5_pegasus import AutoTitle, read_examples
from t5_pegasus.locations import DATA_DIR, ROOT, TINY_MODEL_DIR

MOST_MEGABYTES = 400


@pytest.mark.slow
def test_a_wheel_writes_and_scores_titles_without_tensorflow(tmp_path):
    folder = tmp_path / "env"
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts" if os.name == "nt" else "bin") / "python"

    def run(*arguments):
        ran = subprocess.run(
            [python, *arguments], cwd=tmp_path, capture_output=True, text=True, encoding="utf-8", timeout=900
        )
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    before = used(folder)
    run("-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", tmp_path / "wheels", ROOT)
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    run("-m", "pip", "install", "--quiet", wheel)
    assert used(folder) - before < MOST_MEGABYTES * 1e6
    assert run("-c", "import importlib.util; print(importlib.util.find_spec('tensorflow'))") == "None\n"

    content = next(iter(read_examples(DATA_DIR / "abstracts.tsv"))).content
    expected = AutoTitle.load(TINY_MODEL_DIR).generate(content)
    assert (
        run("-c", f"from t5_pegasus import AutoTitle; print(AutoTitle.load().generate({content!r}))") == f"{expected}\n"
    )
    assert run("-m", "t5_pegasus", "title", content) == f"{expected}\n"
    scores = run("-m", "t5_pegasus", "score", "--test_file", DATA_DIR / "abstracts.tsv")
    assert list(json.loads(scores.splitlines()[-1])) == ["rouge-1", "rouge-2", "rouge-l", "bleu"]
    assert run("-m", "t5_pegasus", "check").endswith("everything fits\n")
    assert run(python.with_name("t5-pegasus"), "check").startswith(f"python {sys.version.split()[0]}")


def used(folder):
    """Return the bytes of all files of a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
