"""Choose gap sentences: the part of a text that a model learns to write from the rest. Pure functions of text.

The official T5-PEGASUS recipe is the default: pieces of about 32 characters (`sentences.split_pieces`), chunks of at
least 3 pieces and 1.5 characters a token, and in each the pieces that have most in common with what is left, removed
(`lcs_gap_sentences`). The other strategies, and masks in place of gap sentences, are those of PEGASUS (Zhang et al.
2020, https://arxiv.org/abs/1912.08777; google-research/pegasus, pegasus/ops/sentence_selection.cc) and UER-py
(GsgDataset), on Chinese characters or words. What is drawn at random is drawn from the text itself: the same in any
order, on any machine.
"""

import dataclasses
import functools
import hashlib
import math
import random
import reprlib
from bisect import bisect
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
from rapidfuzz.distance import LCSseq

from ..config import (
    MOST_SEED,
    check_choices,
    option,
    require,
    require_at_least,
    require_between,
    require_only_with,
)
from ..errors import OptionError
from ..text.segmentation import load_cut
from ..text.sentences import SPLITTERS, gather_chunks
from ..text.tokenizer import MASK

CHARS_PER_TOKEN = 1.5
# From this many sentences on, `_encode` saves more time than it takes (benchmarks/gap_sentences.py).
ENCODE_FROM = 8
# PEGASUS's (pegasus_large: parser_dynamic_mask_min_ratio and parser_rouge_noise_ratio).
DYNAMIC_MIN_RATIO = 0.33
ROUGE_NOISE = 0.2


def lcs_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random) -> list[int]:
    """Return the indices, ascending, of the gap sentences of the official greedy algorithm.

    Again and again it takes the sentence that makes the longest common subsequence of rest and taken longest (the
    first of equals), until len(taken) / len(rest) > `ratio` or one sentence is left. If those taken come out longer
    than the rest, the rest is the gap.
    """
    codes: list[Any] = _encode(sentences) if len(sentences) >= ENCODE_FROM else list(sentences)
    nothing = codes[0][:0]
    left, taken = list(range(len(sentences))), list[int]()
    left_chars, taken_chars = sum(map(len, sentences)), 0
    # LCS(rest - s, taken + s) <= LCS(rest, taken) + LCS(rest - s, s). The first term is the step before's best score,
    # the second only falls as the rest shrinks: its value in the first step, or else the length of s, bounds it.
    bounds = [len(code) for code in codes]
    common = 0
    while True:
        rest = nothing.join([codes[i] for i in left])
        starts = dict(zip(left, accumulate([len(codes[i]) for i in left], initial=0), strict=False))
        best, index = -1, 0
        # Greatest bound first, in order of index among equals, so that none after a break can win or draw first.
        for i in sorted(left, key=bounds.__getitem__, reverse=True):
            bound = common + bounds[i]
            if bound < best or (bound == best and i > index):
                break
            before = bisect(taken, i)
            with_it = nothing.join([codes[j] for j in (*taken[:before], i, *taken[before:])])
            score = LCSseq.similarity(rest[: starts[i]] + rest[starts[i] + len(codes[i]) :], with_it)
            if not taken:
                bounds[i] = score
            if score > best or (score == best and i < index):
                best, index = score, i
        common = best
        left.remove(index)
        taken.insert(bisect(taken, index), index)
        left_chars -= len(sentences[index])
        taken_chars += len(sentences[index])
        if len(left) == 1 or not left_chars or taken_chars / left_chars > ratio:
            return left if left_chars < taken_chars and left else taken


def gap_count(sentences: int, ratio: float) -> int:
    """Return how many of so many sentences become gaps: a share of `ratio`, rounded down, at least one (PEGASUS)."""
    return min(sentences, max(1, math.floor(sentences * ratio + 1e-9)))


def rounded_gap_count(sentences: int, ratio: float) -> int:
    """Return the same share rounded, halves to the even number, at least one (UER-py)."""
    return max(1, round(round(sentences * ratio, 9)))


def random_gap_sentences(
    sentences: Sequence[str], ratio: float, rng: random.Random, count: Callable[[int, float], int] = rounded_gap_count
) -> list[int]:
    """Return as many sentences as `count` says, each as likely as any other, the last one too (in UER-py it is not)."""
    return sorted(rng.sample(range(len(sentences)), count(len(sentences), ratio)))


def lead_gap_sentences(
    sentences: Sequence[str], ratio: float, rng: random.Random, count: Callable[[int, float], int] = rounded_gap_count
) -> list[int]:
    """Return the first sentences, as many as `count` says."""
    return list(range(count(len(sentences), ratio)))


def rouge_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random, noise: float = 0.0) -> list[int]:
    """Return the n sentences of greatest ROUGE-1 F1 against all others ("Ind-Orig"), the later of equals.

    n as `gap_count` says. With `noise`, a score is multiplied by 1 + noise * a number drawn from N(0, noise): so does
    sentence_selection.cc, where the paper speaks of uniform noise.
    """
    counts = _unit_counts(sentences)
    scores = _overlap(counts, counts.sum(axis=0) - counts).tolist()
    if noise:
        scores = [score * (1 + noise * rng.gauss(0, noise)) for score in scores]
    ranked = sorted(range(len(sentences)), key=lambda i: (scores[i], i), reverse=True)
    return sorted(ranked[: gap_count(len(sentences), ratio)])


def greedy_rouge_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random) -> list[int]:
    """Return n sentences, each taken to make ROUGE-1 F1 of taken and rest greatest ("Seq-Orig"); later of equals."""
    counts = _unit_counts(sentences)
    taken, rest = np.zeros_like(counts[0]), counts.sum(axis=0)
    left, chosen = list(range(len(sentences))), list[int]()
    for _ in range(gap_count(len(sentences), ratio)):
        scores = _overlap(taken + counts[left], rest - counts[left]).tolist()
        index = left.pop(max(range(len(left)), key=lambda index: (scores[index], index)))
        chosen.append(index)
        taken, rest = taken + counts[index], rest - counts[index]
    return sorted(chosen)


def continuous_rouge_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random) -> list[int]:
    """Return the run of n neighbouring sentences of greatest ROUGE-1 F1 against all others, the later of equals."""
    counts, n = _unit_counts(sentences), gap_count(len(sentences), ratio)
    sums = np.concatenate([np.zeros_like(counts[:1]), counts.cumsum(axis=0)])
    runs = sums[n:] - sums[:-n]
    scores = _overlap(runs, sums[-1] - runs).tolist()
    start = max(range(len(runs)), key=lambda index: (scores[index], index))
    return list(range(start, start + n))


def dynamic_rouge_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random) -> list[int]:
    """Return `rouge` with a ratio drawn from 0.33 of `ratio` up to it, and a noise of 0.2."""
    ratio *= rng.uniform(DYNAMIC_MIN_RATIO, 1)
    return rouge_gap_sentences(sentences, ratio, rng, ROUGE_NOISE)


def hybrid_gap_sentences(sentences: Sequence[str], ratio: float, rng: random.Random) -> list[int]:
    """Return what PEGASUS's `random`, `lead` or `rouge` gives, one of the three drawn for each text."""
    kind = rng.randrange(3)
    if kind == 2:
        return rouge_gap_sentences(sentences, ratio, rng)
    return (random_gap_sentences, lead_gap_sentences)[kind](sentences, ratio, rng, gap_count)


class Strategy(NamedTuple):
    """A way to choose gap sentences.

    choose: the sentences of a chunk (at least 1), the ratio and a source of random numbers to the indices of the gap
        sentences, ascending.
    is_drawn: whether it uses the random numbers.
    compares: whether it looks into the sentences, whose unit then matters.
    """

    choose: Callable[[Sequence[str], float, random.Random], list[int]]
    is_drawn: bool = False
    compares: bool = True


STRATEGIES = {
    "lcs": Strategy(lcs_gap_sentences),
    "random": Strategy(random_gap_sentences, is_drawn=True, compares=False),
    "lead": Strategy(lead_gap_sentences, compares=False),
    "rouge": Strategy(rouge_gap_sentences),
    "greedy_rouge": Strategy(greedy_rouge_gap_sentences),
    "continuous_rouge": Strategy(continuous_rouge_gap_sentences),
    "dynamic_rouge": Strategy(dynamic_rouge_gap_sentences, is_drawn=True),
    "hybrid": Strategy(hybrid_gap_sentences, is_drawn=True),
}


def _words(sentences: Sequence[str]) -> list[str]:
    """Return the sentences with each of jieba's words as one character, so that what counts characters counts words.

    The character is a letter if the word has a letter or number, so that ROUGE counts it; else it is of private use.
    Case makes no difference.
    """
    cut = _word_cut()
    codes: dict[str, str] = {}

    def code(word: str) -> str:
        first = 0x20000 if any(map(str.isalnum, word)) else 0xF0000
        return codes.setdefault(word, chr(first + len(codes)))

    return ["".join([code(word) for word in cut(sentence.lower())]) for sentence in sentences]


@functools.cache
def _word_cut() -> Callable[[str], Any]:
    return load_cut()


# A row a unit that strategies count and compare: the sentences to strings of as many characters as they have units.
UNITS: dict[str, Callable[[Sequence[str]], Sequence[str]]] = {"char": lambda sentences: sentences, "word": _words}


class Filler(NamedTuple):
    """What a gap sentence is replaced by.

    text: the sentence, all sentences and a source of random numbers to what replaces it; None for nothing.
    is_drawn: whether it uses the random numbers.
    """

    text: Callable[[str, Sequence[str], random.Random], str | None]
    is_drawn: bool = False


# In the order of `mask_rates`, which is that of PEGASUS's `mask_sentence_options_prob`.
FILLERS = {
    "mask": Filler(lambda sentence, sentences, rng: MASK),
    "random": Filler(lambda sentence, sentences, rng: rng.choice(sentences), is_drawn=True),
    "intact": Filler(lambda sentence, sentences, rng: sentence),
    "remove": Filler(lambda sentence, sentences, rng: None),
}
# Each gap sentence is removed, as in the official recipe.
_REMOVE = tuple(float(name == "remove") for name in FILLERS)

# A row a way to mask neighbours: whether a [MASK] follows what is before it in the source.
MASK_SPANS: dict[str, Callable[[Sequence[str]], bool]] = {
    "sentence": lambda before: True,
    "joined": lambda before: not before or before[-1] is not MASK,
}


@dataclasses.dataclass(frozen=True)
class GapSentenceConfig:
    """How a document is cut, which sentences of it are gaps, and what replaces them."""

    gap_sentence_strategy: str = option("lcs", "how gap sentences are chosen", choices=STRATEGIES)
    gap_sentence_ratio: float = option(
        0.25, "lcs: sentences are taken until target / source, in units, is above this; others: share of the sentences"
    )
    gap_sentence_unit: str = option("char", "what strategies count and compare", choices=UNITS)
    sentence_split: str = option(
        "pieces", "pieces of about 32 characters, as T5-PEGASUS, or sentences", choices=SPLITTERS
    )
    mask_rates: str = option(
        ",".join(f"{rate:g}" for rate in _REMOVE),
        f"shares of gap sentences for {', '.join(FILLERS)}: [MASK], any sentence, the sentence itself or nothing",
    )
    mask_span: str = option(
        "sentence", "a [MASK] for each gap sentence, or neighbours joined in one", choices=MASK_SPANS
    )
    max_length: int = option(512, "tokens of a text for the model, taken as 1.5 characters each")
    seed: int = option(0, "changes what is drawn at random: the same pairs for a seed, whatever the runner and workers")

    def __post_init__(self) -> None:
        """Raise OptionError for a value that no pair can be made with."""
        ratio = self.gap_sentence_ratio
        require(0 < ratio <= 1, "gap_sentence_ratio must be above 0 and at most 1", ratio)
        require_at_least(self, 1, "max_length")
        require_between(self, 0, MOST_SEED, "seed")
        check_choices(self)
        strategy = STRATEGIES[self.gap_sentence_strategy]
        require_only_with(self, self.masks, "mask_rates with masks", "mask_span")
        require_only_with(self, strategy.compares, "strategies that count", "gap_sentence_unit")
        rates = dict(zip(FILLERS, self.rates, strict=True))
        fills_at_random = max(self.rates) < 1 or any(rates[name] for name, filler in FILLERS.items() if filler.is_drawn)
        require_only_with(self, strategy.is_drawn or fills_at_random, "strategies and mask_rates that draw", "seed")

    @property
    def masks(self) -> bool:
        """Return whether a gap sentence may become a [MASK]."""
        return self.rates[list(FILLERS).index("mask")] > 0

    @functools.cached_property
    def rates(self) -> tuple[float, ...]:
        """Return the shares in `mask_rates`, a row of FILLERS each; raises OptionError unless they make 1."""
        try:
            rates = tuple(map(float, self.mask_rates.split(",")))
        except ValueError:
            rates = ()
        is_right = len(rates) == len(FILLERS) and all(0 <= rate <= 1 for rate in rates) and abs(sum(rates) - 1) <= 1e-6
        rule = f"mask_rates must be {len(FILLERS)} numbers that make 1 ({', '.join(FILLERS)}), such as 0.9,0,0.1,0"
        require(is_right, rule, self.mask_rates)
        return rates


def pseudo_summary(sentences: Sequence[str], ratio: float = 0.25, strategy: str = "lcs") -> tuple[str, str]:
    """Return (source, target): the sentences that are left and the gap sentences, each joined in their order.

    By `lcs`, the target is never the longer one. Nothing marks the gaps. Raises OptionError for fewer than 2 sentences
    and for an unknown strategy.
    """
    if strategy not in STRATEGIES:
        raise OptionError(f"strategy must be one of {', '.join(STRATEGIES)}, got {strategy}")
    if isinstance(sentences, str):
        raise OptionError(f"sentences must be a list of texts, got {reprlib.repr(sentences)}")
    if len(sentences) < 2:
        raise OptionError(f"a pseudo-summary needs at least 2 sentences, got {len(sentences)}")
    gaps = STRATEGIES[strategy].choose(sentences, ratio, text_rng("".join(sentences)))
    return "".join(fill_gaps(sentences, gaps)), "".join([sentences[i] for i in gaps])


def pseudo_pairs(
    text: str, config: GapSentenceConfig | None = None, counts: Counter[str] | None = None
) -> Iterator[tuple[str, str]]:
    """Yield the (source, target) of every chunk of a document, in order; none if it has fewer than 3 pieces.

    A chunk holds 1.5 characters for each token of `max_length`; cutting both to tokens is left to training. A chunk
    whose source or target would be blank gives no pair. A [MASK] in the text itself is written in lower case in the
    source, which changes no token, so that each [MASK] in a source is a mask. `counts` takes what is dropped: documents
    too `short`, pieces at the `tail` that make no chunk, chunks with a `blank` side.
    """
    config, text = config or GapSentenceConfig(), text.strip()
    counts = Counter() if counts is None else counts
    rng = text_rng(text, config.seed)
    pieces = SPLITTERS[config.sentence_split](text)
    chunks = list(gather_chunks(pieces, config.max_length * CHARS_PER_TOKEN))
    counts.update(short=int(not chunks), tail=len(pieces) - sum(map(len, chunks)) if chunks else 0)
    for chunk in chunks:
        units = UNITS[config.gap_sentence_unit](chunk)
        gaps = STRATEGIES[config.gap_sentence_strategy].choose(units, config.gap_sentence_ratio, rng)
        unmasked = [sentence.replace(MASK, MASK.lower()) for sentence in chunk]
        source = "".join(fill_gaps(unmasked, gaps, config.rates, config.mask_span, rng))
        target = "".join([chunk[i] for i in gaps])
        if source and target and not source.isspace() and not target.isspace():
            yield source, target
        else:
            counts["blank"] += 1


def fill_gaps(
    sentences: Sequence[str],
    gaps: Sequence[int],
    rates: Sequence[float] = _REMOVE,
    span: str = "sentence",
    rng: random.Random | None = None,
) -> list[str]:
    """Return the sentences of the source: those that are no gaps, and what replaces each gap.

    Which row of FILLERS that is, is drawn by `rates`, their shares in order. `span` is a row of MASK_SPANS.
    """
    rng = rng or random.Random(0)  # noqa: S311  a draw, no secret
    limits, last = list(accumulate(rates)), max(index for index, rate in enumerate(rates) if rate)
    is_gap, fillers = set(gaps), list(FILLERS.values())
    filled = list[str]()
    for i, sentence in enumerate(sentences):
        if i not in is_gap:
            filled.append(sentence)
            continue
        # Rounding may leave the last limit below 1: what is drawn beyond it is the last that has a share.
        text = fillers[min(bisect(limits, rng.random()), last)].text(sentence, sentences, rng)
        if text is not None and (text is not MASK or MASK_SPANS[span](filled)):
            filled.append(text)
    return filled


def text_rng(text: str, seed: int = 0) -> random.Random:
    """Return the random numbers of a text: the same wherever and whenever it is processed."""
    key = seed.to_bytes(8, "little")
    digest = hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8, key=key).digest()
    return random.Random(int.from_bytes(digest, "little"))  # noqa: S311  a draw, no secret


def _overlap(left: np.ndarray[Any, Any], right: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return int [sentences]: the units that two sides have in common, each as often as the side that has it less.

    ROUGE-1 F1 is 2 * overlap / (units of both sides). If the sides are a part of a text and all the rest of it, the sum
    is the same for every part: the overlap alone ranks them, in whole numbers.
    """
    overlap: np.ndarray[Any, Any] = np.minimum(left, right).sum(axis=1)
    return overlap


def _unit_counts(sentences: Sequence[str]) -> np.ndarray[Any, Any]:
    """Return int [sentences, distinct units]: how often each sentence has each letter or number, in lower case.

    Nothing else is counted, as in rouge.cc (PrecomputeSentenceData).
    """
    sentences = ["".join(filter(str.isalnum, sentence.lower())) for sentence in sentences]
    units, codes = np.unique(_code_points(sentences), return_inverse=True)
    rows = np.repeat(np.arange(len(sentences)), [len(sentence) for sentence in sentences])
    shape = (len(sentences), max(1, len(units)))
    return np.bincount(rows * shape[1] + codes, minlength=shape[0] * shape[1]).reshape(shape)


def _code_points(sentences: Sequence[str]) -> np.ndarray[Any, np.dtype[np.uint32]]:
    """Return uint32 [characters of all sentences]."""
    return np.frombuffer("".join(sentences).encode("utf-32-le", "surrogatepass"), np.uint32)


def _encode(sentences: Sequence[str]) -> list[Any]:
    """Return strings or bytes with the same common subsequences between any two disjoint sets, which are found faster.

    A character that occurs once has no match and goes; the others are numbered from 0, since rapidfuzz looks up bytes
    in a table and other characters in a hash map.
    """
    points = _code_points(sentences)
    order = points.argsort()
    ordered = points[order]
    differs = np.ones(len(points) + 1, bool)  # from the one before; the ends differ from what is beyond them
    np.not_equal(ordered[1:], ordered[:-1], out=differs[1:-1])
    repeated = ~(differs[1:] & differs[:-1])
    kept, codes = np.empty(len(points), bool), np.empty(len(points), np.uint32)
    kept[order] = repeated
    codes[order] = numbers = (differs[:-1] & repeated).cumsum() - 1
    ends = np.concatenate([[0], kept.cumsum()])[np.cumsum([len(sentence) for sentence in sentences])].tolist()
    spans = list(zip([0, *ends], ends, strict=False))
    codes = codes[kept]
    if not len(codes) or numbers[-1] < 256:
        data = codes.astype(np.uint8).tobytes()
        return [data[start:end] for start, end in spans]
    text = codes.tobytes().decode("utf-32-le", "surrogatepass")
    return [text[start:end] for start, end in spans]
