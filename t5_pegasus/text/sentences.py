"""Texts split into sentences or pieces, and these gathered into chunks that a model can read."""

import re
from collections.abc import Callable, Iterable, Iterator

PIECE_LENGTH = 32
SEPARATORS = "\n。"
MIN_PIECES = 3

# A run of stops with the closing quotes and brackets and the white space after it, except for the indent of the next
# line; or the end of a line, with blank lines after it.
_STOPS = re.compile(r"([。！？；…!?.]+)((?:[”’」』》】）\])\"']+[。！？；…!?.]*)*)(\s*\n|[^\S\n]*)|\n(?:\s*\n)?")
_CHINESE_STOPS = frozenset("。！？；…")
_FIRST_CJK = "\u2e80"  # from here on, Unicode has Chinese characters and full-width signs
# What precedes a stop that ends no sentence: an initial (J. Smith, U.S.), an abbreviation, the number of an item.
_ABBREVIATION = re.compile(
    r"(?:\b[a-z]|\b(?:mr|mrs|ms|dr|prof|st|jr|sr|vs|etc|cf|al|fig|figs|eq|no|vol|pp?|ch|sec|inc|ltd|co|corp|dept|univ"
    r"|approx|est|ver|jan|feb|mar|apr|jun|jul|aug|sept?|oct|nov|dec)|^\s*\d{1,3})$",
    re.IGNORECASE | re.ASCII,
)


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences; joined, they are the text again, character by character.

    A sentence ends after a run of 。！？；… or at the end of a line, with the quotes and brackets that close there and
    the white space that follows (a line's indent belongs to the line). After . ! ? it ends only before white space,
    Chinese or the end of the text, and not after an abbreviation, an initial or the number of an item: 3.14, Node.js,
    e.g. and 1. end nothing.
    """
    sentences, start = [], 0
    for match in _STOPS.finditer(text):
        stops, closers, space = match.groups()
        end = match.end()
        if stops is not None:
            for number, quote in enumerate(closers):
                # A straight quote closes if the sentence has an odd number of them before it; else it opens.
                before = match.end(1) + number
                if quote in "\"'" and text.count(quote, start, before) % 2 == 0:
                    end, space = before, ""
                    break
            if _CHINESE_STOPS.isdisjoint(text[match.start() : end]):
                if not space and end < len(text) and text[end] < _FIRST_CJK:
                    continue
                if stops == "." and _ABBREVIATION.search(text[max(start, match.start() - 16) : match.start()]):
                    continue
        sentences.append(text[start:end])
        start = end
    if start < len(text):
        sentences.append(text[start:])
    return sentences


def split_pieces(text: str, length: int = PIECE_LENGTH, separators: str = SEPARATORS) -> list[str]:
    """Split a document into pieces of about `length` characters, each ending at a separator.

    Equal to bert4keras's `text_segmentate(text, length, separators)` without its empty pieces: cut after the first
    separator, neighbours joined up to `length`, and what is still longer cut after the next separator. Text without a
    separator stays whole, however long. White space around pieces is dropped, and no other character.
    """
    text = text.strip()
    if not text:
        return []
    if not separators or len(text) <= length:
        return [text]
    separator, finer = separators[0], separators[1:]
    pieces, run = [], ""
    for part in text.split(separator):
        if run and part and len(run) + len(part) + len(separator) > length:
            pieces += split_pieces(run, length, finer)
            run = ""
        run += part + separator
    # The last part ends with the text, not at a separator.
    return pieces + split_pieces(run.removesuffix(separator), length, finer)


# Ways to split a document into the units that gap sentences are chosen from.
SPLITTERS: dict[str, Callable[[str], list[str]]] = {"pieces": split_pieces, "sentences": split_sentences}


def gather_chunks(pieces: Iterable[str], max_chars: float, min_pieces: int = MIN_PIECES) -> Iterator[list[str]]:
    """Yield runs of neighbouring pieces: as many as fit into `max_chars` characters, but at least `min_pieces`.

    The rest at the end is a chunk if it has `min_pieces`; else it is dropped, as in the official recipe.
    """
    chunk: list[str] = []
    chars = 0
    for piece in pieces:
        if chars + len(piece) > max_chars and len(chunk) >= min_pieces:
            yield chunk
            chunk, chars = [], 0
        chunk.append(piece)
        chars += len(piece)
    if len(chunk) >= min_pieces:
        yield chunk
