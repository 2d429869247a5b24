"""The gap-sentence choices against plain algorithms, which are slow and obviously right."""

import math
import random
import re
import statistics
from collections import Counter
from fractions import Fraction

import pylcs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from t5_pegasus.data.documents import read_documents
from t5_pegasus.data.gap_sentences import (
    ENCODE_FROM,
    MASK,
    STRATEGIES,
    UNITS,
    GapSentenceConfig,
    _encode,
    _unit_counts,
    fill_gaps,
    pseudo_pairs,
    pseudo_summary,
    rouge_gap_sentences,
    text_rng,
)
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.text.sentences import gather_chunks, split_pieces, split_sentences

# Few characters and short sentences, so that equal scores, which the order decides, are common; and few or many
# sentences, since many are encoded.
SENTENCES = st.lists(st.text("甲乙ab", max_size=6), min_size=2, max_size=ENCODE_FROM + 4)


def plain_pseudo_summary(sentences, ratio):
    """Try every sentence at every step, with pylcs."""
    left, taken = list(range(len(sentences))), []

    def join(indices):
        return "".join(sentences[i] for i in sorted(indices))

    while True:
        scores = [pylcs.lcs(join(set(left) - {i}), join([*taken, i])) for i in left]
        taken.append(left.pop(scores.index(max(scores))))
        source, target = join(left), join(taken)
        if len(left) == 1 or not source or len(target) / len(source) > ratio:
            return (target, source) if len(source) < len(target) else (source, target)


def assert_same_pairs(path, every=1):
    count = 0
    for document in list(read_documents(path))[::every]:
        expected = [plain_pseudo_summary(chunk, 0.25) for chunk in gather_chunks(split_pieces(document.text), 768)]
        assert list(pseudo_pairs(document.text)) == expected, document.name
        count += len(expected)
    assert count > 0


@given(SENTENCES, st.floats(0.01, 1))
@example(["", "甲", ""], 0.25)
@example(["甲", "", ""], 0.25)
@example(["甲乙"] * ENCODE_FROM, 0.5)
def test_equal_to_the_plain_algorithm(sentences, ratio):
    assert pseudo_summary(sentences, ratio) == plain_pseudo_summary(sentences, ratio)


def test_equal_to_the_plain_algorithm_beyond_256_different_characters():
    characters = [chr(0x4E00 + i) for i in range(600)] + list("😀🙃")
    sentences = ["".join(characters[i::step]) for step in (7, 5, 3) for i in range(step)]
    assert pseudo_summary(sentences, 0.5) == plain_pseudo_summary(sentences, 0.5)


def test_equal_to_the_plain_algorithm_on_the_sample_articles():
    assert_same_pairs(DATA_DIR / "articles.jsonl")


def test_equal_to_the_plain_algorithm_on_some_lctt_articles(public_data):
    assert_same_pairs(public_data / "lctt" / "dev.jsonl.gz", every=10)


@pytest.mark.slow
def test_equal_to_the_plain_algorithm_on_all_lctt_articles(public_data):
    assert_same_pairs(public_data / "lctt" / "dev.jsonl.gz")


def test_takes_what_the_rest_repeats():
    # The last shares 甲乙丁戊 (4) with the rest, the others 2 each; 4 / 6 is above 0.25.
    assert pseudo_summary(["甲乙丙", "丁戊己", "甲乙丁戊"]) == ("甲乙丙丁戊己", "甲乙丁戊")
    # Equal scores: the first is taken. It is the longer one, so the two are swapped.
    assert pseudo_summary(["甲乙丙丁戊", "甲乙"]) == ("甲乙丙丁戊", "甲乙")


# The strategies of PEGASUS, each by hand and against its definition tried out on every candidate.

# Against the others, in common: 甲乙 with both of the next two (2), 甲丙 2, 乙丁 2, 戊己 0, 甲乙丙丁 4 at most.
BY_HAND = ["甲乙", "甲丙", "乙丁", "戊己", "甲乙丙丁"]


@pytest.mark.parametrize(
    ("strategy", "sentences", "ratio", "gaps"),
    [
        ("lead", BY_HAND, 0.4, [0, 1]),
        ("lead", BY_HAND, 0.3, [0, 1]),  # 1.5 is rounded to the even number
        ("lead", BY_HAND, 0.1, [0]),
        ("lead", BY_HAND, 1, [0, 1, 2, 3, 4]),
        ("rouge", BY_HAND, 0.2, [4]),
        ("rouge", BY_HAND, 0.39, [4]),
        ("rouge", BY_HAND, 0.4, [2, 4]),  # 0, 1 and 2 have 2 in common with the others: the later
        # Alone, the first two have 3 in common with the others; after one of them the other adds nothing, 丁 adds 1.
        ("rouge", ["甲乙丙", "甲乙丙", "丁戊", "丁"], 0.5, [0, 1]),
        ("greedy_rouge", ["甲乙丙", "甲乙丙", "丁戊", "丁"], 0.5, [1, 3]),
        # 甲乙 丙丁 shares both with the rest, but 丙丁 甲乙 is the later run that does.
        ("continuous_rouge", ["甲乙", "丙丁", "甲乙", "戊己", "丙丁"], 0.4, [1, 2]),
        ("continuous_rouge", ["甲", "乙", "丙"], 0.34, [2]),  # nothing in common: the last of equals
        # Stops and white space are not counted, and A is a.
        ("rouge", ["模型训练数据。", "训练模型数据。", "他，她，你，我，也，来，了，", "天， 地， 风，"], 0.25, [1]),
        ("rouge", ["甲Ab", "乙", "丙", "aB丁"], 0.5, [0, 3]),
    ],
)
def test_strategies_by_hand(strategy, sentences, ratio, gaps):
    assert STRATEGIES[strategy].choose(sentences, ratio, random.Random(0)) == gaps


def rouge_1_f1(left, right):
    """Return ROUGE-1 F1 of two lists of sentences as an exact fraction, from its definition."""
    left, right = (Counter(re.findall(r"[^\W_]", "".join(side).lower())) for side in (left, right))
    overlap = sum((left & right).values())
    if not overlap:
        return Fraction(0)
    precision, recall = Fraction(overlap, sum(left.values())), Fraction(overlap, sum(right.values()))
    return 2 * precision * recall / (precision + recall)


def score_of(sentences, chosen):
    return rouge_1_f1(
        [sentences[i] for i in chosen], [sentence for i, sentence in enumerate(sentences) if i not in chosen]
    )


def slow_count(sentences, ratio, whole=math.floor):
    return min(len(sentences), max(1, whole(Fraction(ratio).limit_denominator(1000) * len(sentences))))


def slow_rouge(sentences, ratio):
    ranked = sorted(range(len(sentences)), key=lambda i: (score_of(sentences, [i]), i))
    return sorted(ranked[-slow_count(sentences, ratio) :])


def slow_greedy_rouge(sentences, ratio):
    chosen = []
    for _ in range(slow_count(sentences, ratio)):
        left = [i for i in range(len(sentences)) if i not in chosen]
        chosen.append(max(left, key=lambda i: (score_of(sentences, [*chosen, i]), i)))
    return sorted(chosen)


def slow_continuous_rouge(sentences, ratio):
    n = slow_count(sentences, ratio)
    runs = [list(range(start, start + n)) for start in range(len(sentences) - n + 1)]
    return max(runs, key=lambda run: (score_of(sentences, run), run))


SLOW = {"rouge": slow_rouge, "greedy_rouge": slow_greedy_rouge, "continuous_rouge": slow_continuous_rouge}
RATIOS = st.integers(1, 1000).map(lambda thousandths: thousandths / 1000)


@pytest.mark.parametrize("strategy", SLOW)
@given(sentences=st.lists(st.text("甲乙丙abA，_。 ", max_size=6), min_size=1, max_size=9), ratio=RATIOS)
def test_rouge_strategies_are_their_definitions(strategy, sentences, ratio):
    assert STRATEGIES[strategy].choose(sentences, ratio, random.Random(0)) == SLOW[strategy](sentences, ratio)


@given(st.integers(1, 30), RATIOS, st.integers(0, 9))
def test_the_number_of_gap_sentences(count, ratio, seed):
    sentences = [chr(0x4E00 + i) for i in range(count)]
    for strategy in STRATEGIES.keys() - {"lcs", "dynamic_rouge"}:
        n = slow_count(sentences, ratio, round if strategy in ("random", "lead") else math.floor)
        assert len(STRATEGIES[strategy].choose(sentences, ratio, random.Random(seed))) == n


def test_random_and_lead_take_what_uer_takes():
    for count in range(1, 200):
        for strategy in ("random", "lead"):
            taken = STRATEGIES[strategy].choose(["句"] * count, 0.3, random.Random(0))
            assert len(taken) == max(1, int(round(count * 0.3, 0)))


@pytest.mark.parametrize("count", [1, 4])
def test_random_picks_every_sentence_alike_the_last_one_too(count):
    drawn = Counter(
        i for seed in range(4000) for i in STRATEGIES["random"].choose(["句"] * count, 0.25, random.Random(seed))
    )
    assert all(abs(drawn[i] - 4000 / count) < 150 for i in range(count)), drawn


def test_hybrid_is_random_lead_or_rouge_as_often():
    """The first two and the last two may come by two ways, each other pair by `random` alone."""
    assert slow_rouge(BY_HAND, 0.59) == [2, 4], "rounded down, as all of hybrid"
    drawn = Counter(tuple(STRATEGIES["hybrid"].choose(BY_HAND, 0.59, random.Random(seed))) for seed in range(6000))
    pairs = {(i, j) for i in range(5) for j in range(i + 1, 5)}
    assert drawn.keys() == pairs
    for pair in pairs:
        expected = 1 / 3 * 1 / 10 + (1 / 3 if pair in ((0, 1), (2, 4)) else 0)
        assert abs(drawn[pair] / 6000 - expected) < 0.025, (pair, drawn)


def test_dynamic_rouge_draws_its_ratio_alike_from_a_third_on():
    """pegasus_large: n = floor(N * ratio * u), at least 1, with u uniform from 0.33 to 1."""
    count, ratio = 10, 0.9
    sentences = [chr(0x4E00 + i) * (i + 1) + "甲" for i in range(count)]
    drawn = Counter(
        len(STRATEGIES["dynamic_rouge"].choose(sentences, ratio, random.Random(seed))) for seed in range(6000)
    )
    low, high = 0.33 * count * ratio, count * ratio
    for n in range(count + 1):
        share = max(0, min(n + 1, high) - max(n, low)) / (high - low)
        assert abs(drawn[n] / 6000 - share) < 0.025, (n, drawn)


def test_dynamic_rouge_takes_the_greatest_scores_but_for_noise():
    # Each is half of its pair's text, so that scores are far apart: whatever the noise, the order is that of `rouge`.
    sentences = [chr(0x4E00 + i) * 3**i for i in range(5) for _ in range(2)]
    for seed in range(50):
        gaps = STRATEGIES["dynamic_rouge"].choose(sentences, 0.9, random.Random(seed))
        chosen = {sentences[i] for i in gaps}
        assert chosen == {sentences[i] for i in slow_rouge(sentences, len(gaps) / 10)}


@pytest.mark.parametrize("less", [96, 98, 100])
def test_the_noise_of_dynamic_rouge_is_normal(less):
    """Scores are multiplied by 1 + 0.2 * N(0, 0.2): how often the smaller of two comes first follows from that."""
    # The first two have `less` and 100 in common with the others, each of which is one of their characters.
    sentences = ["甲" * less, "乙" * 100, *("甲" * less), *("乙" * 100)]
    first = Counter()
    for seed in range(4000):
        first.update(STRATEGIES["dynamic_rouge"].choose(sentences, 0.001, random.Random(seed)))
    share = statistics.NormalDist().cdf((less - 100) / (0.2 * 0.2 * math.hypot(less, 100)))
    assert first.keys() == {0, 1}
    assert abs(first[0] / 4000 - share) < 0.025, (first, share)


def test_words_are_jieba_s():
    jieba = pytest.importorskip("jieba")
    for sentence in ("他来到了网易杭研大厦，使用Python 3.11写程序。", "", "我们在北京大学学习自然语言处理"):
        words = list(jieba.cut(sentence, HMM=False))
        (coded,) = UNITS["word"]([sentence])
        assert len(coded) == len(words)
        assert [coded.index(code) for code in coded] == [words.index(word) for word in words]


def test_words_decide_where_characters_would_choose_otherwise():
    # The first has four characters in common with the others, the last two; of words each has 学习 alone: the later.
    sentences = ["北京人学习", "京剧北城", "我们学习"]
    chosen = {}
    for unit, to_units in UNITS.items():
        chosen[unit] = STRATEGIES["rouge"].choose(to_units(sentences), 0.3, random.Random(0))
    assert chosen == {"char": [0], "word": [2]}


@pytest.mark.parametrize("strategy", STRATEGIES)
@given(SENTENCES, st.floats(0.01, 1))
def test_source_and_target_hold_every_sentence_once_and_in_order(strategy, sentences, ratio):
    gaps = STRATEGIES[strategy].choose(sentences, ratio, text_rng("".join(sentences)))
    assert gaps == sorted(set(gaps))
    assert set(gaps) <= set(range(len(sentences)))
    taken = "".join(sentences[i] for i in gaps)
    rest = "".join(sentence for i, sentence in enumerate(sentences) if i not in gaps)
    assert pseudo_summary(sentences, ratio, strategy) == (rest, taken)
    assert strategy != "lcs" or len(rest) >= len(taken)


# What stands in the place of gap sentences


def test_masks_by_hand():
    sentences, gaps = ["一", "二", "三", "四", "五"], [0, 1, 3]
    assert fill_gaps(sentences, gaps) == ["三", "五"]
    assert fill_gaps(sentences, gaps, (1, 0, 0, 0)) == [MASK, MASK, "三", MASK, "五"]
    assert fill_gaps(sentences, gaps, (1, 0, 0, 0), "joined") == [MASK, "三", MASK, "五"]
    assert fill_gaps(sentences, gaps, (0, 0, 1, 0)) == sentences
    swapped = fill_gaps(sentences, gaps, (0, 1, 0, 0), rng=random.Random(1))
    assert [swapped[2], swapped[4]] == ["三", "五"]
    assert set(swapped) <= set(sentences)


def test_gaps_are_filled_at_the_rates_given():
    sentences = [str(i) for i in range(10_000)]
    drawn = Counter()
    filled = fill_gaps(sentences, range(10_000), (0.4, 0.3, 0.2, 0.1), rng=random.Random(5))
    drawn["mask"] = filled.count(MASK)
    drawn["removed"] = 10_000 - len(filled)
    for kind, rate in (("mask", 0.4), ("removed", 0.1)):
        assert abs(drawn[kind] / 10_000 - rate) < 0.02
    # Ten thousand thirds do not quite make 1: nothing falls through, and what has no share is never drawn.
    assert len(fill_gaps(sentences, range(10_000), (1 / 3, 1 / 3, 1 / 3, 0), rng=random.Random(5))) == 10_000


def test_pairs_of_a_document_with_masks():
    text = "第一句说模型。第二句说数据。第三句说模型和数据。第四句。"
    config = GapSentenceConfig("greedy_rouge", 0.5, sentence_split="sentences", mask_rates="1,0,0,0")
    first, second, third, fourth = split_sentences(text)
    gaps = STRATEGIES["greedy_rouge"].choose([first, second, third, fourth], 0.5, random.Random(0))
    ((source, target),) = pseudo_pairs(text, config)
    assert target == "".join([first, second, third, fourth][i] for i in gaps)
    assert source == "".join(MASK if i in gaps else s for i, s in enumerate([first, second, third, fourth]))


def test_a_mask_in_the_text_is_no_mask():
    text = "他写道[MASK]。又写[MASK]一遍。再写一遍。"
    for rates, mask in (("1,0,0,0", MASK), ("0,0,0,1", "")):
        config = GapSentenceConfig("lead", 0.3, sentence_split="sentences", mask_rates=rates)
        ((source, target),) = pseudo_pairs(text, config)
        assert target == "他写道[MASK]。"
        assert source == f"{mask}又写[mask]一遍。再写一遍。"


def test_what_gives_no_pair_is_counted():
    text = "一。二。三。四。五。六。七。八。"
    for config, expected in (
        (GapSentenceConfig("lead", 1, sentence_split="sentences"), {"short": 0, "tail": 0, "blank": 1}),
        (GapSentenceConfig("lead", 0.3, sentence_split="sentences", max_length=4), {"short": 0, "tail": 2}),
        (
            GapSentenceConfig("lead", 1, sentence_split="sentences", max_length=4),
            {"short": 0, "tail": 2, "blank": 2},
        ),
        (GapSentenceConfig(), {"short": 1, "tail": 0}),  # one piece
    ):
        counts = Counter()
        pairs = list(pseudo_pairs(text, config, counts))
        assert dict(counts) == expected
        taken = sum(len(split_sentences(source + target)) for source, target in pairs)
        assert taken == (8 - counts["tail"] if pairs else 0)


def test_draws_depend_on_the_text_and_the_seed_alone():
    text = "".join(f"第{i}句说的是{i * i}。" for i in range(60))
    config = GapSentenceConfig("random", 0.3, sentence_split="sentences", mask_rates="0.5,0.2,0.2,0.1")
    pairs = list(pseudo_pairs(text, config))
    random.seed(99)
    assert list(pseudo_pairs("另一篇。" * 9, config)) != pairs
    assert list(pseudo_pairs(text, config)) == pairs
    others = GapSentenceConfig("random", 0.3, sentence_split="sentences", mask_rates="0.5,0.2,0.2,0.1", seed=1)
    assert list(pseudo_pairs(text, others)) != pairs


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_no_pair_has_a_blank_side(strategy):
    config = GapSentenceConfig(strategy, 1.0, sentence_split="sentences")
    for source, target in pseudo_pairs("一。二。三。\n\n \n", config):
        assert source.strip()
        assert target.strip()


def test_a_short_document_has_no_pair():
    assert list(pseudo_pairs("")) == list(pseudo_pairs(" \n ")) == list(pseudo_pairs("只有一句。")) == []


def test_errors_name_the_rule_and_the_value():
    for sentences in ([], ["甲"]):
        with pytest.raises(OptionError, match=f"at least 2 sentences, got {len(sentences)}"):
            pseudo_summary(sentences)
    with pytest.raises(OptionError, match=r"one of lcs, random, .*, got best"):
        pseudo_summary(["甲", "乙"], strategy="best")
    for ratio in (0, -1, 1.5, float("nan")):
        with pytest.raises(OptionError, match=f"^gap_sentence_ratio must be above 0 and at most 1, got {ratio}$"):
            GapSentenceConfig(gap_sentence_ratio=ratio)
    for rates in ("1", "1,0,0", "1,1,0,0", "a,0,0,1", "-1,0,1,1", "nan,0,0,1", ""):
        with pytest.raises(OptionError, match=f"mask_rates must be 4 numbers that make 1 .*, got {rates}"):
            GapSentenceConfig(mask_rates=rates)
    for name, value in (("max_length", 0), ("seed", -1), ("gap_sentence_unit", "byte"), ("mask_span", "all")):
        with pytest.raises(OptionError, match=f"{name} must be .*, got {value}"):
            GapSentenceConfig(**{name: value})
    for rule, options in (
        ("mask_rates with masks", {"mask_span": "joined", "mask_rates": "0,1,0,0"}),
        ("strategies that count", {"gap_sentence_unit": "word", "gap_sentence_strategy": "lead"}),
        (
            "strategies and mask_rates that draw",
            {"seed": 1, "gap_sentence_strategy": "rouge", "mask_rates": "1,0,0,0"},
        ),
    ):
        name, value = next(iter(options.items()))
        with pytest.raises(OptionError, match=f"^{name} is only for {rule}, got {value}$"):
            GapSentenceConfig(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"mask_span": "joined", "mask_rates": "0.5,0.5,0,0"},
        {"gap_sentence_unit": "word"},
        {"seed": 1, "gap_sentence_strategy": "random"},
        {"seed": 1, "mask_rates": "0.5,0,0,0.5"},  # which of the two is drawn
        {"seed": 1, "mask_rates": "0,1,0,0"},  # which sentence is drawn
        {"max_length": 1},
        {"gap_sentence_ratio": 1},
    ],
    ids=str,
)
def test_options_with_an_effect_are_taken(options):
    config = GapSentenceConfig(**options)
    assert {name: getattr(config, name) for name in options} == options


def test_a_share_is_rounded_as_if_it_were_exact():
    """In floating point, 45 * 0.7 is a little below 31.5, and 75 * 0.14 a little above 10.5."""
    for count, ratio, expected in ((45, 0.7, 32), (75, 0.14, 10)):
        assert len(STRATEGIES["lead"].choose(["句"] * count, ratio, random.Random(0))) == expected


def test_a_chunk_has_one_and_a_half_characters_a_token():
    config = GapSentenceConfig("lead", 0.3, sentence_split="sentences", max_length=40)
    pairs = list(pseudo_pairs("这是一句九个字的话。" * 24, config))
    assert [len(source + target) for source, target in pairs] == [60] * 4


def test_what_replaces_a_gap_depends_on_the_seed():
    text = "".join(f"第{i}句说的是{i * i}。" for i in range(60))
    options = {"sentence_split": "sentences", "mask_rates": "0.5,0,0,0.5"}
    found = {tuple(pseudo_pairs(text, GapSentenceConfig("lead", 0.5, seed=seed, **options))) for seed in range(4)}
    assert len(found) > 1  # not 4: nothing stands between two masks


def test_the_numbers_of_a_text_are_always_the_same():
    """Pairs are made again from the same text and seed, on other machines and by later versions."""
    assert text_rng("文\ud800").getrandbits(64) == 9268717844749177286
    assert text_rng("文\ud800", 1).getrandbits(64) == 3776327334620885927
    assert text_rng("").getrandbits(64) == 1239359750017055880
    sentences, rates = list("甲乙丙丁戊己庚辛"), (0.5, 0, 0.5, 0)
    filled = fill_gaps(sentences, range(8), rates)
    assert filled == fill_gaps(sentences, range(8), rates, rng=random.Random(0))
    assert filled != fill_gaps(sentences, range(8), rates, rng=random.Random(1))


def test_characters_are_numbered_apart_however_many_there_are():
    for count, kind in ((256, bytes), (257, str), (56_000, str)):  # beyond 55,295 are the halves of pairs
        sentences = [chr(0x10000 + index) for index in range(count)]
        codes = _encode(sentences * 2)
        assert codes[:count] == codes[count:]
        assert len(set(codes)) == count
        assert {type(code) for code in codes} == {kind}


def test_half_a_surrogate_pair_is_a_character():
    assert _encode(["\ud800a", "\ud800"]) == [b"\0", b"\0"]


def test_letters_are_counted_in_lower_case():
    assert _unit_counts(["ıi"]).tolist() == [[1, 1]]  # the same in capitals
    assert _unit_counts(["A，a"]).tolist() == [[2]]


def test_each_word_is_a_character_a_letter_if_it_has_one():
    assert UNITS["word"](["模型，算法，模型"]) == ["\U00020000\U000f0001\U00020002\U000f0001\U00020000"]
    assert UNITS["word"](["ı", "i", "I"]) == ["\U00020000", "\U00020001", "\U00020001"]


def test_noise_multiplies_a_score_by_one_and_a_share_of_what_is_drawn():
    class Drawn(random.Random):
        """What is given, in place of random numbers."""

        def __init__(self, *numbers):
            self.numbers = list(numbers)

        def gauss(self, mu=0.0, sigma=1.0):
            assert (mu, sigma) == (0, 0.2)
            return self.numbers.pop(0)

    sentences = ["甲乙", "甲乙", "丙"]
    for drawn, expected in (((1, -1, 0), [0]), ((-1, 1, 0), [1]), ((0, 0, 0), [1])):
        assert rouge_gap_sentences(sentences, 0.3, Drawn(*drawn), 0.2) == expected
