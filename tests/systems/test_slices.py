"""Parts of a test set hold every text once, and are named by what is in them."""

from collections import defaultdict

from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.slices import make_slices

texts = st.lists(
    st.builds(Text, st.text("甲乙1a", min_size=1, max_size=9), st.tuples(st.text("甲乙丙1a", min_size=1, max_size=9))),
    min_size=1,
    max_size=12,
)


@given(texts, st.data())
def test_every_text_is_in_one_slice_of_each_kind(texts, data):
    groups = data.draw(st.lists(st.sampled_from("新旧"), min_size=len(texts), max_size=len(texts)))
    found = defaultdict(list)
    for each in make_slices(texts, groups, "topic"):
        assert each.texts
        found[each.by] += each.texts
    assert set(found) == {"source-length", "title-length", "copy-rate", "numbers", "latin", "topic"}
    assert all(sorted(indices) == list(range(len(texts))) for indices in found.values())


def test_slices_of_known_texts():
    texts = [Text("甲" * length, ("甲" * 2 + "1" * (length > 7),)) for length in range(1, 10)]
    slices = {(each.by, each.value): each.texts for each in make_slices(texts)}
    assert slices["source-length", "1–3"] == [0, 1, 2]
    assert slices["source-length", "7–9"] == [6, 7, 8]
    assert slices["title-length", "2–2"] == list(range(7))
    assert slices["numbers", "yes"] == [7, 8]
    assert slices["copy-rate", "0–67"] == [0, 7, 8]  # one character in common is not a copy
    assert ("latin", "yes") not in slices


def test_english_is_measured_in_words():
    texts = [Text("one two three " * length, ("one two 3" if length > 5 else "four",)) for length in range(1, 10)]
    slices = {(each.by, each.value): each.texts for each in make_slices(texts, language="en")}
    assert slices["source-length", "3–9"] == [0, 1, 2]
    assert slices["title-length", "3–3"] == [5, 6, 7, 8]
    assert slices["copy-rate", "67–67"] == [5, 6, 7, 8]
    assert slices["numbers", "yes"] == [5, 6, 7, 8]
    assert not any(by == "latin" for by, _ in slices)


def test_rare_values_of_a_column_are_one_slice():
    groups = [str(number) for number in range(30)] + ["0"] * 5
    slices = [each for each in make_slices([Text("甲", ("乙",))] * 35, groups, "topic") if each.by == "topic"]
    assert (slices[0].value, len(slices[0].texts)) == ("0", 6)
    assert (slices[-1].value, len(slices[-1].texts)) == ("…", 10)
    assert len(slices) == 21
