"""The tokenizers of Hugging Face folders: sentencepiece's, BERT's WordPiece, and what a tokenizer.json describes.

Their ids are transformers' own. As there, a special token that is written in a text is that token: `[MASK]` in UER's
PEGASUS, `<extra_id_0>` in T5. The packages that they take are imported when a tokenizer is made.
"""

import abc
import functools
import hashlib
import importlib
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from ..config import GENERATION_FILE
from ..errors import DataError, OptionError, PegasusError
from .protocol import Encoded, Frame
from .special_tokens import (
    BERT_NAMES,
    CONFIG_FILES,
    T5_NAMES,
    SpecialIds,
    read_settings,
    special_names,
)
from .tokenizer import join_tokens, read_vocabulary

SENTENCEPIECE_FILE, VOCABULARY_FILE, TOKENIZER_FILE = "spiece.model", "vocab.txt", "tokenizer.json"

T5_EXTRA_IDS = 100


class FolderTokenizer(abc.ABC):
    """What the tokenizers of Hugging Face folders have in common; see `protocol.Tokenizer`.

    Args:
        vocab_file: the file that defines the tokens, in a folder that may have more files about them.
        ids: of special tokens by their roles.
        special: tokens that are no text, by their ids.
        frame: the ids around a text.
        vocab_size: number of tokens.
    """

    def __init__(
        self, vocab_file: Path, ids: Mapping[str, int], special: Mapping[int, str], frame: Frame, vocab_size: int
    ) -> None:
        self.vocab_file, self.vocab_size, self.frame = vocab_file, vocab_size, frame
        self._special = special
        chosen = SpecialIds.of_folder(vocab_file.parent, ids, set(special))
        if chosen.start_id >= vocab_size:
            raise DataError(f"{vocab_file} has {vocab_size} tokens, none for decoder_start_token_id {chosen.start_id}")
        self.pad_id, self.unk_id = chosen.pad_id, chosen.unk_id
        self.start_id, self.end_id, self.mask_id = chosen.start_id, chosen.end_id, chosen.mask_id

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the files that decide the ids."""
        names = (*CONFIG_FILES, GENERATION_FILE)
        others = (self.vocab_file.with_name(name) for name in names)
        return (self.vocab_file, *(path for path in others if path.is_file()))

    @functools.cached_property
    def fingerprint(self) -> str:
        """Return the SHA-256, in hex, of the files."""
        digest = hashlib.sha256()
        for path in self.files:
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    @abc.abstractmethod
    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of a text alone."""

    @abc.abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens, and ids that are no tokens, are left out."""

    def encode(self, text: str, max_length: int | None = None) -> list[int]:
        """Return the ids of `encode_source`."""
        return self.encode_source(text, max_length).ids

    def encode_batch(self, texts: Iterable[str], max_length: int | None = None) -> list[list[int]]:
        """Return the ids of each text."""
        return [self.encode(text, max_length) for text in texts]

    def encode_source(self, text: str, max_length: int | None = None, masked: bool = False) -> Encoded:
        """Return the ids of a text in its frame, and whether it was cut; a mask in a text always is one."""
        return self._framed(text, self.frame, max_length)

    def encode_target(self, text: str, max_length: int | None = None) -> Encoded:
        """Return the ids of a title, from `start_id` to `end_id`."""
        return self._framed(text, Frame((self.start_id,), (self.end_id,)), max_length)

    def _framed(self, text: str, frame: Frame, max_length: int | None) -> Encoded:
        ids = self.encode_prefix(text)
        room = len(ids) if max_length is None else max_length - frame.size
        if room < 0:
            raise OptionError(f"max_length must be at least {frame.size}, for the special tokens, got {max_length}")
        return Encoded([*frame.leading, *ids[:room], *frame.trailing], len(ids) > room)

    def _is_text(self, index: int) -> bool:
        return 0 <= index < self.vocab_size and index not in self._special


class SentencePieceTokenizer(FolderTokenizer):
    """T5's and mT5's: the pieces of spiece.model, `</s>` after a text, T5's `<extra_id_N>` after all pieces.

    Args:
        folder: has spiece.model.
        extra_ids: how many of the latter, if the tokenizer's config does not say.

    Raises DataError for a file that sentencepiece cannot read, PegasusError if it is not installed.
    """

    def __init__(self, folder: Path, extra_ids: int = T5_EXTRA_IDS) -> None:
        path = folder / SENTENCEPIECE_FILE
        self._pieces = load_pieces(path)
        settings = read_settings(folder)
        extra_ids = settings.get("extra_ids", extra_ids)
        if type(extra_ids) is not int or not 0 <= extra_ids <= 2**16:
            raise DataError(f"extra_ids in {folder / 'tokenizer_config.json'} must be a number, got {extra_ids!r}")
        size = self._pieces.get_piece_size()
        # The last of them is the first after the pieces.
        ids_of_special = {f"<extra_id_{number}>": size + extra_ids - 1 - number for number in range(extra_ids)}
        ids = {}
        for role, name in special_names(settings, T5_NAMES).items():
            index = ids_of_special.get(name, self._pieces.piece_to_id(name))
            if self._pieces.id_to_piece(index) == name if index < size else True:
                ids[role] = ids_of_special[name] = index
            elif role != "mask":
                raise DataError(f"{path} lacks the special token {name}")
        self._ids_of_special = ids_of_special
        self._split = re.compile(f"({'|'.join(map(re.escape, sorted(ids_of_special, key=len, reverse=True)))})")
        super().__init__(
            path,
            ids,
            {index: name for name, index in ids_of_special.items()},
            Frame((), (ids["eos"],)),
            size + extra_ids,
        )

    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of a text alone."""
        # Half a surrogate pair, which JSON can spell, is no text to sentencepiece; NEL ends a line to transformers.
        parts = self._split.split(text.encode("utf-8", "replace").decode("utf-8").replace("\x85", " "))
        ids: list[int] = []
        for part in parts:
            special = self._ids_of_special.get(part)
            ids += self._pieces.encode(part) if special is None else [special]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens, and ids that are no tokens, are left out."""
        text: str = self._pieces.decode([int(index) for index in ids if self._is_text(index)])
        return text


class FastTokenizer(FolderTokenizer):
    """A tokenizer of the package `tokenizers`, with the frame that it gives an empty text.

    Args:
        vocab_file: what it was made from.
        tokenizer: `tokenizers.Tokenizer`.
        names: special tokens by their roles.
    """

    def __init__(self, vocab_file: Path, tokenizer: Any, names: Mapping[str, str]) -> None:
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._is_wordpiece = type(tokenizer.model).__name__ == "WordPiece"
        ids = {role: tokenizer.token_to_id(name) for role, name in names.items()}
        missing = [names[role] for role, index in ids.items() if index is None and role != "mask"]
        if missing:
            raise DataError(f"{vocab_file} lacks the special tokens {' '.join(missing)}")
        ids = {role: index for role, index in ids.items() if index is not None}
        special = {
            index: token.content for index, token in tokenizer.get_added_tokens_decoder().items() if token.special
        }
        special |= {index: names[role] for role, index in ids.items()}
        around = tokenizer.encode("").ids
        leading = 1 if len(around) > 1 else 0
        super().__init__(
            vocab_file,
            ids,
            special,
            Frame(tuple(around[:leading]), tuple(around[leading:])),
            tokenizer.get_vocab_size(),
        )

    @classmethod
    def of_vocabulary(cls, folder: Path) -> "FastTokenizer":
        """Return BERT's tokenizer for the vocab.txt of a folder, as transformers makes it.

        Raises DataError for a vocabulary that cannot be read or lacks a special token.
        """
        tokenizers, path, settings = _tokenizers(), folder / VOCABULARY_FILE, read_settings(folder)
        names = special_names(settings, BERT_NAMES)
        vocabulary = {token: index for index, token in enumerate(read_vocabulary(path))}
        if missing := [name for role, name in names.items() if name not in vocabulary and role != "mask"]:
            raise DataError(f"{path} lacks the special tokens {' '.join(missing)}")
        tokenizer = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocabulary, unk_token=names["unk"]))
        tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(
            clean_text=True,
            handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
            strip_accents=settings.get("strip_accents"),
            lowercase=settings.get("do_lower_case", True),
        )
        tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
        tokenizer.add_special_tokens([name for name in names.values() if name in vocabulary])
        tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
            single=f"{names['cls']} $A {names['sep']}",
            special_tokens=[(names[role], vocabulary[names[role]]) for role in ("cls", "sep")],
        )
        return cls(path, tokenizer, names)

    @classmethod
    def of_file(cls, folder: Path) -> "FastTokenizer":
        """Return the tokenizer of a tokenizer.json. Raises DataError for a file that is none."""
        tokenizers, path = _tokenizers(), folder / TOKENIZER_FILE
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the package raises nothing narrower
            raise DataError(f"{path} is not a tokenizer that tokenizers can read: {error}") from error
        usual = BERT_NAMES if tokenizer.token_to_id(BERT_NAMES["sep"]) is not None else T5_NAMES
        return cls(path, tokenizer, special_names(read_settings(folder), usual))

    def encode_prefix(self, text: str) -> list[int]:
        """Return the ids of a text alone."""
        text = text.encode("utf-8", "replace").decode("utf-8")
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of token ids; special tokens, and ids that are no tokens, are left out.

        WordPiece's tokens are joined as those of T5-PEGASUS: Chinese is written without spaces.
        """
        chosen = [int(index) for index in ids if self._is_text(index)]
        if self._is_wordpiece:
            return join_tokens(self._tokenizer.id_to_token(index) for index in chosen)
        text: str = self._tokenizer.decode(chosen)
        return text


def load_pieces(path: Path) -> Any:
    """Return sentencepiece's processor for a vocabulary of its own, such as T5's or mT5's spiece.model.

    Raises DataError for another file, PegasusError if sentencepiece is not installed.
    """
    sentencepiece = _package("sentencepiece", "sentencepiece's vocabularies")
    if not path.is_file():
        raise DataError(f"cannot read {path}: no such file; T5's and mT5's vocabulary is called {SENTENCEPIECE_FILE}")
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path} is not a vocabulary of sentencepiece, such as mT5's {SENTENCEPIECE_FILE}") from error


def _tokenizers() -> ModuleType:
    return _package("tokenizers", "WordPiece's vocabularies and tokenizer.json")


def _package(name: str, what: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise PegasusError(f"reading {what} needs {name}: install it with `pip install {name}`") from error
