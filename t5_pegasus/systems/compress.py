"""A title by rules: the sentence that says what was done, without what a title has no room for.

1. Parentheses are dropped from the text, with what is in them.
2. The sentence is the first with a cue, of the first row of CUES that any sentence matches: 提出; 设计了, 构建一种 …;
   本文研究 …. Without any it is the most central one by TextRank.
3. Of a sentence with a cue what is before it is dropped, and so is the cue. Else the phrases of LEAD_INS (结果表明 …)
   are dropped from its beginning.
4. Its clauses are what stands between commas and semicolons. Subordinate ones, which begin with a word of SUBORDINATE
   (由于, 为了, 通过 …), are dropped while another is left.
5. The title is as many of the clauses as fit into `max_length` characters, at least the first. That one, if it is too
   long, is cut after the last 的, 、, 和, 与 or 及 that fits (without it), or else at the limit.
"""

import dataclasses
import re
from collections.abc import Sequence

from ..config import option, require_at_least
from ..errors import OptionError
from .extractive import Extract, check_no_target, most_central, sentences_of, textrank_weights
from .spec import Spec, make_config

CUES = (
    re.compile("提出[了出]?"),
    re.compile("(?:设计|构建|构造|建立|开发|研制|实现|给出|介绍|引入)(?:[了出](?!的)|(?=[一两三][种个类套]))"),
    re.compile("(?:本文|文中|文章|该文|主要|重点|对)(?:研究|分析|探讨|讨论|阐述|综述|论述|介绍)了?"),
    re.compile("(?:研究|分析|探讨|讨论|阐述|综述|论述)了"),
)
LEAD_INS = (
    *("本文", "该文", "本研究", "作者", "我们", "笔者", "近日", "日前", "据悉", "据报道", "近年来", "首先", "最后"),
    *("实验结果表明", "结果表明", "实验表明", "研究表明", "结果显示", "研究发现", "目的", "方法", "结果", "结论"),
)
SUBORDINATE = (
    *("由于", "因为", "为了", "为", "虽然", "尽管", "随着", "如果", "当", "通过", "利用", "根据", "针对", "在", "从"),
    *("对于", "鉴于", "从而", "以便", "以", "使得", "使", "因此", "并且", "并", "而", "且", "其中", "该"),
)
_PARENTHESES = re.compile(r"（[^（）]*）|\([^()]*\)|\[[^\[\]]*\]|【[^【】]*】")
_CLAUSE_ENDS = re.compile("[，,；;：:]+")
_BREAKS = re.compile("[的、和与及]")


@dataclasses.dataclass(frozen=True)
class CompressConfig:
    """The options of `compress`."""

    max_length: int = option(30, "longest title, in characters")

    def __post_init__(self) -> None:
        """Raise OptionError for a title without a character."""
        require_at_least(self, 1, "max_length")


def make_compress(spec: Spec) -> Extract:
    """Return the system that shortens a sentence by rules."""
    check_no_target(spec)
    if spec.language != "zh":
        raise OptionError(f"compress has rules for Chinese only: leave it out of --language {spec.language}")
    config = make_config(CompressConfig, spec.options)
    return Extract(spec, config, lambda text: compress(text.content, config.max_length))


def compress(text: str, max_length: int) -> str:
    """Return a title of at most `max_length` characters, by the rules above; "" of a text without a sentence."""
    sentences = list(filter(_has_words, sentences_of(_PARENTHESES.sub("", text))))
    core = next(filter(None, (_after_cue(cue, sentence) for cue in CUES for sentence in sentences)), None)
    if core is None:
        core = _without_phrases(most_central(sentences, textrank_weights))
    return _fitted(_main_clauses(core), max_length)


def _after_cue(cue: re.Pattern[str], sentence: str) -> str:
    """Return what follows the first cue in the sentence; "" if there is none or no word follows."""
    match = cue.search(sentence)
    rest = sentence[match.end() :].lstrip("，,、：: ") if match else ""
    return rest if _has_words(rest) else ""


def _without_phrases(sentence: str) -> str:
    phrase = next((each for each in LEAD_INS if sentence.startswith(each)), None)
    if phrase is None:
        return sentence
    rest = sentence[len(phrase) :].lstrip("，,、：: ")
    return _without_phrases(rest) if _has_words(rest) else sentence


def _has_words(text: str) -> bool:
    return any(map(str.isalnum, text))


def _main_clauses(sentence: str) -> list[str]:
    clauses = [clause.strip() for clause in _CLAUSE_ENDS.split(sentence) if _has_words(clause)]
    main = [clause for clause in clauses if not clause.startswith(SUBORDINATE)]
    return main or clauses[-1:]


def _fitted(clauses: Sequence[str], max_length: int) -> str:
    if not clauses:
        return ""
    if len(clauses[0]) > max_length:
        breaks = [match.start() for match in _BREAKS.finditer(clauses[0], 1, max_length + 1)]
        return clauses[0][: breaks[-1] if breaks else max_length]
    title = clauses[0]
    for clause in clauses[1:]:
        if len(title) + 1 + len(clause) > max_length:
            break
        title += f"，{clause}"
    return title
