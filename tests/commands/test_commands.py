"""`t5-pegasus COMMAND`: each command is the script of its stage, and a wrong one is a line."""

import subprocess
import sys

import pytest

from t5_pegasus.__main__ import run_command
from t5_pegasus.commands import COMMANDS
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import DATA_DIR, ROOT


def run(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, cwd=ROOT, encoding="utf-8")


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_there_and_explains_its_flags(command):
    helped = run("-m", "t5_pegasus", command, "--help")
    assert (helped.returncode, helped.stderr) == (0, "")
    assert helped.stdout.startswith(f"usage: t5-pegasus {command} ")


def test_a_command_does_what_its_script_does(tmp_path):
    titles, references = tmp_path / "titles.txt", DATA_DIR / "abstracts.tsv"
    lines = references.read_text(encoding="utf-8").splitlines()
    titles.write_text("".join(f"{line.split('，')[0][-9:]}\n" for line in lines), encoding="utf-8")
    pairs = ["--predictions", str(titles), "--references", str(references)]
    script, command = run("evaluation.py", *pairs), run("-m", "t5_pegasus", "score", *pairs)
    assert script.returncode == 0, script.stderr
    assert (script.returncode, script.stdout, script.stderr) == (command.returncode, command.stdout, command.stderr)


def test_without_a_command_the_installation_is_checked(capsys):
    assert run_command(["check"]) == run_command([])
    first, second = capsys.readouterr().out.split("everything fits\n")[:2]
    assert first == second


def test_what_is_not_a_command_is_refused():
    with pytest.raises(
        OptionError, match=r"^the command must be one of title, score, compare, serve, check, got titel$"
    ):
        run_command(["titel"])
