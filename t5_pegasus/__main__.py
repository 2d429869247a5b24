"""`t5-pegasus COMMAND …`, also `python -m t5_pegasus COMMAND …`; without a command it checks the installation."""

import importlib
import sys
from collections.abc import Sequence

from . import cli
from .commands import COMMANDS
from .errors import OptionError


def run_command(argv: Sequence[str] | None = None) -> int:
    """Run the command that the first argument names with the other arguments, and return its exit code.

    Raises OptionError for a command that does not exist.
    """
    name, *rest = (sys.argv[1:] if argv is None else argv) or ["check"]
    if name in ("-h", "--help"):
        print("usage: t5-pegasus COMMAND …\n")
        for command, summary in COMMANDS.items():
            print(f"  {command:8}{summary}; `t5-pegasus {command} --help` lists its flags")
        return 0
    if name not in COMMANDS:
        raise OptionError(f"the command must be one of {', '.join(COMMANDS)}, got {name}")
    sys.argv[0] = f"t5-pegasus {name}"  # the name in the command's own --help
    module = importlib.import_module(f"{__package__}.commands.{name}")
    code: int = module.main(rest)
    return code


def main() -> None:
    """Run a command and exit, with one line for an error of the user."""
    cli.run(run_command)


if __name__ == "__main__":
    main()
