"""The tokenizer of a model directory, chosen by its files.

A row in `TOKENIZERS` for each kind.
"""

from collections.abc import Callable
from pathlib import Path

from ..config import T5_PEGASUS, ModelConfig
from ..errors import OptionError
from ..locations import VOCABULARY_FILES
from .characters import is_cjk
from .protocol import Tokenizer
from .special_tokens import CONFIG_FILES
from .subwords import (
    SENTENCEPIECE_FILE,
    T5_EXTRA_IDS,
    TOKENIZER_FILE,
    VOCABULARY_FILE,
    FastTokenizer,
    SentencePieceTokenizer,
)
from .tokenizer import PegasusTokenizer, read_vocabulary

_SHARE_OF_WORDS = 0.01  # of the tokens of a vocabulary that jieba's words are to be looked up in; BERT's has none


def _words(folder: Path, user_dict: str | Path | None) -> Tokenizer:
    return PegasusTokenizer(folder / VOCABULARY_FILE, user_dict)


def _sentencepiece(folder: Path, user_dict: str | Path | None) -> Tokenizer:
    is_t5 = ModelConfig.load(folder).model_type == "t5"  # mT5's vocabulary has its own already
    return SentencePieceTokenizer(folder, T5_EXTRA_IDS if is_t5 else 0)


def _wordpiece(folder: Path, user_dict: str | Path | None) -> Tokenizer:
    return FastTokenizer.of_vocabulary(folder)


def _file(folder: Path, user_dict: str | Path | None) -> Tokenizer:
    return FastTokenizer.of_file(folder)


WORDS = "words"
TOKENIZERS: dict[str, Callable[[Path, str | Path | None], Tokenizer]] = {
    WORDS: _words,
    "sentencepiece": _sentencepiece,
    "wordpiece": _wordpiece,
    "file": _file,
}


def tokenizer_kind(model_dir: str | Path) -> str:
    """Return which row of TOKENIZERS reads a model directory.

    A vocab.txt is of jieba's words where the model is T5-PEGASUS, also one in Hugging Face's layout, which has words of
    several Chinese characters as tokens; else it is BERT's.
    """
    folder = Path(model_dir)
    if (folder / SENTENCEPIECE_FILE).is_file():
        return "sentencepiece"
    if not (folder / VOCABULARY_FILE).is_file() and (folder / TOKENIZER_FILE).is_file():
        return "file"
    if ModelConfig.load(folder).model_type == T5_PEGASUS:
        return WORDS
    tokens = read_vocabulary(folder / VOCABULARY_FILE)
    words = sum(len(token) > 1 and all(map(is_cjk, token)) for token in tokens)
    return WORDS if words > _SHARE_OF_WORDS * len(tokens) else "wordpiece"


def tokenizer_files(model_dir: str | Path) -> tuple[str, ...]:
    """Return the names of the files of a model directory that decide a text's ids, the vocabulary first."""
    folder = Path(model_dir)
    vocabulary = next((name for name in VOCABULARY_FILES if (folder / name).is_file()), VOCABULARY_FILE)
    return (vocabulary, *(name for name in CONFIG_FILES if (folder / name).is_file()))


def load_tokenizer(model_dir: str | Path, user_dict: str | Path | None = None) -> Tokenizer:
    """Return the tokenizer of a model directory.

    Args:
        model_dir: has one of `locations.VOCABULARY_FILES`.
        user_dict: words that jieba keeps whole, for a vocabulary of words.

    Raises DataError for a file that cannot be read, OptionError for a user dictionary that there is no use for,
    PegasusError if a package that the files take is not installed.
    """
    kind = tokenizer_kind(model_dir)
    if user_dict is not None and kind != WORDS:
        raise OptionError(f"user_dict is for vocabularies of words, which {model_dir} has not, got {user_dict}")
    return TOKENIZERS[kind](Path(model_dir), user_dict)
