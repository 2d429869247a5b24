"""The adapters of an engine, and those of a batch side by side: each row's product is with its own.

The matrices of the adapters in a batch are joined, a to [inputs, K] and b to [K, outputs], where K is the sum of their
ranks; a row's `x @ a` is multiplied by 1 in the columns of its adapter and by 0 in the others. So rows of all adapters,
and of none, are one product, however many there are.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ..errors import OptionError
from ..networks.lora import Adapter

_KEPT = 8  # joined matrices of sets of adapters that came last


class Joined(NamedTuple):
    """The adapters of a batch.

    factors: by the name of a weight, a float32 [inputs, K] and b [K, outputs], which has the scale.
    columns: float32 [adapters of the batch, K], 1 in the columns of each.
    """

    factors: Mapping[str, tuple[np.ndarray, np.ndarray]]
    columns: np.ndarray


class Adapters:
    """Adapters by name, of one network."""

    def __init__(self) -> None:
        self._adapters: dict[str, Adapter] = {}
        self._joined: dict[tuple[str, ...], Joined] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Return the names, in the order in which they came."""
        return tuple(self._adapters)

    def add(self, name: str, adapter: Adapter) -> None:
        """Add an adapter, in place of one of that name.

        Raises OptionError for one that has modules as a whole, which are no products of low rank.
        """
        if adapter.saved:
            paths = ", ".join(module.path for module in adapter.plan.saved)
            raise OptionError(
                f"the adapter {name} has whole modules (modules_to_save: {paths}) and must be merged: "
                "python -m t5_pegasus.adapters merge"
            )
        self._adapters[name] = adapter
        self._joined.clear()

    def remove(self, name: str) -> None:
        """Remove an adapter. Raises OptionError if there is none of that name."""
        self.check(name)
        del self._adapters[name]
        self._joined.clear()

    def check(self, name: str | None) -> None:
        """Raise OptionError unless there is an adapter of that name; None is no adapter."""
        if name is not None and name not in self._adapters:
            raise OptionError(
                f"adapter must be one of {', '.join(self._adapters) or 'none: none is loaded'}, got {name}"
            )

    def targets(self) -> set[str]:
        """Return the names of all weights that an adapter adds to."""
        return {weight for adapter in self._adapters.values() for weight in adapter.factors}

    def of_batch(self, names: Sequence[str | None]) -> tuple[Joined | None, np.ndarray]:
        """Return the joined adapters of a batch, None if it has none, and each row's columns, float32 [rows, K].

        Raises OptionError for a name that no adapter has.
        """
        for name in dict.fromkeys(names):
            self.check(name)
        distinct = tuple(sorted({name for name in names if name is not None}))
        if not distinct:
            return None, np.zeros((len(names), 0), np.float32)
        joined = self._joined.pop(distinct, None) or self._join(distinct)
        self._joined[distinct] = joined
        if len(self._joined) > _KEPT:
            del self._joined[next(iter(self._joined))]
        nothing = np.zeros(joined.columns.shape[1], np.float32)
        rows = [nothing if name is None else joined.columns[distinct.index(name)] for name in names]
        return joined, np.array(rows)

    def _join(self, names: Sequence[str]) -> Joined:
        adapters = [self._adapters[name] for name in names]
        ranks = [max(factors.a.shape[1] for factors in adapter.factors.values()) for adapter in adapters]
        starts = np.cumsum([0, *ranks])
        columns = np.zeros((len(names), starts[-1]), np.float32)
        joined: dict[str, tuple[np.ndarray, np.ndarray]] = {}
        for index, (adapter, start, rank) in enumerate(zip(adapters, starts, ranks, strict=False)):
            columns[index, start : start + rank] = 1
            for weight, (a, b, scale) in adapter.factors.items():
                if weight not in joined:
                    shapes = (a.shape[0], starts[-1]), (starts[-1], b.shape[1])
                    joined[weight] = tuple(np.zeros(shape, np.float32) for shape in shapes)  # type: ignore[assignment]
                all_a, all_b = joined[weight]
                end = start + a.shape[1]
                all_a[:, start:end], all_b[start:end] = a, b * np.float32(scale)
        return Joined(joined, columns)
