"""Check the installation: which versions there are, whether they work together, and what to do if not.

With files it checks these instead, as `python -m t5_pegasus.check` does.
"""

import importlib.metadata
import platform
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from .. import cli
from ..locations import ROOT

LOCK = ROOT / "requirements" / "base.txt"

# The packages that a user would ask about; the others in the lock are their dependencies.
PACKAGES = (
    *("numpy", "onnxruntime", "jieba", "rjieba", "rouge", "nltk", "sacrebleu", "rapidfuzz", "openpyxl", "tqdm"),
    *("fastapi", "prometheus-client", "uvicorn"),
)
# Those of training, which an installation for titles, scores and the service does not have.
TRAINING_PACKAGES = ("tensorflow", "tf-keras", "keras", "bert4keras", "h5py", "onnx", "safetensors", "setuptools")
OPTIONAL = {"rjieba": "jieba is used instead, which cuts the same words 16 times as slowly"}


def locked_versions(lock: Path) -> dict[str, set[str]]:
    """Return the versions that a lock file admits for each package; several if they depend on the version of Python."""
    versions: dict[str, set[str]] = {}
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==([^\s\\;]+)", lock.read_text(encoding="utf-8"), re.MULTILINE):
        versions.setdefault(name, set()).add(version)
    return versions


def check(lock: Path = LOCK) -> tuple[list[str], list[str]]:
    """Return (what was found, what is wrong with it), a line each, in plain words."""
    found, wrong = [f"python {platform.python_version()}"], []
    trains = _is_installed("bert4keras")  # TensorFlow may be there for other work
    newest = (3, 12) if trains else (3, 13)
    if not (3, 11) <= sys.version_info[:2] <= newest:
        versions = "3.11 or 3.12, which the lock is made for" if trains else "3.11 to 3.13"
        wrong.append(f"python is {platform.python_version()}; use {versions}")
    locked = locked_versions(lock) if lock.is_file() and trains else {}
    for package in (*PACKAGES, *TRAINING_PACKAGES) if trains else PACKAGES:
        expected = " or ".join(sorted(locked.get(package, ())))
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package in OPTIONAL:
                found.append(f"{package} is not installed: {OPTIONAL[package]}")
            else:
                wrong.append(f"{package} is not installed; run `{'make clean install' if trains else 'pip install .'}`")
            continue
        found.append(f"{package} {version}")
        if expected and version not in locked[package]:
            wrong.append(f"{package} is {version}, tested with {expected}; run `make clean install`")
    if not trains:
        found.append("titles, scores and the service only: `make install` installs what training needs")
    elif not wrong:
        try:
            from ..networks import backend, t5  # noqa: F401  the import is the test

            gpus = len(backend.tf.config.list_physical_devices("GPU"))
            found.append(f"{gpus} GPUs" if gpus else "no GPU: everything runs on the CPU")
        except Exception as error:  # whatever the reason, the user sees one line
            wrong.append(f"the packages do not work together: {type(error).__name__}: {error}")
    return found, wrong


def _is_installed(package: str) -> bool:
    try:
        importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return False
    return True


def main(argv: Sequence[str] | None = None) -> int:
    """Print the findings; return 0 if nothing is wrong, else 1."""
    cli.require_stdout()
    if argv:
        from .. import check as data_check  # late: of packages it needs one may be missing

        flags = data_check.make_parser(files="*").parse_args(argv)
        if flags.files:
            return data_check.run(flags)
    found, wrong = check()
    print("\n".join(found))
    for line in wrong:
        print(f"wrong: {line}")
    print("not everything fits" if wrong else "everything fits")
    return 1 if wrong else 0
