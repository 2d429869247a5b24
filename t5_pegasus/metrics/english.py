"""ROUGE and BLEU of English words: Google's rouge-score, and the sentence BLEU of `bleu` over WMT's words.

ROUGE-Lsum compares sentence by sentence. rouge-score takes lines for sentences, so texts are first split into sentences
by sentencex, whose rules come with the package: nothing is downloaded.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

from ..errors import OptionError
from .bleu import SETTINGS, sentence_bleu

ROUGE_SIGNATURE = "rouge|lang:en|tok:rouge-score|case:lower|stem:porter|f|lsum-sentences:sentencex|empty:0"
ROUGE_PACKAGES = ("rouge-score", "nltk", "sentencex")  # nltk has the stemmer
ROUGE_NAMES = ("rouge-1", "rouge-2", "rouge-l", "rouge-lsum")
BLEU_SIGNATURE = f"bleu|lang:en|tok:13a|case:lower|{SETTINGS}"
BLEU_PACKAGES = ("sacrebleu",)  # it has the tokenizer
BLEU_NAMES = ("bleu",)

# rouge-score's names of the scores.
_TYPES = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL", "rouge-lsum": "rougeLsum"}


def rouge(hypothesis: str, reference: str) -> dict[str, float]:
    """Return the F scores of ROUGE-1, ROUGE-2, ROUGE-L and ROUGE-Lsum (Lin 2004), 0 to 1, of Porter's stems.

    A word is a run of a-z and 0-9: a text without any, such as a Chinese one, scores 0. Raises OptionError if the
    packages of the extra `english` are not installed.
    """
    scorer = _scorer()
    scores = scorer.score(_one_sentence_a_line(reference), _one_sentence_a_line(hypothesis))
    return {name: float(scores[kind].fmeasure) for name, kind in _TYPES.items()}


def bleu(hypothesis: str, reference: str) -> dict[str, float]:
    """Return the sentence BLEU of lower-cased words, 0 to 1; words and signs are those of sacrebleu's 13a."""
    return bleu_of_several(hypothesis, [reference])


def bleu_of_several(hypothesis: str, references: Sequence[str]) -> dict[str, float]:
    """Return the BLEU of one hypothesis against several references, 0 to 1."""
    tokenize = _tokenizer()
    words, *of_references = (tokenize(text.lower()).split() for text in (hypothesis, *references))
    return {"bleu": sentence_bleu(words, *of_references)}


def sentences(text: str) -> list[str]:
    """Return the sentences of a text, each line's by itself, without white space around them.

    Raises OptionError if sentencex is not installed.
    """
    return [part.strip() for line in text.splitlines() for part in _segment(line) if part.strip()]


@functools.cache
def _scorer() -> Any:
    # Late: nltk, which it imports, takes a second.
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    return RougeScorer(list(_TYPES.values()), use_stemmer=True)


def _one_sentence_a_line(text: str) -> str:
    return "\n".join(sentence.strip() for sentence in _segment(text))


def _segment(text: str) -> list[str]:
    try:
        import sentencex
    except ModuleNotFoundError as error:
        raise _missing(error) from error
    # Half a surrogate pair, which it cannot read, is no word either.
    return list(sentencex.segment("en", text.encode(errors="replace").decode()))


def _missing(error: ModuleNotFoundError) -> OptionError:
    package = str(error.name).partition(".")[0]
    return OptionError(f"language en needs {package}: install the extra english, `pip install '.[english]'`")


@functools.cache
def _tokenizer() -> Callable[[str], str]:
    from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

    return cast(Callable[[str], str], Tokenizer13a())  # type: ignore[no-untyped-call]
