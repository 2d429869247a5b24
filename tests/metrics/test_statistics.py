"""Intervals and paired tests against scipy, sacrebleu, a plain loop, and what is known of the tests."""

import itertools
import math
import random
import time

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from sacrebleu.metrics import BLEU, CHRF
from sacrebleu.significance import PairedTest

from t5_pegasus.metrics.chrf import chrf_of_counts
from t5_pegasus.metrics.comparison import corpus_measures
from t5_pegasus.metrics.corpus import bleu_of_counts
from t5_pegasus.metrics.statistics import (
    LEVEL,
    POWER,
    Interval,
    Measure,
    compare,
    holm,
    mean_measure,
    smallest_detectable,
)

RESAMPLES = 400


@pytest.fixture(scope="module")
def values():
    """Return float64 [3 systems, 40 texts]; the second is better than the first by little, the third by much."""
    rng = np.random.default_rng(7)
    base = rng.uniform(size=40)
    return np.stack([base, base + rng.normal(0.02, 0.05, 40), base + rng.normal(0.2, 0.1, 40)])


def title(choose, length):
    return "".join(choose("甲乙丙丁戊己庚辛ab 1", k=length))


@pytest.fixture(scope="module")
def corpora():
    """Return (titles [3][60], references [60] of one each): noisy copies of the references, fewer errors each time."""
    choose = random.Random(1)
    references = [title(choose.choices, choose.randint(5, 20)).strip() or "甲" for _ in range(60)]
    titles = [
        [
            "".join(choose.choice("甲乙丙丁戊") if choose.random() < rate else each for each in text)
            for text in references
        ]
        for rate in (0.4, 0.35, 0.1)
    ]
    return titles, [(reference,) for reference in references]


def test_intervals_are_scipys(values):
    found = compare([mean_measure("m", values)], RESAMPLES, seed=3)["m"]
    for of_system, interval in zip(values, found.intervals, strict=True):
        expected = scipy.stats.bootstrap(
            (of_system,), np.mean, n_resamples=RESAMPLES, method="percentile", rng=np.random.default_rng(3)
        ).confidence_interval
        assert interval == pytest.approx((of_system.mean(), expected.low, expected.high), rel=1e-12)
    for pair in found.pairs:
        expected = scipy.stats.bootstrap(
            (values[pair.first] - values[pair.second],),
            *(np.mean,),
            n_resamples=RESAMPLES,
            method="percentile",
            rng=np.random.default_rng(3),
        )
        interval = expected.confidence_interval
        assert pair.difference[1:] == pytest.approx((interval.low, interval.high), rel=1e-9)
        assert pair.detectable == pytest.approx(
            (scipy.stats.norm.ppf((1 + LEVEL) / 2) + scipy.stats.norm.ppf(POWER)) * expected.standard_error, rel=1e-6
        )


def plain_loop(values, resamples, seed):
    """Return {(first, second): (bootstrap p, randomization p)} by loops over resamples, pairs and texts."""
    systems, texts = values.shape
    bootstrap = np.random.default_rng(seed).integers(0, texts, (resamples, texts))
    keeps = np.random.default_rng(seed).integers(2, size=(resamples, texts), dtype=bool)
    found = {}
    for first, second in itertools.combinations(range(systems), 2):
        observed = abs(np.mean(values[first]) - np.mean(values[second]))
        differences = [abs(np.mean(values[first][draw]) - np.mean(values[second][draw])) for draw in bootstrap]
        swapped = []
        for keep in keeps:
            ours = [values[first][text] if keep[text] else values[second][text] for text in range(texts)]
            theirs = [values[second][text] if keep[text] else values[first][text] for text in range(texts)]
            swapped.append(abs(np.mean(ours) - np.mean(theirs)))
        at_least = observed * (1 - 1e-9)
        shifted = sum(each - np.mean(differences) >= at_least for each in differences)
        found[first, second] = (
            (shifted + 1) / (resamples + 1),
            (sum(each >= at_least for each in swapped) + 1) / (resamples + 1),
        )
    return found


@pytest.mark.parametrize("rounded", [False, True], ids=["any numbers", "zeros and ones, with ties"])
def test_p_values_equal_a_plain_loop(values, rounded):
    values = (values > 0.5).astype(float) if rounded else values
    found = compare([mean_measure("m", values)], 64, seed=5)["m"].pairs
    expected = plain_loop(values, 64, seed=5)
    assert {(pair.first, pair.second): (pair.bootstrap, pair.randomization) for pair in found} == expected
    for name in ("bootstrap", "randomization"):
        corrected = [getattr(pair, f"{name}_holm") for pair in found]
        assert corrected == holm([getattr(pair, name) for pair in found])


def test_randomization_comes_near_the_exact_p_value():
    values = np.random.default_rng(2).normal(((0.0,), (0.4,)), size=(2, 9))
    exact = scipy.stats.permutation_test(
        (values[0], values[1]), lambda x, y: np.mean(x) - np.mean(y), permutation_type="samples", n_resamples=np.inf
    ).pvalue
    (pair,) = compare([mean_measure("m", values)], 10_000, seed=1)["m"].pairs
    assert pair.randomization == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 10_000))


@pytest.mark.parametrize("test", ["bs", "ar"])
def test_bleu_and_chrf_are_tested_as_sacrebleu_does(corpora, test, monkeypatch):
    monkeypatch.setenv("SACREBLEU_SEED", "77")
    titles, references = corpora
    measures, _ = corpus_measures(titles, references)
    found = compare(measures, RESAMPLES, seed=77)
    metrics = {"BLEU": BLEU(tokenize="zh"), "chrF": CHRF()}
    named = [(str(number), of_system) for number, of_system in enumerate(titles)]
    _, expected = PairedTest(named, metrics, [[each for (each,) in references]], test, RESAMPLES)()
    for name, key in {"corpus-bleu": "BLEU", "corpus-chrf": "chrF2"}.items():
        of_sacrebleu = expected[key]
        scores = [result.score / 100 for result in of_sacrebleu]
        assert [interval.score for interval in found[name].intervals] == pytest.approx(scores)
        of_pairs = {(pair.first, pair.second): pair for pair in found[name].pairs}
        for number in (1, 2):
            p_value = of_pairs[0, number].bootstrap if test == "bs" else of_pairs[0, number].randomization
            assert p_value == of_sacrebleu[number].p_value
    assert 0.05 < of_pairs[0, 1].randomization < 0.95  # the test would see a p-value that is always 0 or 1


def test_equal_systems_are_not_told_apart(values):
    found = compare([mean_measure("m", values[[0, 0]])], RESAMPLES)["m"]
    assert found.intervals[0] == found.intervals[1]
    (pair,) = found.pairs
    assert (pair.bootstrap, pair.randomization, pair.is_significant) == (1, 1, False)
    assert pair.difference == Interval(0, 0, 0)


def test_blocks_of_resamples_change_nothing(values, corpora, monkeypatch):
    measures = [mean_measure("m", values)]
    whole = compare(measures, 200, seed=9)
    monkeypatch.setattr("t5_pegasus.metrics.statistics._NUMBERS_AT_A_TIME", 64 * 40)
    assert compare(measures, 200, seed=9) == whole


def test_holm_gives_the_numbers_of_r():
    # p.adjust(c(0.01, 0.02, 0.03, 0.005, 0.8), "holm") and p.adjust(c(0.04, 0.001), "holm") in R 4.3.
    assert holm([0.01, 0.02, 0.03, 0.005, 0.8]) == pytest.approx([0.04, 0.06, 0.06, 0.025, 0.8])
    assert holm([0.04, 0.001]) == pytest.approx([0.04, 0.002])
    assert holm([]) == []


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
@settings(max_examples=50)
def test_holm_rejects_what_the_step_down_procedure_rejects(p_values):
    corrected = holm(p_values)
    rejected = set()
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda each: p_values[each])):
        if p_values[index] * (len(p_values) - rank) >= 0.05:
            break
        rejected.add(index)
    assert {index for index, each in enumerate(corrected) if each < 0.05} == rejected


def test_the_smallest_detectable_difference_is_found_as_often_as_it_says():
    texts, experiments = 200, 4000
    rng = np.random.default_rng(0)
    shift = smallest_detectable(1 / math.sqrt(texts))
    differences = rng.normal(shift, 1, (experiments, texts))
    p_values = scipy.stats.ttest_1samp(differences, 0, axis=1).pvalue
    assert (p_values < 1 - LEVEL).mean() == pytest.approx(POWER, abs=0.03)


@pytest.mark.slow
def test_350_texts_of_six_systems_take_less_than_five_seconds():
    rng = np.random.default_rng(0)
    measures = [mean_measure(str(number), rng.uniform(size=(6, 350))) for number in range(20)]
    measures.append(Measure("bleu", rng.integers(1, 9, (6, 350, 10)).astype(float), bleu_of_counts))
    measures.append(Measure("chrf", rng.integers(1, 9, (6, 350, 18)).astype(float), chrf_of_counts))
    start = time.process_time()  # of all threads: other work on the machine does not count
    found = compare(measures)
    assert time.process_time() - start < 10  # five seconds on two cores
    assert len(found["0"].pairs) == 15
