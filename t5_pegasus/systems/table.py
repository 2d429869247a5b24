"""The kinds of systems: a row each."""

from collections.abc import Callable, Iterable

from ..errors import OptionError
from . import compress, extractive
from .openai_chat import OpenAIChat
from .ours import Ours
from .predictions import Predictions
from .protocol import System
from .service import Service
from .spec import Spec, parse_spec

SYSTEMS: dict[str, Callable[[Spec], System]] = {
    "title": Ours,
    "lead": extractive.make_lead,
    "textrank": extractive.make_textrank,
    "lexrank": extractive.make_lexrank,
    "oracle": extractive.make_oracle,
    "compress": compress.make_compress,
    "predictions": Predictions,
    "service": Service,
    "openai": OpenAIChat,
}


def make_system(spec: Spec) -> System:
    """Return the system that a spec names; raises what the row raises, and OptionError for an unknown kind."""
    if spec.kind not in SYSTEMS:
        raise OptionError(f"a system must begin with one of {', '.join(SYSTEMS)}, got {spec.kind}")
    return SYSTEMS[spec.kind](spec)


def parse_specs(texts: Iterable[str], language: str = "zh") -> list[Spec]:
    """Return the specs, for texts of a language; raises OptionError if there is none or two have one name."""
    specs = [parse_spec(text, language) for text in texts]
    if not specs:
        raise OptionError("give at least one --system, such as --system lead")
    names = [spec.name for spec in specs]
    for name in names:
        if names.count(name) > 1:
            raise OptionError(f"two systems are called {name}: give one of them another name with ?name=")
    return specs
