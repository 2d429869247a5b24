"""What is wrong with a data set of pairs: a row a check, over files of any size.

A file is read twice. The first pass fixes each row, counts (`profile.Profile`) and puts keys and signatures on disk
(`similarity.Spool`); the second calls every row of CHECKS with what the whole file has told, and writes what is kept.
"""

import array
import dataclasses
import html
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..config import check_choices, option, require_at_least, require_between
from ..errors import DataError
from ..text.protocol import Tokenizer
from ..text.sentences import split_sentences
from .cleaning import CLEANERS, CleaningConfig
from .examples import Example, Row, read_rows
from .profile import Profile
from .similarity import Counts, HeldOut, Leak, Spool, key, plain, runs

EXAMPLES = 3  # of each check and file that a report quotes
_LONGEST_QUOTE = 60  # characters


@dataclasses.dataclass(frozen=True)
class CheckConfig:
    """From where on something is wrong."""

    near_duplicate_threshold: float = option(0.8, "Jaccard similarity of runs of 5 characters of near duplicates")
    leak_overlap: float = option(0.5, "share of its runs of 8 characters that a leaked text has in common")
    repeated_sentence_rows: int = option(0, "rows with the same sentence that make it boilerplate; 0 is 1 in 200")
    min_source_chars: int = option(10, "characters of a content; a shorter one is told")
    min_target_chars: int = option(2, "characters of a title; a shorter one is told")

    def __post_init__(self) -> None:
        """Raise OptionError for a value out of range."""
        require_between(self, 0.5, 1, "near_duplicate_threshold")
        require_between(self, 0.1, 1, "leak_overlap")
        require_at_least(self, 0, "repeated_sentence_rows", "min_source_chars", "min_target_chars")
        check_choices(self)


# --- what is fixed ----------------------------------------------------------------------------------------------------

_TAG = re.compile(
    r"</?(?:a|b|big|blockquote|br|center|code|div|em|font|h[1-6]|hr|i|iframe|img|input|label|li|link|ol|p|pre|script|"
    r"section|small|span|strong|style|sub|sup|table|tbody|td|th|tr|u|ul)"
    r"(?:\s+[\w:-]+(?:\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s<>\"']+)))*\s*/?>|<!--.{0,500}?-->",
    re.IGNORECASE | re.DOTALL,
)
_ENTITY = re.compile(r"&(?:[a-z]{2,8}|#\d{1,6}|#x[0-9a-f]{1,6});", re.IGNORECASE)
# Of UTF-8 that was decoded as something else: what GBK makes of U+FFFD and of fresh memory, what Latin-1 makes of
# Chinese punctuation and quotation marks.
_MOJIBAKE = re.compile("\ufffd|锟斤拷|烫烫烫|屯屯屯|ï¼|ã€|â€|Ã©|Â·")


def fix_control(text: str) -> str:
    """Return the text without control characters and marks of zero width."""
    return CLEANERS["control"](text, _CLEANING)[0]


def fix_html(text: str) -> str:
    """Return the text without HTML: tags are left out, entities become their characters."""
    if "<" in text:
        text = _TAG.sub("", text)
    if "&" in text:
        text = _ENTITY.sub(lambda match: html.unescape(match[0]), text)
    return text.replace("\xa0", " ")


def fix_boilerplate(text: str) -> str:
    """Return the text without the lines that are part of a web page only."""
    return CLEANERS["boilerplate"](text, _CLEANING)[0]


_CLEANING = CleaningConfig()

# A row a repair of one text: (what it is called, the function, what it removes).
FIXES: dict[str, tuple[Callable[[str], str], str]] = {
    "html": (fix_html, "HTML tags and entities"),
    "control": (fix_control, "control characters and marks of zero width"),
    "web_lines": (fix_boilerplate, "lines of a web page: editors, copyright, QR codes"),
}


def fix(text: str) -> tuple[str, list[str]]:
    """Return a text without what FIXES remove and without white space around it, and the names of those that did."""
    done = []
    for name, (function, _) in FIXES.items():
        fixed = function(text)
        if fixed != text:
            done.append(name)
            text = fixed
    return text.strip(), done


# --- what a row is checked for ----------------------------------------------------------------------------------------


class Fixed(NamedTuple):
    """A row as it would be written: both texts fixed, and the names of the repairs."""

    row: Row
    content: str
    title: str
    fixes: list[str]


class Facts(NamedTuple):
    """What the whole file tells of a row: the row before that it repeats, and what is usual."""

    number: int
    config: CheckConfig
    lookups: dict[str, "_Lookup"]
    line_of: Callable[[int], int]
    leak: tuple[Leak, str] | None
    sentences: dict[int, int]
    profile: Profile


class Check(NamedTuple):
    """A kind of fault.

    summary: what it finds. find: of a row, why, or "". serious_above: the share of rows above which the data should not
    be trained on; None for never. drops: whether `write` leaves the row out.
    """

    summary: str
    find: Callable[[Fixed, Facts], str]
    serious_above: float | None = None
    drops: bool = False


def _not_read(fixed: Fixed, facts: Facts) -> str:
    return "" if fixed.row.is_encoding_error else fixed.row.error


def _not_utf8(fixed: Fixed, facts: Facts) -> str:
    return fixed.row.error if fixed.row.is_encoding_error else ""


def _empty(fixed: Fixed, facts: Facts) -> str:
    missing = [name for name, text in (("content", fixed.content), ("title", fixed.title)) if not text]
    return f"no {' and no '.join(missing)}" if missing else ""


def _equal(fixed: Fixed, facts: Facts) -> str:
    same = fixed.title and fixed.content.split() == fixed.title.split()
    return "the title is the content" if same else ""


def _leak(kinds: Sequence[str], words: str) -> Callable[[Fixed, Facts], str]:
    def find(fixed: Fixed, facts: Facts) -> str:
        if facts.leak is None or facts.leak[0].kind not in kinds:
            return ""
        leak, where = facts.leak
        return words.format(share=leak.share, kind=leak.kind, where=where)

    return find


def _repeats(name: str, words: str) -> Callable[[Fixed, Facts], str]:
    def find(fixed: Fixed, facts: Facts) -> str:
        found = facts.lookups[name].get(facts.number)
        if found is None or (name != "pair" and facts.lookups["pair"].get(facts.number) is not None):
            return ""
        if name == "near" and facts.lookups["text"].get(facts.number) is not None:
            return ""
        return words.format(line=facts.line_of(found[0]), share=found[1])

    return find


def _longer(fixed: Fixed, facts: Facts) -> str:
    title, content = len(fixed.title), len(fixed.content)
    return f"title of {title} characters, content of {content}" if title > content > 0 else ""


def _short(fixed: Fixed, facts: Facts) -> str:
    for name, text, least in (
        ("content", fixed.content, facts.config.min_source_chars),
        ("title", fixed.title, facts.config.min_target_chars),
    ):
        if 0 < len(text) < least:
            return f"{name} of {len(text)} characters: {quoted(text)}"
    return ""


def _mojibake(fixed: Fixed, facts: Facts) -> str:
    found = _MOJIBAKE.search(fixed.title) or _MOJIBAKE.search(fixed.content)
    return f"{found[0]} in {quoted(_around(found))}" if found else ""


# What a journal or a site tells its readers, in place of an article.
_NOTICE = re.compile(
    r"欢迎\S{0,4}(?:订阅|投稿|订购|赐稿)|征订(?:启事|通知|单)|(?:征稿|征文|投稿|订阅|更正|致歉)(?:启事|通知|须知|简则|指南|声明)|"
    r"^\W*(?:稿约|勘误表?|广告索引|启事|编者按|目次|总目录|卷首语)\W*$|(?:点击|扫码|扫描)\S{0,8}(?:领取|下载|关注|购买)"
)


def _notice(fixed: Fixed, facts: Facts) -> str:
    found = _NOTICE.search(fixed.title)
    return f"{found[0]} in the title {quoted(fixed.title)}" if found else ""


def _boilerplate(fixed: Fixed, facts: Facts) -> str:
    for sentence in sentences(fixed.content):
        count = facts.sentences.get(key(sentence), 0)
        if count:
            return f"in {count} rows: {quoted(sentence)}"
    return ""


_CHINESE = re.compile("[\u3400-\u4dbf\u4e00-\u9fff]")
_LETTER = re.compile(r"[^\W\d_]")


def _language(fixed: Fixed, facts: Facts) -> str:
    text = fixed.content[:2000]
    chinese, letters = len(_CHINESE.findall(text)), len(_LETTER.findall(text))
    if letters == 0 or chinese >= 0.3 * letters:
        return ""
    return f"{chinese / letters:.0%} of the letters are Chinese: {quoted(text)}"


def _noise(fixed: Fixed, facts: Facts) -> str:
    if len(fixed.title) < 4 or not fixed.content or copy_rate(fixed.title, fixed.content) > 0:
        return ""
    content = fixed.content.lower()
    letters = list(filter(str.isalnum, fixed.title.lower()))
    shared = sum(letter in content for letter in letters) / max(1, len(letters))
    return f"{quoted(fixed.title)} has nothing of its text, {quoted(fixed.content)}" if shared <= 0.5 else ""


def _repetitive(fixed: Fixed, facts: Facts) -> str:
    for name, text in (("content", fixed.content[:1000]), ("title", fixed.title)):
        count = len(text) - 3
        if count >= 20:
            distinct = len({text[place : place + 4] for place in range(count)})
            if distinct < 0.4 * count:
                return f"{name} repeats itself: {quoted(text)}"
    return ""


def _outlier(fixed: Fixed, facts: Facts) -> str:
    for name, text in (("content", fixed.content), ("title", fixed.title)):
        low, high = facts.profile.fences[name]
        if text and not low <= len(text) <= high:
            return f"{name} of {len(text)} characters, usual are {low:.0f} to {high:.0f}"
    return ""


# A row a check. Those that drop rows come first: the first that finds something is why a row is dropped.
CHECKS: dict[str, Check] = {
    "unreadable": Check("rows that cannot be read", _not_read, 0, True),
    "encoding": Check("rows that are not UTF-8", _not_utf8, 0, True),
    "empty": Check("no content or no title", _empty, 0, True),
    "equal": Check("title equal to its content", _equal, 0, True),
    "leak": Check(
        "pair, content or title of a held-out file", _leak(("pair", "text", "title"), "{kind} of {where}"), 0, True
    ),
    "near_leak": Check("part of a held-out content", _leak(("part",), "{share:.0%} in common with {where}"), 0, True),
    "notice": Check("subscription notices and the like in place of an article", _notice, 0, True),
    "duplicate": Check("pair of an earlier row", _repeats("pair", "as line {line}"), 0.01, True),
    "near_duplicate": Check(
        "content nearly that of an earlier row", _repeats("near", "{share:.0%} as line {line}"), 0.05, True
    ),
    "label_noise": Check("title that shares nothing with its text", _noise, 0.05, True),
    "longer_title": Check("title longer than its content", _longer, 0.01, True),
    "mojibake": Check("characters of a wrong encoding", _mojibake, 0.01),
    "same_content": Check("content of an earlier row, other title", _repeats("text", "as line {line}")),
    "same_title": Check("title of an earlier row, other content", _repeats("title", "as line {line}")),
    "boilerplate": Check("sentence that many rows have", _boilerplate),
    "short": Check("content or title of a few characters", _short, 0.05),
    "language": Check("content that is hardly Chinese", _language, 0.2),
    "repetitive": Check("text that repeats itself", _repetitive),
    "outlier": Check("length far from the others", _outlier),
}


_OF_ERRORS = ("unreadable", "encoding")  # the checks of rows without texts


def copy_rate(title: str, content: str) -> float:
    """Return the share of the title's pairs of neighbouring characters that its content has, too."""
    title, content = title.lower(), content.lower()
    pairs = [title[place : place + 2] for place in range(len(title) - 1)]
    return sum(pair in content for pair in pairs) / len(pairs) if pairs else float(title in content)


def sentences(text: str) -> set[str]:
    """Return the sentences of a text that are long enough to be no phrase."""
    return {part for part in map(str.strip, split_sentences(text)) if len(part) >= 12}


def quoted(text: str) -> str:
    """Return the beginning of a text in quotation marks, on one line."""
    text = " ".join(text.split())
    return f"“{text[:_LONGEST_QUOTE]}{'…' * (len(text) > _LONGEST_QUOTE)}”"


def _around(match: re.Match[str]) -> str:
    return match.string[max(0, match.start() - 15) : match.end() + 15]


# --- files ------------------------------------------------------------------------------------------------------------


@dataclasses.dataclass
class FileReport:
    """What was found in one file.

    Attributes:
        path: of the file.
        columns: of content and title, as they are named there.
        rows: of the file, those that cannot be read among them.
        found: how many rows each check has told of.
        examples: of each check, some (line, why).
        fixed: how many rows each of FIXES has changed.
        profile: lengths, characters, tokens.
        boilerplate: (sentence, rows) of sentences that many rows have, the most frequent first.
    """

    path: str
    columns: tuple[str, ...] = ()
    rows: int = 0
    found: Counter[str] = dataclasses.field(default_factory=Counter)
    examples: dict[str, list[tuple[int, str]]] = dataclasses.field(default_factory=dict)
    fixed: Counter[str] = dataclasses.field(default_factory=Counter)
    profile: Profile = dataclasses.field(default_factory=Profile)
    boilerplate: list[tuple[str, int]] = dataclasses.field(default_factory=list)

    @property
    def serious(self) -> list[str]:
        """Return the names of the checks that found too much."""
        return [name for name in CHECKS if self.found[name] and self.is_serious(name)]

    def is_serious(self, name: str) -> bool:
        """Return whether a check has found so much that the data should not be trained on."""
        limit = CHECKS[name].serious_above
        return limit is not None and self.found[name] > limit * self.rows


class Change(NamedTuple):
    """What `write` does with a row: the pair to write, None to drop it; and why, (check or repair, detail)."""

    line: int
    example: Example | None
    reasons: list[tuple[str, str]]


class _Lookup:
    """Rows that repeat an earlier one, by row; asked for in their order."""

    def __init__(self, rows: np.ndarray, others: np.ndarray, similarity: np.ndarray) -> None:
        self._rows, self._others, self._similarity = rows, others, similarity

    def get(self, row: int) -> tuple[int, float] | None:
        at = int(np.searchsorted(self._rows, row))
        if at == len(self._rows) or self._rows[at] != row:
            return None
        return int(self._others[at]), float(self._similarity[at])


def check_files(
    paths: Sequence[str | Path],
    tokenizer: Tokenizer,
    config: CheckConfig,
    text_column: str | None = None,
    summary_column: str | None = None,
    progress: Callable[[Iterator[Any], str], Iterator[Any]] = lambda rows, about: rows,
    on_change: Callable[[Change], None] | None = None,
) -> list[FileReport]:
    """Check files of pairs, each also against those behind it, which are held out from it.

    Args:
        paths: files; the first is what is trained on.
        tokenizer: of the model.
        config: limits.
        text_column: of the content; found by its usual names if None.
        summary_column: of the title; found by its usual names if None.
        progress: given an iterator over rows and what is being done, returns it again.
        on_change: called with what becomes of each row of the first file, in their order.

    Raises DataError for a file that cannot be read or has no row.
    """
    held_out = _HeldOutFiles(config.leak_overlap)
    reports: list[FileReport] = []
    for path in reversed(paths):
        is_first = len(reports) == len(paths) - 1
        checking = _Checking(Path(path), tokenizer, config, text_column, summary_column, progress)
        reports.append(checking.run(held_out, on_change if is_first else None))
        if not is_first:
            checking.hold_out(held_out)
    return reports[::-1]


class _Checking:
    """The two passes over one file."""

    def __init__(
        self,
        path: Path,
        tokenizer: Tokenizer,
        config: CheckConfig,
        text_column: str | None,
        summary_column: str | None,
        progress: Callable[[Iterator[Any], str], Iterator[Any]],
    ) -> None:
        self._path, self._tokenizer, self._config, self._progress = path, tokenizer, config, progress
        self._columns = text_column, summary_column
        self._report = FileReport(str(path))
        self._seen: set[int] = set()  # of the sentences that many rows have

    def _rows(self, about: str) -> Iterator[Fixed]:
        for row in self._progress(read_rows(self._path, *self._columns), f"{about} {self._path.name}"):
            content, of_content = fix(row.content)
            title, of_title = fix(" ".join(row.title.split()))
            yield Fixed(row, content, title, list(dict.fromkeys(of_content + of_title)))

    def run(self, held_out: "_HeldOutFiles", on_change: Callable[[Change], None] | None) -> FileReport:
        """Check the file."""
        with tempfile.TemporaryDirectory(prefix="t5_pegasus_check_") as folder:
            spool, counts = Spool(Path(folder)), Counts()
            with (Path(folder) / "lines").open("w+b") as lines:
                for fixed in self._rows("reading"):
                    lines.write(np.int64(fixed.row.line).tobytes())
                    self._count(fixed, spool, counts)
                lines.flush()
                if not self._report.rows:
                    raise DataError(f"{self._path} holds no pair")
                lookups = {name: _Lookup(*spool.equal(column)) for column, name in enumerate(("pair", "text", "title"))}
                lookups["near"] = _Lookup(*spool.similar(self._config.near_duplicate_threshold))
                spool.close()
                frequent = counts.frequent(self._config.repeated_sentence_rows or max(5, self._report.rows // 200))
                self._report.profile.settle()

                def line_of(number: int) -> int:
                    return int(np.frombuffer(os.pread(lines.fileno(), 8, 8 * number), np.int64)[0])

                for number, fixed in enumerate(self._rows("checking")):
                    leak = None if fixed.row.error else held_out.find(fixed)
                    facts = Facts(number, self._config, lookups, line_of, leak, frequent, self._report.profile)
                    reasons = self._check(fixed, facts)
                    if on_change is not None:
                        on_change(_change(fixed, reasons))
        self._report.boilerplate.sort(key=lambda each: (-each[1], each[0]))
        return self._report

    def hold_out(self, held_out: "_HeldOutFiles") -> None:
        """Hold the file's rows out from the files to come."""
        held_out.add(self._path.name, (fixed for fixed in self._rows("holding out") if not fixed.row.error))

    def _count(self, fixed: Fixed, spool: Spool, counts: Counts) -> None:
        self._report.rows += 1
        self._report.columns = self._report.columns or fixed.row.columns
        title, content = plain(fixed.title), plain(fixed.content)
        is_whole = bool(title and content)
        keys = (key(f"{title}\0{content}") if is_whole else 0, key(content), key(title))
        spool.add(keys, runs(content))
        if not fixed.row.error:
            counts.add(set(map(key, sentences(fixed.content))))
            self._report.profile.add(fixed.content, fixed.title, self._tokenizer, copy_rate(fixed.title, fixed.content))

    def _check(self, fixed: Fixed, facts: Facts) -> list[tuple[str, str]]:
        """Return what the checks find, and add it to the report."""
        reasons = []
        for name, check in CHECKS.items():
            if fixed.row.error and name not in _OF_ERRORS:
                continue
            if detail := check.find(fixed, facts):
                self._report.found[name] += 1
                examples = self._report.examples.setdefault(name, [])
                if len(examples) < EXAMPLES:
                    examples.append((fixed.row.line, detail))
                reasons.append((name, detail))
        if len(self._seen) < len(facts.sentences):
            for sentence in sentences(fixed.content):
                found = key(sentence)
                if found in facts.sentences and found not in self._seen:
                    self._seen.add(found)
                    self._report.boilerplate.append((sentence, facts.sentences[found]))
        self._report.fixed.update(fixed.fixes)
        return reasons


class _HeldOutFiles:
    """The rows of the files that are held out, by name and line."""

    def __init__(self, overlap: float) -> None:
        self._texts = HeldOut(overlap)
        self._names: list[str] = []
        self._files, self._lines = array.array("H"), array.array("q")

    def add(self, name: str, rows: Iterator[Fixed]) -> None:
        for fixed in rows:
            self._texts.add(fixed.title, fixed.content)
            self._files.append(len(self._names))
            self._lines.append(fixed.row.line)
        self._names.append(name)
        self._texts.freeze()

    def find(self, fixed: Fixed) -> tuple[Leak, str] | None:
        """Return what a row shares with a held-out one, and where that is."""
        found = self._texts.find(fixed.title, fixed.content)
        if found is None:
            return None
        return found, f"{self._names[self._files[found.number]]}:{self._lines[found.number]}"


def _change(fixed: Fixed, reasons: list[tuple[str, str]]) -> Change:
    dropped = [each for each in reasons if CHECKS[each[0]].drops]
    if dropped:
        return Change(fixed.row.line, None, dropped[:1])
    return Change(fixed.row.line, Example(fixed.content, fixed.title), [(name, FIXES[name][1]) for name in fixed.fixes])
