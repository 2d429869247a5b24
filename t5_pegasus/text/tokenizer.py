"""T5-PEGASUS's tokenizer: words cut by jieba, each one token if the vocabulary has it, else WordPiece.

The ids are those that T5-PEGASUS was trained with, of bert4keras's
`Tokenizer(vocab, do_lower_case=True, pre_tokenize=lambda s: jieba.cut(s, HMM=False))`. The speed comes from rjieba,
which cuts as jieba does, and from caching the ids of every word seen.
"""

import functools
import hashlib
import itertools
import json
import reprlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

from ..errors import DataError, OptionError
from .characters import SPACING, is_latin, normalize
from .lines import read_lines
from .protocol import Encoded, Frame
from .segmentation import Cut, make_cut, read_user_dict

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"

_LONGEST_WORD = 200  # characters; longer ones are [UNK] to bert4keras
_LONGEST_CACHED_WORD = 32  # characters; longer ones seldom occur twice
_MOST_CACHED_WORDS = 500_000


class PegasusTokenizer:
    """Tokenizer of T5-PEGASUS; see `protocol.Tokenizer` for the attributes and methods that all tokenizers have.

    Args:
        vocab_file: a vocabulary, one token a line; a token's id is its line number, from 0.
        user_dict: words that jieba keeps whole, one a line, each with an optional frequency: jieba's own format.

    Attributes:
        tokens: the tokens by their ids.
        pad_id, unk_id, start_id, end_id, mask_id: ids of [PAD], [UNK], [CLS], [SEP] and [MASK].
        user_words: (word, frequency or None) of each line of `user_dict`.

    Raises DataError where a file cannot be read, a token occurs twice or a special token is missing.

    Example:
        >>> tokenizer = PegasusTokenizer("chinese_t5_pegasus_tiny/vocab.txt")
        >>> tokenizer.decode(tokenizer.encode("我们使用iPhone 15 Pro拍照。"))
        '我们使用iphone 15 pro拍照。'
    """

    def __init__(self, vocab_file: str | Path, user_dict: str | Path | None = None) -> None:
        self.vocab_file = Path(vocab_file)
        self.tokens = read_vocabulary(vocab_file)
        self.vocab_size = len(self.tokens)
        self._ids = {token: index for index, token in enumerate(self.tokens)}
        missing = [token for token in (PAD, UNK, CLS, SEP) if token not in self._ids]
        if missing:
            raise DataError(f"{vocab_file} lacks the special tokens {' '.join(missing)}")
        self.pad_id, self.unk_id, self.start_id, self.end_id = (self._ids[token] for token in (PAD, UNK, CLS, SEP))
        self.mask_id = self._ids.get(MASK)
        self.frame = Frame((self.start_id,), (self.end_id,))
        self._longest = max(map(len, self.tokens))
        # jieba's dictionary is loaded with the first text, not here: loading a model should not wait for it.
        self.user_words = [] if user_dict is None else read_user_dict(user_dict)
        self._word_ids = _WordCache(self.encode_word)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the tokens in their order and the user words."""
        content = json.dumps([self.tokens, self.user_words], ensure_ascii=False)
        return hashlib.sha256(content.encode()).hexdigest()

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of a text between [CLS] and [SEP].

        Args:
            text: any text; it is lower-cased and stripped of accents.
            max_length: cut to this many ids, [SEP] kept last; at least 2.
        """
        return self.encode_source(text, max_length).ids

    def encode_batch(self, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text; see `encode`. Raises OptionError for a text alone, which has no texts in it."""
        if isinstance(texts, str):
            raise OptionError(f"texts must be a list of texts, got {reprlib.repr(texts)}")
        return [self.encode_source(text, max_length).ids for text in texts]

    def encode_source(self, text: str, max_length: int | None = None, masked: bool = False) -> Encoded:
        """Return the ids of a text as `encode` does, and whether it was cut.

        Where `masked`, "[MASK]" in the text is that token, and the text between two masks is encoded by itself. Raises
        DataError where the text has one and the vocabulary does not.
        """
        if max_length is not None and max_length < self.frame.size:
            raise OptionError(f"max_length must be at least 2, for [CLS] and [SEP], got {max_length}")
        room = None if max_length is None else max_length - self.frame.size
        ids = self._encode_masked(text) if masked else self._encode_text(text)
        # Words beyond what is kept are not looked up, except for one more id, which shows that there are more.
        inner = list(itertools.islice(ids, None if room is None else room + 1))
        truncated = room is not None and len(inner) > room
        return Encoded([self.start_id, *inner[:room], self.end_id], truncated)

    def encode_target(self, text: str, max_length: int | None = None) -> Encoded:
        """Return the ids of a title from [CLS] to [SEP]: those of `encode_source`."""
        return self.encode_source(text, max_length)

    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of a text without [CLS] and [SEP]."""
        return list(self._encode_text(text))

    def _encode_text(self, text: str) -> Iterator[int]:
        return itertools.chain.from_iterable(map(self._word_ids.__getitem__, self._cut(normalize(text))))

    def _encode_masked(self, text: str) -> Iterator[int]:
        first, *others = text.split(MASK)
        if others and self.mask_id is None:
            raise DataError(f"{self.vocab_file} lacks {MASK}, which the text has")
        yield from self._encode_text(first)
        for part in others:
            yield cast(int, self.mask_id)
            yield from self._encode_text(part)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens, and ids beyond the vocabulary, are left out.

        Chinese is written without spaces. There is one between two English words or numbers, and after an English comma
        or full stop before a letter.
        """
        tokens = (self.tokens[index] if index < self.vocab_size else "" for index in ids)
        return join_tokens(token for token in tokens if not _is_special(token))

    @functools.cached_property
    def _cut(self) -> Cut:
        return make_cut(self.user_words)

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word as jieba cut it: its own id, else those of its characters and `##` pieces."""
        if word in self._ids:
            return (self._ids[word],)
        # As in bert4keras, words are normalised once more: a few characters change twice.
        spaced = normalize(word).translate(SPACING)
        return tuple(index for run in spaced.split() for index in self._encode_pieces(run))

    def _encode_pieces(self, run: str) -> list[int]:
        """Return the ids of the longest pieces, from the left, that spell the run; [UNK] if none do."""
        if len(run) > _LONGEST_WORD:
            return [self.unk_id]
        ids: list[int] = []
        start = 0
        while start < len(run):
            prefix = "##" if start else ""
            for end in range(min(len(run), start + self._longest), start, -1):
                index = self._ids.get(prefix + run[start:end])
                if index is not None:
                    ids.append(index)
                    start = end
                    break
            else:
                return [self.unk_id]
        return ids


class _WordCache(dict[str, tuple[int, ...]]):
    """Ids of each word, filled as words occur and emptied when it has grown too large."""

    def __init__(self, encode: Callable[[str], tuple[int, ...]]) -> None:
        self._encode = encode

    def __missing__(self, word: str) -> tuple[int, ...]:
        ids = self._encode(word)
        if len(word) <= _LONGEST_CACHED_WORD:
            if len(self) >= _MOST_CACHED_WORDS:
                self.clear()
            self[word] = ids
        return ids


def read_vocabulary(vocab_file: str | Path) -> list[str]:
    """Return the tokens of a vocabulary file by their ids. Raises DataError for a token that occurs twice."""
    tokens: dict[str, int] = {}
    for number, line in enumerate(read_lines(vocab_file), 1):
        # The first word of the line, as bert4keras reads it; some vocabularies have a count after the token.
        token = next(iter(line.split()), "")
        if token in tokens:
            raise DataError(f"{vocab_file}:{number}: token {token!r} is also on line {tokens[token]}")
        tokens[token] = number
    return list(tokens)


def join_tokens(tokens: Iterable[str]) -> str:
    """Return the text of WordPiece tokens, spaces only where a language with spaces has them; see `decode`."""
    pieces: list[str] = []
    for token in tokens:
        if not token:  # an empty line of the vocabulary is a token, too
            continue
        if token.startswith("##") and len(token) > 2:
            pieces.append(token[2:])
        elif pieces and _needs_space("".join(pieces[-2:]), token):
            pieces += (" ", token)
        else:
            pieces.append(token)
    return "".join(pieces)


def _is_special(token: str) -> bool:
    """Return whether a token is [CLS] or the like, <S> or <T>, and not text."""
    return len(token) > 2 and (token[0], token[-1]) in (("[", "]"), ("<", ">"))


def _needs_space(before: str, token: str) -> bool:
    """Return whether there is a space between the end of the text so far and the next token."""
    if not is_latin(token[0]):
        return False
    if is_latin(before[-1]):
        return True
    # "hello, world", but "1,000" and "方法,svm" stay as they are: only between English letters is a comma English.
    if len(before) < 2 or before[-1] not in ",;:!?" or not token[0].isalpha():
        return False
    return before[-2].isalpha() and is_latin(before[-2])
