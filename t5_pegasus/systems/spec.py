"""What names a system on the command line: `KIND[:TARGET][?option=value&option=value]`."""

import dataclasses
import types
import typing
import urllib.parse
from collections.abc import Mapping
from typing import Any, TypeVar

from ..cli import token_ids
from ..errors import OptionError

Config = TypeVar("Config")
_TRUTHS = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}


@dataclasses.dataclass(frozen=True)
class Spec:
    """A system as it was asked for: its kind, what it is about, its options as they were written, and its name.

    `language` is that of the texts, a row of `metrics.LANGUAGES`.
    """

    kind: str
    target: str
    options: Mapping[str, str]
    name: str
    language: str = "zh"


def parse_spec(text: str, language: str = "zh") -> Spec:
    """Return the parts of a spec. The option `name` is the system's name in the report; else it is the spec itself.

    Values may have %26 for "&" and the like. Raises OptionError for an option without a value or one that is given
    twice.
    """
    before, _, query = text.partition("?")
    kind, _, target = before.partition(":")
    options: dict[str, str] = {}
    for part in filter(None, query.split("&")):
        name, equals, value = part.partition("=")
        if not equals:
            raise OptionError(f"options of a system must be name=value, got {part} in {text}")
        if name in options:
            raise OptionError(f"{name} is given twice in {text}")
        options[name] = urllib.parse.unquote(value)
    label = options.pop("name", text)
    if not label.strip():
        raise OptionError(f"the name of a system must not be empty, got {text}")
    # A report shows it, and a path in it need not be UTF-8.
    label = label.encode(errors="backslashreplace").decode()
    return Spec(kind, target, options, label, language)


def converted(config_class: type, options: Mapping[str, str]) -> dict[str, Any]:
    """Return those options that are fields of a dataclass, under the fields' names and in their types.

    Raises OptionError for a value that cannot be of its type.
    """
    hints = typing.get_type_hints(config_class)
    fields: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(config_class):
        fields.update(dict.fromkeys((field.name, *field.metadata["aliases"]), field))
    values = {}
    for name, text in options.items():
        if name in fields:
            field = fields[name]
            parse = field.metadata["parse"]
            values[field.name] = parse(text) if parse else _value(name, text, hints[field.name])
    return values


def make_config(config_class: type[Config], options: Mapping[str, str]) -> Config:
    """Return a dataclass made of options, all of which must be its fields; raises OptionError for others."""
    values = converted(config_class, options)
    check_known(options, config_class)
    return config_class(**values)


def check_known(options: Mapping[str, str], *config_classes: type) -> None:
    """Raise OptionError for an option that is a field of none of the dataclasses."""
    known = ["name"]
    for config_class in config_classes:
        for field in dataclasses.fields(config_class):
            known += [field.name, *field.metadata["aliases"]]
    for name in options:
        if name not in known:
            raise OptionError(f"options of this system are {', '.join(known)}, got {name}")


def _value(name: str, text: str, hint: Any) -> Any:
    kinds = [each for each in typing.get_args(hint) if each is not types.NoneType]
    kind = kinds[0] if isinstance(hint, types.UnionType) else hint
    try:
        if kind is bool:
            return _TRUTHS[text.lower()]
        return token_ids(text) if typing.get_origin(kind) is tuple else kind(text)
    except (KeyError, ValueError):
        shown = {bool: "true or false", int: "a whole number", float: "a number"}.get(kind, "whole numbers")
        raise OptionError(f"{name} must be {shown}, got {text}") from None
