"""Text to token ids and back: words cut by jieba, each one token where the vocabulary has it, else WordPiece.

The ids are those T5-PEGASUS was trained with, of bert4keras's
`Tokenizer(vocab, do_lower_case=True, pre_tokenize=lambda s: jieba.cut(s, HMM=False))`. The speed comes from rjieba,
which cuts as jieba does, and from remembering the ids of every word seen.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from ..errors import DataError, OptionError
from ..files import read_lines
from .characters import SPACING, is_latin, normalize
from .segmentation import Cut, make_cut, read_user_dict

PAD, UNK, CLS, SEP, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"

_LONGEST_WORD = 200  # characters; bert4keras gives up on longer ones and so must we

_LONGEST_CACHED_WORD = 32  # longer ones are seldom seen twice

_MOST_CACHED_WORDS = 500_000


class PegasusTokenizer:
    """Tokenizer of T5-PEGASUS.

    Args:
        vocab_file: a vocabulary, one token a line; a token's id is its line number, from 0.
        user_dict: words jieba should keep whole, one a line, each with an optional frequency: jieba's own format.

    Attributes:
        vocab_size: number of tokens.
        pad_id, unk_id, start_id, end_id: ids of [PAD], [UNK], [CLS] and [SEP].
        user_words: (word, frequency or None) of each line of `user_dict`.
        num_truncated: texts cut to `max_length` so far.

    Raises DataError where a file cannot be read, a token stands twice or a special token is missing.

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
        self._longest = max(map(len, self.tokens))
        self.num_truncated = 0
        # jieba's dictionary is loaded with the first text, not here: loading a model should not wait for it.
        self.user_words = [] if user_dict is None else read_user_dict(user_dict)
        self._word_ids = _WordCache(self.encode_word)

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of a text between [CLS] and [SEP].

        Args:
            text: any text; it is lower-cased and stripped of accents.
            max_length: cut to this many ids, [SEP] kept last; at least 2. Cut texts count in `num_truncated`.
        """
        return self.encode_batch((text,), max_length)[0]

    def encode_batch(self, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text; see `encode`."""
        if max_length is not None and max_length < 2:
            raise OptionError(f"max_length must be at least 2, for [CLS] and [SEP], got {max_length}")
        cut, word_ids = self._cut, self._word_ids.__getitem__
        # Words beyond what is kept are not looked up, but for an id that tells that there are more.
        most = None if max_length is None else max_length - 1
        batch = []
        for text in texts:
            ids = itertools.chain.from_iterable(map(word_ids, cut(normalize(text))))
            batch.append(self._cut_to(max_length, [self.start_id, *itertools.islice(ids, most), self.end_id]))
        return batch

    def encode_masked(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of a text in which "[MASK]" is that token, and what stands between is encoded by itself.

        `encode` reads it as text. Raises DataError where the text has it and the vocabulary has not.
        """
        parts = text.split(MASK)
        if len(parts) == 1:
            return self.encode(text, max_length)
        if MASK not in self._ids:
            raise DataError(f"{self.vocab_file} lacks {MASK}, which the text has")
        mask = self._ids[MASK]
        inner = [index for part in self.encode_batch(parts) for index in (mask, *part[1:-1])][1:]
        return self._cut_to(max_length, [self.start_id, *inner, self.end_id])

    def _cut_to(self, max_length: int | None, ids: list[int]) -> list[int]:
        if max_length is not None and len(ids) > max_length:
            del ids[max_length - 1 : -1]
            self.num_truncated += 1
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids, special tokens left out.

        Chinese is written without spaces; between two English words or numbers, and after an English comma or stop
        before a letter, stands one.
        """
        pieces: list[str] = []
        for index in ids:
            token = self.tokens[index]
            if not token or _is_special(token):  # an empty line of the vocabulary is a token, too
                continue
            if token.startswith("##") and len(token) > 2:
                pieces.append(token[2:])
            elif pieces and _needs_space("".join(pieces[-2:]), token):
                pieces += (" ", token)
            else:
                pieces.append(token)
        return "".join(pieces)

    @functools.cached_property
    def _cut(self) -> Cut:
        return make_cut(self.user_words)

    def encode_word(self, word: str) -> tuple[int, ...]:
        """Return the ids of a word as jieba cut it: its own id, else those of its characters and word pieces."""
        if word in self._ids:
            return (self._ids[word],)
        # bert4keras normalises words once more here, which matters for the few characters that change twice.
        spaced = normalize(word).translate(SPACING)
        return tuple(index for run in spaced.split() for index in self._encode_pieces(run))

    def _encode_pieces(self, run: str) -> list[int]:
        """Return the ids of the longest pieces, from the left, that make up the run; [UNK] where there are none."""
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
                return [self._ids.get(run, self.unk_id)]
        return ids


class _WordCache(dict[str, tuple[int, ...]]):
    """Word to ids, filled as words are met, and emptied when it has grown too large."""

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
    """Return the tokens of a vocabulary file by their ids. Raises DataError for a token that stands twice."""
    tokens: dict[str, int] = {}
    for number, line in enumerate(read_lines(vocab_file), 1):
        # The first word of the line, as bert4keras reads it; some vocabularies have a count after the token.
        token = next(iter(line.split()), "")
        if token in tokens:
            raise DataError(f"{vocab_file}:{number}: token {token!r} stands also on line {tokens[token]}")
        tokens[token] = number
    return list(tokens)


def _is_special(token: str) -> bool:
    """Tell [CLS] and its like, and <S> and <T>, from tokens that are text."""
    return len(token) > 2 and (token[0], token[-1]) in (("[", "]"), ("<", ">"))


def _needs_space(before: str, token: str) -> bool:
    """Tell whether a space belongs between the end of the text so far and the next token."""
    if not is_latin(token[0]):
        return False
    if is_latin(before[-1]):
        return True
    # "hello, world", but "1,000" and "方法,svm" stay as they are: only between English letters is a comma English.
    if len(before) < 2 or before[-1] not in ",;:!?" or not token[0].isalpha():
        return False
    return before[-2].isalpha() and is_latin(before[-2])
