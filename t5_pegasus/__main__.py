"""`python -m t5_pegasus`: which versions are installed, whether they work together, and what to do if not."""

import importlib.metadata
import platform
import re
import sys
from pathlib import Path

from .locations import ROOT

LOCK = ROOT / "requirements" / "base.txt"

# The packages that a user would ask about; the others in the lock are their dependencies.
PACKAGES = (
    *("tensorflow", "tf-keras", "keras", "bert4keras", "numpy", "h5py", "safetensors"),
    *("jieba", "rjieba", "rouge", "nltk", "sacrebleu", "rapidfuzz", "openpyxl", "tqdm", "setuptools"),
)
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
    if not (3, 11) <= sys.version_info[:2] <= (3, 12):
        wrong.append(f"python is {platform.python_version()}; use 3.11 or 3.12, which the lock is made for")
    locked = locked_versions(lock) if lock.is_file() else {}
    for package in PACKAGES:
        expected = " or ".join(sorted(locked.get(package, ())))
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            if package in OPTIONAL:
                found.append(f"{package} is not installed: {OPTIONAL[package]}")
            else:
                wrong.append(f"{package} is not installed; run `make clean install`")
            continue
        found.append(f"{package} {version}")
        if expected and version not in locked[package]:
            wrong.append(f"{package} is {version}, tested with {expected}; run `make clean install`")
    if not wrong:
        try:
            from .networks import backend, t5  # noqa: F401  the import is the test

            gpus = len(backend.tf.config.list_physical_devices("GPU"))
            found.append(f"{gpus} GPUs" if gpus else "no GPU: everything runs on the CPU")
        except Exception as error:  # whatever the reason, the user sees one line
            wrong.append(f"the packages do not work together: {type(error).__name__}: {error}")
    return found, wrong


def main() -> int:
    """Print the findings; return 0 if nothing is wrong, else 1."""
    found, wrong = check()
    print("\n".join(found))
    for line in wrong:
        print(f"wrong: {line}")
    print("not everything fits" if wrong else "everything fits")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
