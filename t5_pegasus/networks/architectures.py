"""The description of a config's network: a row in `DESCRIPTIONS` for each architecture."""

from collections.abc import Callable

from ..config import PEGASUS, ModelConfig
from .description import Description
from .pegasus_description import describe_pegasus
from .t5_description import describe_t5

DESCRIPTIONS: dict[str, Callable[[ModelConfig], Description]] = {PEGASUS: describe_pegasus}


def describe(config: ModelConfig) -> Description:
    """Return the description of a config's network; all that is not in the table is T5's."""
    return DESCRIPTIONS.get(config.model_type, describe_t5)(config)
