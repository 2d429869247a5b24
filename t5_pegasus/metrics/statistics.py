"""Is one system better than another, or was it luck? Bootstrap intervals and paired tests, of any score of sums.

A measure is a score computed from totals over the texts: of a mean they are the values and their number; of BLEU and
chrF, the counts of n-grams. So each resample is a product of matrices, and all systems, pairs and measures share the
same draws. The draws and p-values are sacrebleu's (`PairedTest` with the same seed) and the intervals scipy's
(`bootstrap(method="percentile")` from the same generator), except that a resample that ties with the observed
difference counts as one at least as large: equal systems have p = 1.
"""

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

LEVEL = 0.95  # of intervals; tests call a difference significant below 1 - LEVEL
POWER = 0.8  # with which a test finds the smallest detectable difference

_NUMBERS_AT_A_TIME = 1 << 22  # drawn indices, or selections, that are held at once
_TIE = 1e-9  # relative: two sums of the same numbers in another order


@dataclasses.dataclass(frozen=True)
class Measure:
    """A score of every system.

    Attributes:
        name: of the score.
        totals: what the score is computed from, summed over the texts: float64 [systems, texts, totals].
        of_sums: from sums, float64 [..., totals], to scores, float64 [...].
    """

    name: str
    totals: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]


def mean_measure(name: str, values: np.ndarray) -> Measure:
    """Return the measure that is the mean over the texts of `values`, float64 [systems, texts]."""
    return Measure(name, np.stack([values, np.ones_like(values)], axis=-1), _mean)


def _mean(sums: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 0] / sums[..., 1])


class Interval(NamedTuple):
    """A score of a system and the bounds of its bootstrap interval (percentiles)."""

    score: float
    low: float
    high: float


@dataclasses.dataclass(frozen=True)
class PairTest:
    """How the scores of two systems differ: the first's less the second's.

    Attributes:
        first, second: indices of the systems.
        difference: with the bounds of its bootstrap interval.
        bootstrap: p-value of the paired bootstrap (Koehn 2004, shifted to the null hypothesis).
        randomization: p-value of paired approximate randomization (Riezler and Maxwell 2005).
        bootstrap_holm, randomization_holm: the same after Holm's correction for all pairs of the measure.
        detectable: the smallest true difference that a test at this level finds with a probability of POWER.
    """

    first: int
    second: int
    difference: Interval
    bootstrap: float
    randomization: float
    bootstrap_holm: float
    randomization_holm: float
    detectable: float

    @property
    def is_significant(self) -> bool:
        """Return whether randomization, corrected for all pairs, tells the systems apart."""
        return self.randomization_holm < 1 - LEVEL


class Tested(NamedTuple):
    """What `compare` finds for a measure: an interval for each system, a test for each pair."""

    intervals: list[Interval]
    pairs: list[PairTest]


def compare(measures: Sequence[Measure], resamples: int = 10_000, seed: int = 12345) -> dict[str, Tested]:
    """Return the intervals and paired tests of each measure by its name; the same seed gives the same numbers.

    Args:
        measures: of the same systems and texts, at least one text.
        resamples: bootstrap resamples, and as many random exchanges.
        seed: of both generators, which are numpy's default.
    """
    if not measures:
        return {}
    ends = np.cumsum([measure.totals.shape[2] for measure in measures])
    totals = np.concatenate([measure.totals for measure in measures], axis=2)  # [systems, texts, all totals]
    systems, texts, width = totals.shape
    flat = totals.transpose(1, 0, 2).reshape(texts, systems * width)
    everything = totals.sum(axis=1)  # [systems, all totals]
    first, second = (np.array(side, int) for side in _pairs(systems))

    resampled: list[list[np.ndarray]] = [[] for _ in measures]  # blocks of [rows, systems] for each measure
    for counts in _draw_counts(texts, resamples, seed):
        sums = (counts @ flat).reshape(-1, systems, width)
        for blocks, measure, part in zip(resampled, measures, _parts(ends), strict=True):
            blocks.append(measure.of_sums(sums[..., part]))
    exchanged: list[list[np.ndarray]] = [[] for _ in measures]  # blocks of [rows, pairs]: differences
    for selected in _draw_selections(texts, resamples, seed):
        chosen = (selected @ flat).reshape(-1, systems, width)
        rest = everything - chosen
        ours, theirs = chosen[:, first] + rest[:, second], rest[:, first] + chosen[:, second]
        for blocks, measure, part in zip(exchanged, measures, _parts(ends), strict=True):
            blocks.append(measure.of_sums(ours[..., part]) - measure.of_sums(theirs[..., part]))
    return {
        measure.name: _tested(measure.of_sums(everything[:, part]), np.concatenate(booted), np.concatenate(swapped))
        for measure, part, booted, swapped in zip(measures, _parts(ends), resampled, exchanged, strict=True)
    }


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values corrected for all of them by Holm's step-down method (Holm 1979)."""
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = largest
    return corrected


def smallest_detectable(standard_error: float) -> float:
    """Return the difference that a two-sided test at LEVEL finds with probability POWER, from its standard error."""
    normal = NormalDist()
    return (normal.inv_cdf((1 + LEVEL) / 2) + normal.inv_cdf(POWER)) * standard_error


def _pairs(systems: int) -> tuple[list[int], list[int]]:
    pairs = list(itertools.combinations(range(systems), 2))
    return [first for first, _ in pairs], [second for _, second in pairs]


def _parts(ends: np.ndarray) -> list[slice]:
    return [slice(start, end) for start, end in itertools.pairwise([0, *ends.tolist()])]


def _block_rows(texts: int, resamples: int) -> Iterator[int]:
    """Yield how many resamples are drawn at a time. Multiples of 32: numpy draws booleans from 32 bits at once."""
    rows = max(32, _NUMBERS_AT_A_TIME // texts // 32 * 32)
    for start in range(0, resamples, rows):
        yield min(rows, resamples - start)


def _draw_counts(texts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of float64 [rows, texts]: how often each text is in a resample, which has as many texts as all."""
    generator = np.random.default_rng(seed)
    for rows in _block_rows(texts, resamples):
        indices = generator.integers(0, texts, (rows, texts)) + texts * np.arange(rows)[:, None]
        yield np.bincount(indices.ravel(), minlength=rows * texts).reshape(rows, texts).astype(np.float64)


def _draw_selections(texts: int, resamples: int, seed: int) -> Iterator[np.ndarray]:
    """Yield blocks of float64 [rows, texts]: 1 where two systems keep their texts, 0 where they exchange them."""
    generator = np.random.default_rng(seed)
    for rows in _block_rows(texts, resamples):
        yield generator.integers(2, size=(rows, texts), dtype=bool).astype(np.float64)


def _tested(scores: np.ndarray, resampled: np.ndarray, exchanged: np.ndarray) -> Tested:
    """Return the findings from the scores [systems], those of resamples [resamples, systems] and the exchanged ones."""
    first, second = (np.array(side, int) for side in _pairs(len(scores)))
    observed = scores[first] - scores[second]
    differences = resampled[:, first] - resampled[:, second]  # [resamples, pairs]
    sizes = np.abs(differences)
    by_bootstrap = _p_values(sizes - sizes.mean(axis=0), observed)
    by_randomization = _p_values(np.abs(exchanged), observed)
    errors = differences.std(axis=0, ddof=1) if len(differences) > 1 else np.zeros(len(observed))
    rows = zip(
        *(first.tolist(), second.tolist(), _intervals(observed, differences)),
        *(by_bootstrap, by_randomization, holm(by_bootstrap), holm(by_randomization)),
        map(smallest_detectable, errors.tolist()),
        strict=True,
    )
    return Tested(_intervals(scores, resampled), [PairTest(*row) for row in rows])


def _p_values(statistics: np.ndarray, observed: np.ndarray) -> list[float]:
    """Return the share of statistics [resamples, pairs] as large as observed [pairs]; the observed one is counted too.

    Without it, a p-value could be 0 (Phipson and Smyth 2010).
    """
    sizes = np.abs(observed)
    counts = (statistics >= sizes - _TIE * np.maximum(sizes, 1e-3)).sum(axis=0)
    values: list[float] = ((counts + 1) / (len(statistics) + 1)).tolist()
    return values


def _intervals(scores: np.ndarray, resampled: np.ndarray) -> list[Interval]:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(resampled, [tail, 1 - tail], axis=0)
    return [Interval(*row) for row in zip(scores.tolist(), low.tolist(), high.tolist(), strict=True)]
