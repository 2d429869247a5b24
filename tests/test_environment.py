"""What `import t5_pegasus` brings in, and what `python -m t5_pegasus` says of an installation."""

import importlib.metadata
import subprocess
import sys
import tomllib

import pytest

import t5_pegasus
from t5_pegasus.commands import check as environment
from t5_pegasus.locations import ROOT

HEAVY = {"tensorflow", "tf_keras", "keras", "bert4keras", "jieba", "rjieba", "numpy", "nltk", "rouge"}


def run_python(*arguments, **variables):
    return subprocess.run(
        [sys.executable, *arguments], cwd=ROOT, capture_output=True, text=True, encoding="utf-8", **variables
    )


@pytest.mark.parametrize(
    ("code", "allowed"),
    [
        ("import t5_pegasus", set()),
        ("from t5_pegasus import *; import t5_pegasus", HEAVY),
        ("from t5_pegasus import PegasusTokenizer as P; P('chinese_t5_pegasus_tiny/vocab.txt')", set()),
        (
            "from t5_pegasus import PegasusTokenizer as P; P('chinese_t5_pegasus_tiny/vocab.txt').encode('x')",
            {"rjieba"},
        ),
        ("from t5_pegasus import read_examples; list(read_examples('data/test.tsv'))", set()),
        ("from t5_pegasus import score; score(['a'], ['b'])", {"numpy", "nltk", "rouge"}),
        ("from t5_pegasus import pseudo_summary; pseudo_summary(['甲', '乙'])", {"numpy"}),
    ],
)
def test_a_name_brings_in_no_more_than_it_needs(code, allowed):
    ran = run_python("-c", f"{code}\nimport sys; print(*sys.modules)")
    assert ran.returncode == 0, ran.stderr
    assert HEAVY & set(ran.stdout.split()) <= allowed


def test_every_public_name_is_there():
    expected = {"AutoTitle", "PegasusTokenizer", "build_model", "pseudo_summary", "read_examples", "score"}
    assert expected <= set(t5_pegasus.__all__)
    for name in t5_pegasus.__all__:
        assert callable(getattr(t5_pegasus, name))
        assert getattr(t5_pegasus, name).__doc__
    with pytest.raises(AttributeError, match="no attribute 'Autotitle'"):
        t5_pegasus.Autotitle  # noqa: B018  the look-up is the test


def test_a_sound_installation_is_reported_with_every_version():
    ran = run_python("-m", "t5_pegasus")
    assert (ran.returncode, ran.stderr) == (0, "")
    for package in environment.PACKAGES:
        assert f"\n{package} {importlib.metadata.version(package)}\n" in ran.stdout
    assert ran.stdout.startswith("python 3.")
    assert ran.stdout.endswith("\neverything fits\n")


@pytest.fixture
def without_import(monkeypatch):
    """Keep `check` from importing TensorFlow: what it finds before that is what is tested."""
    monkeypatch.setitem(sys.modules, "t5_pegasus.networks.backend", None)
    monkeypatch.delattr("t5_pegasus.networks.backend", raising=False)


def test_other_versions_than_the_locked_are_told(tmp_path, without_import):
    lock = tmp_path / "lock.txt"
    numpy = importlib.metadata.version("numpy")
    lock.write_text(
        f'numpy==1.0 ; python_full_version < "3.12" \\\n    --hash=sha256:00\nnumpy=={numpy}\nkeras==2.3.1 \\\n'
        "    --hash=sha256:00\njieba==0.1\njieba==0.2\n"
    )
    found, wrong = environment.check(lock)
    keras, jieba = (importlib.metadata.version(name) for name in ("keras", "jieba"))
    assert wrong == [
        f"jieba is {jieba}, tested with 0.1 or 0.2; run `make clean install`",
        f"keras is {keras}, tested with 2.3.1; run `make clean install`",
    ]
    assert f"numpy {numpy}" in found


def test_the_lock_names_every_package():
    locked = environment.locked_versions(environment.LOCK)
    assert set(environment.PACKAGES) <= set(locked)


def test_the_version_is_that_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert t5_pegasus.__version__ == project["version"]


def test_packages_that_are_missing_are_told(monkeypatch, without_import):
    version = importlib.metadata.version

    def missing(name):
        if name in ("rjieba", "rouge"):
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    found, wrong = environment.check()
    assert wrong == ["rouge is not installed; run `make clean install`"]
    assert any(line.startswith("rjieba is not installed: jieba is used instead") for line in found)


def test_a_python_that_is_too_new_and_packages_that_clash_are_told(monkeypatch, without_import, capsys):
    _, wrong = environment.check()
    assert len(wrong) == 1
    assert wrong[0].startswith("the packages do not work together: ")
    monkeypatch.setattr(sys, "version_info", (3, 13, 0, "final", 0))
    assert environment.main([]) == 1
    out = capsys.readouterr().out.splitlines()
    assert out[-2].startswith("wrong: python is ")
    assert out[-2].endswith("; use 3.11 or 3.12, which the lock is made for")
    assert out[-1] == "not everything fits"
