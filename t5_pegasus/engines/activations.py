"""The activations of feed-forward layers that engines compute themselves."""

from collections.abc import Iterable

from ..errors import OptionError

# bert4keras's names in config.json, and the operation that an engine has for each. Its "gelu" is the exact one.
OPERATIONS = {
    "linear": "linear",
    "relu": "relu",
    "swish": "swish",
    "gelu": "gelu",
    "gelu_erf": "gelu",
    "gelu_tanh": "gelu_tanh",
}


def check_activations(names: Iterable[str]) -> None:
    """Raise OptionError for an activation that only the reference computes."""
    for name in names:
        if name not in OPERATIONS:
            raise OptionError(
                f"hidden_act must be {', '.join(OPERATIONS)} for engines keras and onnx, got {name}; "
                "use engine reference"
            )
