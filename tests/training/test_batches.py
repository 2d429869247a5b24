"""Which rows go into a batch."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.training.batches import shuffled_batches


@given(st.lists(st.integers(0, 500), max_size=300), st.integers(1, 40), st.integers(0, 2**32))
def test_every_row_is_in_one_batch_and_the_seed_decides_which(lengths, batch_size, seed):
    batches = shuffled_batches(lengths, batch_size, np.random.default_rng(seed))
    assert sorted(row for batch in batches for row in batch.tolist()) == list(range(len(lengths)))
    sizes = sorted(map(len, batches), reverse=True)
    assert sizes == [batch_size] * (len(lengths) // batch_size) + [len(lengths) % batch_size] * (
        len(lengths) % batch_size > 0
    )
    again = shuffled_batches(lengths, batch_size, np.random.default_rng(seed))
    assert [batch.tolist() for batch in again] == [batch.tolist() for batch in batches]


def padded_tokens(lengths, batches):
    return sum(len(batch) * max(lengths[row] for row in batch) for batch in batches)


def test_little_is_padded_and_yet_the_order_is_random():
    random = np.random.default_rng(7)
    lengths = random.integers(10, 250, 10_000).tolist()
    batches = shuffled_batches(lengths, 16, random)
    unsorted = np.split(random.permutation(10_000), 625)
    assert padded_tokens(lengths, batches) < 1.05 * sum(lengths)
    assert padded_tokens(lengths, unsorted) > 1.7 * sum(lengths)
    # Rows are mixed over the whole set, and short batches do not come first.
    assert np.mean([np.ptp(batch) for batch in batches]) > 5_000
    means = [np.mean([lengths[row] for row in batch]) for batch in batches]
    assert abs(np.corrcoef(means, np.arange(625))[0, 1]) < 0.15
    other = shuffled_batches(lengths, 16, random)
    assert {tuple(batch) for batch in batches}.isdisjoint(map(tuple, other))
