"""Near duplicates and leaks: against exact counts, a plain loop, and datasketch's MinHash."""

import random
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5_pegasus import read_examples
from t5_pegasus.data.similarity import BINS, Counts, HeldOut, Spool, key, plain, runs, signature
from t5_pegasus.locations import DATA_DIR

TEXTS = st.text("方法算法研究的一二三四ab", max_size=40)


def grams(text: str, size: int) -> set[str]:
    size = min(size, len(text))
    return {text[start : start + size] for start in range(len(text) - size + 1)} if text else set()


def jaccard(one: str, other: str, size: int = 5) -> float:
    return len(grams(one, size) & grams(other, size)) / max(1, len(grams(one, size) | grams(other, size)))


@pytest.fixture(scope="module")
def contents() -> list[str]:
    return [plain(each.content) for each in read_examples(DATA_DIR / "train.tsv")]


def altered(text: str, changes: int, rng: random.Random) -> str:
    """Return the text with some characters replaced."""
    characters = list(text)
    for place in rng.sample(range(len(text)), changes):
        characters[place] = chr(rng.randrange(0x4E00, 0x9FFF))
    return "".join(characters)


@given(text=st.text(max_size=50))
def test_what_is_compared_is_letters_and_digits_of_one_case_and_width(text):
    assert plain(text) == "".join(each for each in unicodedata.normalize("NFKC", text).casefold() if each.isalnum())
    assert plain(text + "，。 \n!") == plain(text)
    assert plain("ＡＢＣ１２") == "abc12"


@given(text=TEXTS, size=st.sampled_from([5, 8]))
def test_equal_runs_have_equal_hashes_and_others_have_not(text, size):
    """Also runs whose characters differ by little, whose sums may be equal."""
    hashes = runs(text, size)
    assert len(hashes) == len(grams(text, size))
    assert (np.diff(hashes.astype(object)) > 0).all() if len(hashes) else not text
    assert set(hashes) == set().union(*(set(runs(each, size)) for each in grams(text, size)))


@given(one=TEXTS, other=TEXTS)
def test_keys_are_equal_for_equal_texts_only(one, other):
    assert (key(one) == key(other)) == (one == other)
    assert (key(one) == 0) == (not one)


def test_signatures_estimate_the_jaccard_similarity(contents):
    """As well as 128 independent permutations would: the deviation of a share s of n is √(s(1 - s)/n)."""
    rng = random.Random(0)
    errors = []
    for text in contents[:100]:
        for changes in (1, 5, 15):
            other = altered(text, min(changes, len(text)), rng)
            exact = jaccard(text, other)
            errors.append(np.mean(signature(runs(text)) == signature(runs(other))) - exact)
    assert abs(np.mean(errors)) < 0.01
    assert np.std(errors) < 1.2 * (0.25 / BINS) ** 0.5


def test_estimates_are_as_good_as_datasketch(contents):
    minhash = pytest.importorskip("datasketch").MinHash
    rng = random.Random(1)
    ours, theirs = [], []
    for text in contents[:60]:
        other = altered(text, 4, rng)
        exact = jaccard(text, other)
        sketches = []
        for each in (text, other):
            sketches.append(minhash(BINS))
            sketches[-1].update_batch([gram.encode() for gram in grams(each, 5)])
        ours.append(np.mean(signature(runs(text)) == signature(runs(other))) - exact)
        theirs.append(sketches[0].jaccard(sketches[1]) - exact)
    assert np.sqrt(np.mean(np.square(ours))) < 1.3 * np.sqrt(np.mean(np.square(theirs)))


@settings(max_examples=40)
@given(
    values=st.lists(st.tuples(st.integers(0, 6), st.integers(0, 2**64 - 1)), max_size=60),
    limit=st.sampled_from([1, 7, 1000]),
)
def test_rows_with_equal_keys_are_found_in_parts_as_in_one_loop(tmp_path_factory, values, limit):
    spool = Spool(tmp_path_factory.mktemp("spool"), rows_at_a_time=limit)
    for pair in values:
        spool.add(pair, runs("文"))
    for column in (0, 1):
        last: dict[int, int] = {}
        expected = []
        for row, pair in enumerate(values):
            if pair[column] and pair[column] in last:
                expected.append((row, last[pair[column]]))
            last[pair[column]] = row
        found = spool.equal(column)
        assert list(zip(found.rows, found.others, strict=True)) == expected
    spool.close()


def test_near_duplicates_are_those_of_a_comparison_of_all_pairs(contents, tmp_path):
    rng = random.Random(2)
    texts = list(contents[:60])
    for number in range(30):
        texts.append(altered(texts[number], 1 + number % 12, rng))
    rng.shuffle(texts)
    spool = Spool(tmp_path, rows_at_a_time=20)
    for text in texts:
        spool.add((key(text),), runs(text))
    found = spool.similar(0.8)
    spool.close()
    for row, other, share in zip(found.rows, found.others, found.similarity, strict=True):
        assert other < row
        assert abs(jaccard(texts[row], texts[other]) - share) < 0.15
    best = [max((jaccard(text, each) for each in texts[:row]), default=0) for row, text in enumerate(texts)]
    assert {row for row, share in enumerate(best) if share > 0.9} <= set(found.rows.tolist())
    assert not {row for row, share in enumerate(best) if share < 0.65} & set(found.rows.tolist())


@settings(max_examples=40)
@given(rows=st.lists(st.sets(st.integers(1, 9), max_size=5), max_size=30), limit=st.sampled_from([1, 4, 100]))
def test_frequent_keys_are_those_of_a_counter(rows, limit):
    counts = Counts(keys_at_a_time=limit)
    for keys in rows:
        counts.add(keys)
    expected = {each: sum(each in keys for keys in rows) for each in range(1, 10)}
    assert counts.frequent(3) == {each: count for each, count in expected.items() if count >= 3}


# --- leaks ------------------------------------------------------------------------------------------------------------


def held_out_of(pairs, **options) -> HeldOut:
    held_out = HeldOut(**options)
    for title, content in pairs:
        held_out.add(title, content)
    held_out.freeze()
    return held_out


def test_a_leak_is_found_by_pair_text_title_and_part(contents):
    pairs = [(f"第{number}篇的标题", text) for number, text in enumerate(contents[:50])]
    held_out = held_out_of(pairs)
    title, text = pairs[7]
    other = contents[60]
    assert held_out.find(f" {title}！", text + "。") == ("pair", 7, 1.0)
    assert held_out.find("别的标题", text) == ("text", 7, 1.0)
    assert held_out.find(title, other) == ("title", 7, 1.0)
    assert held_out.find("别的标题", other) is None
    assert held_out.find("", "") is None
    # Inside a text ten times as long, and cut to a half.
    for leaked in ("".join(contents[60:70]) + text + "".join(contents[70:75]), text[: len(text) * 3 // 4]):
        kind, number, share = held_out.find("别的标题", leaked)
        assert (kind, number) == ("part", 7)
        assert share > 0.95


@settings(max_examples=40)
@given(st.data())
def test_the_share_is_that_of_the_runs_of_the_shorter_text(data):
    alphabet = st.text("".join(map(chr, range(0x4E00, 0x4E00 + 400))), min_size=20, max_size=40)
    one, before, after = data.draw(alphabet), data.draw(alphabet), data.draw(alphabet)
    start, end = sorted((data.draw(st.integers(0, len(one))), data.draw(st.integers(0, len(one)))))
    other = before + one[start:end] + after
    found = held_out_of([("", one)], overlap=0.1).find("", other)
    shared = len(grams(one, 8) & grams(other, 8))
    shorter = min(len(grams(one, 8)), len(grams(other, 8)))
    share = shared / shorter if shorter >= 8 else 0.0  # of fewer a share says nothing
    assert (0.0 if found is None else found.share) == (pytest.approx(share) if share >= 0.1 else 0.0)


def test_with_little_memory_shares_are_estimated(contents):
    pairs = [("", text) for text in contents]
    size = sum(len(runs(text, 8)) for text in contents)
    held_out = held_out_of(pairs, most_runs=size // 3)
    assert len(held_out._runs) <= size // 3
    assert held_out._scale == 4
    found = 0
    for number, text in enumerate(contents):
        leak = held_out._find_part("".join(contents[:2]) * (number > 1) + text)
        found += leak is not None and (leak.number == number or number > 1)
    assert found == len(contents)
    assert all(held_out._find_part(text[::-1]) is None for text in contents)


def test_a_phrase_of_many_texts_is_no_leak():
    phrase = "本刊欢迎广大读者踊跃订阅并提出宝贵意见和建议"
    pairs = [("", f"{phrase}{chr(0x4E00 + number) * 30}") for number in range(60)]
    assert held_out_of(pairs, overlap=0.3).find("", phrase + "完全不同的另外一篇文章的内容在这里写着") is None
