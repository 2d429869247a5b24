"""Texts over the length: what is read of them, and that windows joined are what they say."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus import AutoTitle, PegasusTokenizer
from t5_pegasus.decoding.inputs import LONG_TEXT, MOST_TOKENS, divide, pad
from t5_pegasus.locations import TINY_MODEL_DIR

CLS, SEP = 101, 102


@pytest.fixture(scope="module")
def tokenizer():
    return PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")


@given(st.lists(st.integers(0, 60), min_size=1, max_size=4), st.integers(3, 30))
def test_joined_windows_hold_every_token_once_and_in_order(lengths, max_length):
    sources = [[CLS, *range(1000, 1000 + length), SEP] for length in lengths]
    ids, joined = divide(sources, max_length)
    assert ids.shape[1] <= max_length
    for source, places in zip(sources, joined, strict=True):
        assert ids.ravel()[places[: len(source)]].tolist() == source
        assert (places[len(source) :] == -1).all()
    for row in ids:
        body = row[row != 0]
        assert (body[0], body[-1]) == (CLS, SEP)


def test_a_token_is_taken_from_the_window_that_shows_more_of_its_context():
    """From the one in which the nearer of the two inner borders is farther; rounding may cost one token."""
    ids, joined = divide([[CLS, *range(1000, 1100), SEP]], 42)
    assert ids.shape == (3, 42)
    assert len(np.intersect1d(ids[0], ids[1])) == 10 + 2
    for place in joined[0][1:-1]:
        row, position = divmod(place, 42)
        for other, beside in np.argwhere(ids == ids[row, position]):
            if other < row:
                assert position >= 41 - beside - 1
            if other > row:
                assert 41 - position >= beside - 1


def test_sources_that_fit_are_left_alone():
    sources = [[CLS, 7, 8, SEP], [CLS, SEP]]
    for max_length in (None, 4):
        ids, joined = divide(sources, max_length)
        np.testing.assert_array_equal(ids, [[CLS, 7, 8, SEP], [CLS, SEP, 0, 0]])
        np.testing.assert_array_equal(joined, [[0, 1, 2, 3], [4, 5, -1, -1]])


@given(st.text("一二三四五六七八九十，。a1 ", max_size=80), st.integers(3, 20))
def test_what_is_read_is_the_text_or_its_ends(text, max_length):
    tokenizer = PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")
    whole = tokenizer.encode(text)
    for name, read in LONG_TEXT.items():
        before = tokenizer.num_truncated
        ids = read(tokenizer, text, max_length)
        assert (ids == whole) == (tokenizer.num_truncated == before)
        assert ids == whole or len(ids) == max_length or name == "window"
    kept = LONG_TEXT["head_tail"](tokenizer, text, max_length)
    if len(whole) > max_length:
        assert kept[: (max_length + 1) // 2] == whole[: (max_length + 1) // 2]
        assert kept[-(max_length // 2) :] == whole[-(max_length // 2) :]


def test_windows_end_somewhere(tokenizer):
    assert len(LONG_TEXT["window"](tokenizer, "好" * 30_000, 66)) == MOST_TOKENS
    assert tokenizer.num_truncated == 1


@pytest.mark.parametrize("num_beams", [1, 3])
def test_a_text_of_ten_thousand_characters_is_read_whole_by_every_engine(trained_dir, sample_pairs, num_beams):
    """Among short ones in a batch, and with its subject in the last sentence."""
    filler = "".join(example.content for example in sample_pairs)
    long = (filler * (10_000 // len(filler) + 1))[:10_000] + sample_pairs[3].content
    texts = [sample_pairs[0].content, long, sample_pairs[1].content[:30]]
    titles = []
    for engine in ("keras", "onnx", "reference"):
        title = AutoTitle.load(TINY_MODEL_DIR, trained_dir / "best_model.weights", engine)
        titles.append(title.generate_n_best(texts, long_text="window", num_beams=num_beams))
        assert title.tokenizer.num_truncated == 0
        assert title.generate_n_best([long], long_text="window", num_beams=num_beams)[0][0].ids == titles[-1][1][0].ids
        short = title.generate_n_best(texts[:1], num_beams=num_beams)
        assert short[0][0].ids == titles[-1][0][0].ids
    for found in titles[:2]:
        for hypotheses, references in zip(found, titles[2], strict=True):
            assert hypotheses[0].ids == references[0].ids
            assert hypotheses[0].score == pytest.approx(references[0].score, abs=1e-4)


@given(st.lists(st.lists(st.integers(1, 2**31 - 1), max_size=9), min_size=1, max_size=9), st.integers(0, 5))
def test_padding_fills_rows_up_to_the_longest(rows, pad_id):
    batch = pad(rows, pad_id)
    assert batch.dtype == np.int32
    assert batch.shape == (len(rows), max(map(len, rows)))
    for line, row in zip(batch.tolist(), rows, strict=True):
        assert line == row + [pad_id] * (batch.shape[1] - len(row))
