"""The activation of T5's feed-forward layers, as engines that compute it themselves know it."""

from collections.abc import Sequence

from ..errors import OptionError

_TANH = {"gelu": False, "gelu_erf": False, "gelu_tanh": True}  # bert4keras's names: exact, or approximated by tanh


def approximates_gelu(hidden_act: Sequence[str]) -> bool:
    """Tell whether a model's gelu is the approximation by tanh.

    Raises OptionError for activations that only the reference computes.
    """
    gate, linear = hidden_act
    if gate not in _TANH or linear != "linear":
        raise OptionError(
            f"hidden_act must be {', '.join(_TANH)} and linear for engines keras and onnx, got {list(hidden_act)}; "
            "take engine reference"
        )
    return _TANH[gate]
