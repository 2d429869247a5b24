"""Which of the waiting texts are decoded together; the rest of the batcher is tested through the service."""

import types

from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.inputs import Source
from t5_pegasus.serving.batcher import _first_batch

SHORTEST = 4  # new tokens: a shorter text takes as much room


def job(length, num_beams, batch_tokens):
    config = GenerationConfig(num_beams=num_beams, batch_tokens=batch_tokens, max_new_tokens=SHORTEST)
    return types.SimpleNamespace(source=Source.whole(range(length)), config=config)


def size(jobs):
    return len(jobs) * max(SHORTEST, *(len(job.source) for job in jobs)) * jobs[0].config.num_rows


@given(st.lists(st.tuples(st.integers(1, 12), st.integers(1, 2)), min_size=1, max_size=12), st.integers(1, 100))
def test_a_batch_is_the_texts_of_the_same_options_up_to_the_first_that_has_no_room(texts, batch_tokens):
    queue = [job(length, num_beams, batch_tokens) for length, num_beams in texts]
    alike = [each for each in queue if each.config == queue[0].config]
    count = 1
    while count < len(alike) and size(alike[: count + 1]) <= batch_tokens:
        count += 1
    batch, is_full = _first_batch(queue)
    assert batch == alike[:count]
    longest = max(alike[:count], key=lambda each: len(each.source))
    assert is_full == (count < len(alike) or size([*batch, longest]) > batch_tokens)


def test_a_batch_at_its_budget_is_full():
    def sizes(lengths, batch_tokens):
        batch, is_full = _first_batch([job(length, 1, batch_tokens) for length in lengths])
        return len(batch), is_full

    assert sizes([10, 10, 10], 30) == (3, True)
    assert sizes([10, 10, 10], 29) == (2, True)
    assert sizes([10, 10, 10], 39) == (3, True)
    assert sizes([10, 10, 10], 40) == (3, False)
    assert sizes([40], 30) == (1, True)
    assert sizes([1, 1, 1], 2 * SHORTEST) == (2, True)
