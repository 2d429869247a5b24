"""Which rows go into a batch, and what shape it has."""

import itertools

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.training.batches import bucket_batches, pair_batches, shuffled_batches


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


def test_rows_of_one_length_stay_in_their_shuffled_order():
    """On any machine: what is not a stable sort puts equals in an order of its own."""
    lengths = np.random.default_rng(0).integers(5, 7, 400)
    pairs = np.stack([lengths, lengths], axis=1)

    def slices(rows, size):
        return [rows[first : first + size] for first in range(0, len(rows), size)]

    random = np.random.default_rng(3)
    batches = slices(sorted(random.permutation(400).tolist(), key=lengths.__getitem__), 16)
    expected = [batches[index] for index in random.permutation(len(batches))]
    found = shuffled_batches(lengths.tolist(), 16, np.random.default_rng(3))
    assert [rows.tolist() for rows in found] == expected
    found = pair_batches(pairs, 16, 1, np.random.default_rng(3))
    assert [batch.rows.tolist() for batch in found] == expected
    assert {batch.size for batch in found} == {16}

    random = np.random.default_rng(3)
    order = random.permutation(400).tolist()
    batches = slices([row for row in order if lengths[row] == 5], 16)
    batches += slices([row for row in order if lengths[row] == 6], 13)
    found = bucket_batches(pairs, 160, 1, np.random.default_rng(3))
    assert [batch.rows.tolist() for batch in found] == [batches[index] for index in random.permutation(len(batches))]


def test_sources_of_like_length_go_together():
    lengths = np.random.default_rng(0).integers(1, 500, (320, 2))
    batches = pair_batches(lengths, 16, 1, np.random.default_rng(1))
    ranges = sorted((lengths[batch.rows, 0].min(), lengths[batch.rows, 0].max()) for batch in batches)
    assert all(before[1] <= after[0] for before, after in itertools.pairwise(ranges))


def slow_round_up(number, multiple):
    while number % multiple:
        number += 1
    return number


LENGTHS = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 20)), min_size=1, max_size=60)
OPTIONS = st.tuples(st.integers(1, 9), st.integers(1, 4), st.integers(0, 2**32))  # multiple, devices, seed


@given(LENGTHS, OPTIONS, st.integers(1, 9))
def test_pairs_are_padded_to_the_next_multiple_and_batches_to_all_devices(lengths, options, batch_size):
    lengths, (multiple, devices, seed) = np.array(lengths), options
    batches = pair_batches(lengths, batch_size, multiple, np.random.default_rng(seed), devices)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        longest = [slow_round_up(length, multiple) for length in lengths[batch.rows].max(axis=0)]
        assert [batch.source_length, batch.target_length] == longest
        assert batch.size == slow_round_up(len(batch.rows), devices)
        assert len(batch.rows) <= batch_size * devices
    assert sum(len(batch.rows) < batch_size * devices for batch in batches) <= 1


@given(LENGTHS, OPTIONS, st.integers(1, 400))
def test_buckets_have_one_shape_and_as_many_rows_as_their_budget_lets_them(lengths, options, max_tokens):
    lengths, (multiple, devices, seed) = np.array(lengths), options
    batches = bucket_batches(lengths, max_tokens, multiple, np.random.default_rng(seed), devices)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(lengths)))
    sizes = {}
    for batch in batches:
        for row in batch.rows:
            padded = tuple(slow_round_up(length, multiple) for length in lengths[row])
            assert padded == (batch.source_length, batch.target_length)
        assert batch.size == slow_round_up(len(batch.rows), devices)
        sizes.setdefault((batch.source_length, batch.target_length), []).append(len(batch.rows))
    for (source_length, target_length), counts in sizes.items():
        most = 1
        while (most + 1) * (source_length + target_length) <= max_tokens:
            most += 1
        most *= devices
        total = sum(counts)
        assert sorted(counts, reverse=True) == [most] * (total // most) + [total % most] * (total % most > 0)


def test_edges_of_a_multiple_and_of_a_budget():
    def shape(length, multiple, make, limit):
        (batch,) = make(np.array([[length, length]]), limit, multiple, np.random.default_rng(0))
        return batch.source_length, batch.target_length

    for make, limit in ((pair_batches, 1), (bucket_batches, 1)):
        assert [shape(length, 8, make, limit) for length in (7, 8, 9, 16, 17)] == [
            (8, 8),
            (8, 8),
            (16, 16),
            (16, 16),
            (24, 24),
        ]
        assert shape(9, 1, make, limit) == (9, 9)

    def rows(max_tokens, devices=1):
        batches = bucket_batches(np.full((6, 2), 5), max_tokens, 1, np.random.default_rng(0), devices)
        return sorted((len(batch.rows), batch.size) for batch in batches)

    assert rows(29) == [(2, 2)] * 3
    assert rows(30) == rows(39) == [(3, 3)] * 2
    assert rows(9) == rows(10) == rows(19) == [(1, 1)] * 6
    assert rows(40) == [(2, 2), (4, 4)]
    assert rows(29, devices=2) == [(2, 2), (4, 4)]
    assert rows(20, devices=4) == [(6, 8)]
