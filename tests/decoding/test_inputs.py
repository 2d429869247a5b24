"""What is read of a text over the length, that windows joined are the text, and how rows are padded and batched."""

import itertools

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from t5_pegasus import AutoTitle, PegasusTokenizer
from t5_pegasus.decoding.inputs import (
    LONG_TEXT,
    MOST_TOKENS,
    NO_TEXT,
    Source,
    Window,
    budget_batches,
    divide,
    make_inputs,
    pad,
)
from t5_pegasus.text.protocol import Encoded, Frame
from tests.paths import UNTRAINED_MODEL_DIR

FRAMES = [Frame((101,), (102,)), Frame((), (1,)), Frame((5, 6, 7), (8,)), Frame((), ())]
TEXTS = st.text("一二三四五六七八九十，。a1 ", max_size=80)


class Characters:
    """A tokenizer of code points in any frame: as much of the protocol as reading a source needs."""

    def __init__(self, frame):
        self.frame = frame

    def encode_source(self, text, max_length=None, masked=False):
        room = None if max_length is None else max_length - self.frame.size
        ids = list(map(ord, text))
        return Encoded([*self.frame.leading, *ids[:room], *self.frame.trailing], room is not None and len(ids) > room)

    def encode_prefix(self, text):
        return list(map(ord, text))


def framed(frame, length):
    return [*frame.leading, *range(1000, 1000 + length), *frame.trailing]


def body(frame, ids):
    """Return the ids within the frame, which they must have."""
    ids, (leading, trailing) = list(ids), map(len, frame)
    assert tuple(ids[:leading]) == frame.leading
    assert tuple(ids[len(ids) - trailing :]) == frame.trailing
    return ids[leading : len(ids) - trailing]


@given(st.sampled_from(FRAMES), st.lists(st.integers(1, 60), min_size=1, max_size=4), st.integers(5, 30))
@example(FRAMES[0], [28, 29, 27], 30)
def test_joined_windows_have_every_token_once_and_in_order(frame, lengths, max_length):
    texts = [framed(frame, length) for length in lengths]
    sources = [Source(divide(ids, max_length, frame)) for ids in texts]
    ids, joined, owners, _ = make_inputs(sources)
    assert owners.tolist() == [number for number, source in enumerate(sources) for _ in source.windows]
    assert ids.shape[0] == len(owners)
    for text, source, indices in zip(texts, sources, joined, strict=True):
        assert source.ids == ids.ravel()[indices[: len(text)]].tolist() == text
        assert len(source) == len(text)
        assert (indices[len(text) :] == -1).all()
        assert (len(source.windows) == 1) == (len(text) <= max_length)
        for window in source.windows:
            assert len(window.ids) <= max_length
            inner = body(frame, window.ids)
            assert inner == list(range(inner[0], inner[-1] + 1))


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 8, 40])
def test_neighbouring_windows_share_a_quarter_and_the_last_one_is_full(frame, size):
    for length in range(size + 1, 3 * size + 9):
        windows = divide(framed(frame, length), size + frame.size, frame)
        inner = [body(frame, window.ids) for window in windows]
        assert {len(ids) for ids in inner} == {size}
        *shared, last = [len(set(left) & set(right)) for left, right in itertools.pairwise(inner)]
        assert set(shared) <= {size // 4}
        assert last >= size // 4
        # No fewer windows would do.
        assert (len(windows) - 1) * (size - size // 4) + size // 4 < length


def test_a_token_is_taken_from_the_window_that_has_more_of_its_context():
    """From the one in which the nearer of the two inner borders is farther; rounding may cost one token."""
    ids, joined, *_ = make_inputs([Source(divide(framed(FRAMES[0], 100), 42, FRAMES[0]))])
    assert ids.shape == (3, 42)
    assert len(np.intersect1d(ids[0], ids[1])) == 10 + 2
    for index in joined[0][1:-1]:
        row, position = divmod(index, 42)
        for other, beside in np.argwhere(ids == ids[row, position]):
            if other < row:
                assert position >= 41 - beside - 1
            if other > row:
                assert 41 - position >= beside - 1


def test_sources_that_fit_are_read_at_once():
    frame = FRAMES[0]
    texts = [[101, 7, 8, 102], [101, 102]]
    sources = [Source(divide(ids, 4, frame)) for ids in texts]
    assert sources == [Source.whole(ids) for ids in texts] == [Source((Window(ids, 0, len(ids)),)) for ids in texts]
    ids, joined, owners, adapters = make_inputs(sources)
    assert ids.dtype == joined.dtype == owners.dtype == np.int32
    assert adapters == (None, None)
    np.testing.assert_array_equal(ids, [[101, 7, 8, 102], [101, 102, 0, 0]])
    np.testing.assert_array_equal(joined, [[0, 1, 2, 3], [4, 5, -1, -1]])
    assert len(divide([101, 7, 8, 9, 102], 4, frame)) == 2


def test_a_batch_knows_the_adapter_of_each_source():
    sources = [Source.whole([1], truncated=True), Source((Window([2], 0, 1),), adapter="news")]
    assert make_inputs(sources).adapters == (None, "news")
    assert [source.truncated for source in sources] == [True, False]


def test_no_text_has_no_tokens():
    assert not NO_TEXT
    assert NO_TEXT.ids == []
    assert not NO_TEXT.truncated


@given(TEXTS, st.integers(3, 20), st.sampled_from(FRAMES[:2]))
def test_what_is_read_is_the_text_or_its_ends(text, max_length, frame):
    tokenizer = Characters(frame)
    whole = tokenizer.encode_source(text).ids
    for name, read in LONG_TEXT.items():
        source = read(tokenizer, text, max_length)
        assert (source.ids == whole) == (not source.truncated)
        assert source.ids == whole or (len(source) == max_length and name != "window")
        assert all(len(window.ids) <= max_length for window in source.windows)
    if len(whole) > max_length:
        inner, room = body(frame, whole), max_length - frame.size
        assert body(frame, LONG_TEXT["truncate"](tokenizer, text, max_length).ids) == inner[:room]
        kept = body(frame, LONG_TEXT["head_tail"](tokenizer, text, max_length).ids)
        assert kept == inner[: (room + 1) // 2] + inner[len(inner) - room // 2 :]


@pytest.mark.parametrize("read", ["head_tail", "window"])
def test_a_text_that_fits_once_it_is_encoded_apart_from_its_frame_is_read_whole(read):
    class Splitting(Characters):
        """Whose texts have a token more where they touch the frame."""

        def encode_source(self, text, max_length=None, masked=False):
            return super().encode_source(f"_{text}", max_length, masked)

    source = LONG_TEXT[read](Splitting(FRAMES[0]), "一二三四", 6)
    assert (body(FRAMES[0], source.ids), source.truncated) == (list(map(ord, "一二三四")), False)


@given(TEXTS, st.integers(3, 20))
def test_pegasus_reads_half_of_head_and_tail(text, max_length):
    """Half of all ids, [CLS] and [SEP] counted, as before a frame was more general."""
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
    whole = tokenizer.encode(text)
    kept = LONG_TEXT["head_tail"](tokenizer, text, max_length).ids
    if len(whole) > max_length:
        assert kept == whole[: (max_length + 1) // 2] + whole[-(max_length // 2) :]
    else:
        assert kept == whole


def test_windows_end_somewhere():
    room = MOST_TOKENS - 2
    for length in (room - 1, room, room + 1, 2 * room):
        source = LONG_TEXT["window"](Characters(FRAMES[0]), "好" * length, 66)
        assert (len(source), source.truncated) == (min(length, room) + 2, length > room)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_text_of_ten_thousand_characters_is_read_whole_by_every_engine(trained_dir, sample_pairs, num_beams):
    """Among short ones in a batch, and with its subject in the last sentence."""
    filler = "".join(example.content for example in sample_pairs)
    long = (filler * (10_000 // len(filler) + 1))[:10_000] + sample_pairs[3].content
    texts = [sample_pairs[0].content, long, sample_pairs[1].content[:30]]
    options = {"long_text": "window", "num_beams": num_beams, "max_new_tokens": 10}
    titles = []
    for engine in ("keras", "onnx", "reference"):
        title = AutoTitle.load(trained_dir, trained_dir / "best_model.weights", engine)
        titles.append(title.generate_n_best(texts, **options))
        assert title.generate_n_best([long], **options)[0][0].ids == titles[-1][1][0].ids
        short = title.generate_n_best(texts[:1], **options | {"long_text": "truncate"})
        assert short[0][0].ids == titles[-1][0][0].ids
    for found in titles[:2]:
        for hypotheses, references in zip(found, titles[2], strict=True):
            assert hypotheses[0].ids == references[0].ids
            assert hypotheses[0].score == pytest.approx(references[0].score, abs=1e-4)


@given(
    st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=9), min_size=1, max_size=9),
    st.integers(-1, 5),
    st.none() | st.tuples(st.integers(9, 12), st.integers(9, 12)),
)
def test_padding_fills_rows_up_to_the_longest_or_to_a_shape(rows, pad_id, shape):
    batch = pad(rows, pad_id, shape)
    assert batch.dtype == np.int32
    count, width = shape or (len(rows), max(map(len, rows)))
    expected = [row + [pad_id] * (width - len(row)) for row in rows] + [[pad_id] * width] * (count - len(rows))
    assert batch.tolist() == expected
    assert pad(rows).tolist() == pad(rows, 0).tolist()


def slow_budget_batches(lengths, max_tokens):
    """Fill a batch with the longest rows that are left until one more would be over the budget."""
    left = sorted(range(len(lengths)), key=lambda row: (-lengths[row], row))
    batches = []
    while left:
        batch = [left.pop(0)]
        while left and (len(batch) + 1) * lengths[batch[0]] <= max_tokens:
            batch.append(left.pop(0))
        batches.append(batch)
    return batches


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 120))
def test_a_batch_is_as_large_as_its_budget_lets_it_be(lengths, max_tokens):
    batches = [batch.tolist() for batch in budget_batches(lengths, max_tokens)]
    assert batches == slow_budget_batches(lengths, max_tokens)


def test_a_batch_at_the_budget_is_full_and_one_token_less_is_too_little():
    def sizes(lengths, max_tokens):
        return [len(batch) for batch in budget_batches(lengths, max_tokens)]

    assert sizes([10] * 6, 30) == [3, 3]
    assert sizes([10] * 6, 29) == [2, 2, 2]
    assert sizes([10] * 6, 39) == [3, 3]
    assert sizes([10] * 6, 40) == [4, 2]
    assert sizes([31, 30, 15], 30) == [1, 1, 1]
    assert sizes([30, 15, 15], 30) == [1, 2]
    assert sizes([0, 0, 0], 2) == [2, 1]  # a row of no tokens is counted as one
    assert sizes([], 30) == []
