"""Which of several titles of a text to keep, by the titles alone: a row a method."""

import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence

from ..config import GenerationConfig, Options, check_choices, option, require
from ..metrics.rouge import rouge


def first(titles: Sequence[str]) -> int:
    """Return the index of the title that the search found best."""
    return 0


def mbr(titles: Sequence[str]) -> int:
    """Return the index of the title nearest to the others, by the mean of ROUGE-1, 2 and L; the first of equals.

    Minimum Bayes risk decoding, with the titles as samples of what the model means (Kumar and Byrne 2004; Suzgun et al.
    2023 for sampled texts): one that many others resemble is less likely to be an accident than the likeliest one. A
    title that was drawn twice counts twice.
    """
    counts = Counter(titles)
    return max(range(len(titles)), key=lambda index: _likeness(titles[index], counts))


def _likeness(title: str, counts: Counter[str]) -> float:
    others = counts - Counter([title])
    return sum(count * sum(rouge(title, other).values()) for other, count in others.items())


# The first is the default.
RERANKERS: dict[str, Callable[[Sequence[str]], int]] = {"none": first, "mbr": mbr}


@dataclasses.dataclass(frozen=True)
class RerankConfig(Options):
    """What becomes of several titles of a text."""

    rerank: str = option(
        "none", "keep one of the num_return_sequences titles: with mbr the one nearest to the others", choices=RERANKERS
    )

    def __post_init__(self) -> None:
        """Raise OptionError for a method that there is not."""
        check_choices(self)

    def check(self, generation: GenerationConfig) -> None:
        """Raise OptionError if there is nothing to choose from."""
        titles = generation.num_return_sequences
        require(self.rerank == "none" or titles > 1, "rerank needs num_return_sequences above 1", titles)
