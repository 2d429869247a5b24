"""Command-line flags made from the config dataclasses, and errors turned into one line and exit code 2."""

import argparse
import dataclasses
import io
import os
import signal
import sys
import types
import typing
from collections.abc import Callable, Collection, Sequence
from typing import Any, TypeVar

from .errors import OptionError, PegasusError

Config = TypeVar("Config")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> typing.NoReturn:
        """Raise OptionError instead of printing the whole usage, as argparse would."""
        raise OptionError(f"{message} (--help lists the flags)")


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser that shows defaults and takes no abbreviated flags, which would break as flags are added.

    Flags that cannot be parsed raise OptionError.
    """
    return _Parser(description=description, allow_abbrev=False, formatter_class=argparse.ArgumentDefaultsHelpFormatter)


def add_flags(
    parser: argparse.ArgumentParser, *config_classes: type, only: Collection[str] = (), of_model: bool = False
) -> None:
    """Add a flag `--name` (and one for each alias) for every field of the config dataclasses, a group for each class.

    `only` names the fields that a script uses; all of them if empty. With `of_model` a flag that is not given is not
    set either: the model's own defaults go before the field's (see `given`).
    """
    for config_class in config_classes:
        group = parser.add_argument_group(config_class.__name__.removesuffix("Config").lower())
        hints = typing.get_type_hints(config_class)
        for field in dataclasses.fields(config_class):
            if only and field.name not in only:
                continue
            names = [f"--{name}" for name in (field.name, *field.metadata["aliases"])]
            keywords: dict[str, Any] = {"dest": field.name, "default": field.default, "help": field.metadata["help"]}
            if of_model:
                last = f", else {field.default}" if field.default not in (None, "", ()) else ""
                keywords |= {"default": argparse.SUPPRESS, "help": f"{keywords['help']} (default: the model's{last})"}
            kind = _plain_type(hints[field.name])
            if kind is bool:
                keywords["action"] = argparse.BooleanOptionalAction if of_model else "store_true"
            else:
                is_list = typing.get_origin(kind) is tuple
                keywords["type"] = field.metadata["parse"] or (token_ids if is_list else kind)
                keywords["choices"] = field.metadata["choices"] or None
                keywords["metavar"] = (
                    None if field.metadata["choices"] else "ID,ID" if is_list else kind.__name__.upper()
                )
            group.add_argument(*names, **keywords)


def config_from(flags: argparse.Namespace, config_class: type[Config]) -> Config:
    """Build the config object from the parsed flags; raises what its checks raise (OptionError)."""
    return config_class(**given(flags, config_class))


def given(flags: argparse.Namespace, config_class: type) -> dict[str, Any]:
    """Return the values of the flags that were given, of those that `add_flags(..., of_model=True)` added."""
    names = [field.name for field in dataclasses.fields(config_class)]
    return {name: getattr(flags, name) for name in names if hasattr(flags, name)}


def run(main: Callable[[Sequence[str] | None], int]) -> typing.NoReturn:
    """Run a script's `main` and exit: 2 with one line for an error of the user or the system, 130 for Ctrl-C."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(encoding="utf-8")  # titles are Chinese, whatever the locale
    try:
        code = main(None)
        sys.stdout.flush()
    except PegasusError as error:
        code = _fail(str(error))
    except BrokenPipeError:
        # The reader of our output has gone (`python test.py … | head`): there is nobody to report to.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except OSError as error:
        code = _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except (Exception, KeyboardInterrupt) as error:
        if not _is_interrupt(error):
            raise
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


def _is_interrupt(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error: TensorFlow raises its own if it is stopped while building a graph."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _fail(message: str) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2


def token_ids(text: str) -> tuple[int, ...]:
    """Parse whole numbers with commas between them."""
    return tuple(int(part) for part in text.split(",") if part.strip())


def _plain_type(hint: Any) -> type:
    """Return `int` for both `int` and `int | None`."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return typing.cast(type, next(kind for kind in kinds if kind is not type(None)))
