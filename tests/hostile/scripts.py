"""Every script by its name, and flags with which it ends before it has done any work."""

import importlib
import re
from collections.abc import Callable, Sequence
from unittest import mock

from t5_pegasus import cli
from t5_pegasus.commands import COMMANDS
from t5_pegasus.locations import PACKAGE, ROOT

Main = Callable[[Sequence[str]], int]

_IMAGE = "123456789012.dkr.ecr.us-west-2.amazonaws.com/none"

# A row a script: flags, of which the last win, whose input is missing.
SCRIPTS = {
    "t5_pegasus.commands.title": ["--input_file", "none.tsv"],
    "t5_pegasus.commands.score": ["--test_file", "none.tsv"],
    "t5_pegasus.commands.serve": ["--model_dir", "none"],
    "t5_pegasus.commands.compare": ["--test_file", "none.tsv"],
    "t5_pegasus.commands.check": ["--none"],
    "t5_pegasus.check": ["none.tsv"],
    "t5_pegasus.adapters": ["--adapter", "none", "--model_dir", "none", "merge"],
    "finetune": ["--train_file", "none.tsv"],
    "pretrain": ["--train_file", "none.jsonl"],
    "pretrain_data": ["--input_file", "none.txt"],
    "t5_pegasus.vocabulary": ["--input_file", "none.txt"],
    "t5_pegasus.export": ["--model_dir", "none"],
    "t5_pegasus.conversion": ["--model_dir", "none"],
    "deploy.client": ["--input_file", "none.tsv"],
    # No account is asked: there are no credentials, see `without_aws` in test_scripts.py.
    "deploy.create_endpoint": ["--endpoint_ecr_image_path", _IMAGE, "--role", "none", "--region", "us-west-2"],
}


def main_of(name: str) -> Main:
    """Return the `main` of a script."""
    main: Main = importlib.import_module(name).main
    return main


def scripts_that_exist() -> set[str]:
    """Return the names of the modules whose `main` is run by `cli.run`; of a script that only names a command, that."""
    found = {f"{PACKAGE.name}.commands.{name}" for name in COMMANDS}
    for path in (*ROOT.glob("*.py"), *PACKAGE.glob("*.py"), *(ROOT / "deploy").glob("*.py")):
        text = path.read_text(encoding="utf-8")
        if re.search(r"\brun\(main\)", text) and "def main(" in text:
            found.add(path.stem if path.parent == ROOT else f"{path.parent.name}.{path.stem}")
    return found


def flags_of(main: Main) -> dict[str, bool]:
    """Return the flags of a script, and whether each takes a value; without --help, which ends it well."""

    class Found(Exception):  # noqa: N818 - not an error
        """The parser, before it parses."""

    def found(parser: cli.argparse.ArgumentParser, *_: object) -> None:
        raise Found(parser)

    with mock.patch.object(cli.argparse.ArgumentParser, "parse_args", found):
        try:
            main(["--x"])
        except Found as caught:
            actions = caught.args[0]._actions
            return {flag: action.nargs != 0 for action in actions for flag in action.option_strings if "-h" not in flag}
    raise AssertionError("the script parses no flags")
