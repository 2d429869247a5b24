"""The weights of mT5, under the names and with the vocabulary of T5-PEGASUS.

mT5 has the network of T5-PEGASUS but reads sentencepiece's pieces, not words. The official model was started like this:
a word that is a piece takes that piece's rows of embedding and head, any other word the means of its pieces' rows
(bert4keras's `keep_tokens` and `compound_tokens`); everything else is copied.

Two differences from mT5 remain and are left to training: the gelu, exact here and a tanh approximation there (less than
0.001 off), and the position bias in cross-attention, which mT5 lacks (`"cross_position_bias": false` in config.json
leaves it out).
"""

import dataclasses
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError
from ..text.subwords import load_pieces
from ..text.tokenizer import CLS, PAD, SEP, UNK, PegasusTokenizer
from ..text.words import SPECIAL_TOKENS
from .checkpoints import assign_weights, read_weights
from .t5 import PegasusT5
from .t5_description import EMBEDDING, HEAD

# mT5's pieces for our special tokens; the first that exists is taken. Its decoder starts with <pad>, ours with [CLS].
_SPECIAL_PIECES = {
    PAD: ("<pad>",),
    UNK: ("<unk>",),
    CLS: ("<pad>",),
    SEP: ("</s>",),
    "[MASK]": ("<extra_id_0>", "▁<extra_id_0>"),
}
_WORD_START = "▁"


@dataclasses.dataclass(frozen=True)
class Report:
    """Where the rows of the new vocabulary come from: one piece, the mean of several, or random numbers."""

    kept: int
    compound: int
    random: int

    def __str__(self) -> str:
        """Return the numbers as a line for the user."""
        return f"{self.kept} tokens kept, {self.compound} begun as the mean of their pieces, {self.random} random"


def load_mt5(
    t5: PegasusT5, weights: str | Path, spm_file: str | Path, tokenizer: PegasusTokenizer, seed: int = 0
) -> Report:
    """Set the weights of a network from those of mT5 (1.1) of the same size, with the vocabulary of `tokenizer`.

    Args:
        t5: the network, with as many tokens as `tokenizer`.
        weights: a TensorFlow checkpoint with T5's names, or a safetensors file with these or Hugging Face's.
        spm_file: mT5's vocabulary, `spiece.model`.
        tokenizer: has the new vocabulary.
        seed: of the random rows, which have each column's mean and deviation.

    Raises CheckpointError if the weights cannot be read, or do not fit the network or the vocabulary; DataError for a
    file that sentencepiece cannot read; PegasusError if sentencepiece is not installed. The network is then as it was.
    """
    if tokenizer.vocab_size != t5.config.vocab_size:
        raise CheckpointError(
            f"{tokenizer.vocab_file} has {tokenizer.vocab_size} tokens but vocab_size of the network is "
            f"{t5.config.vocab_size}; set vocab_size in config.json to the former"
        )
    pieces = load_pieces(Path(spm_file))
    rows = map_vocabulary(tokenizer.tokens, pieces)
    # A file may be in half precision, in which the means would be rounded.
    values = {name: value.astype(np.float32, copy=False) for name, value in read_weights(t5, weights).items()}
    missing = [name for name in (EMBEDDING, HEAD) if name not in values]
    if missing:
        raise CheckpointError(
            f"{weights} is not of mT5 or T5 1.1: it lacks {' and '.join(missing)} (lm_head.weight is missing where a "
            "library has tied it to the embedding: save the original weights)"
        )
    embedding, head = values[EMBEDDING], values[HEAD].T
    for name, matrix in ((EMBEDDING, embedding), (HEAD, head)):
        # mT5 has a few more rows than pieces, to reach a round number.
        if len(matrix) < pieces.get_piece_size():
            raise CheckpointError(
                f"{weights} has {len(matrix)} rows in {name} but {spm_file} has {pieces.get_piece_size()} pieces; use "
                "the spiece.model that belongs to these weights"
            )
    random = np.random.default_rng(seed)
    values[EMBEDDING] = map_rows(embedding[: pieces.get_piece_size()], rows, random)
    # bert4keras multiplies the decoder's output by hidden_size ** -0.5; mT5 does not.
    values[HEAD] = map_rows(head[: pieces.get_piece_size()], rows, random).T * t5.config.hidden_size**0.5
    assign_weights(t5, values, weights)
    counts = [min(len(ids), 2) for ids in rows]
    return Report(kept=counts.count(1), compound=counts.count(2), random=counts.count(0))


def map_vocabulary(tokens: Sequence[str], pieces: Any) -> list[tuple[int, ...]]:
    """Return for each token the ids of its pieces: one, several, or none.

    A Chinese word, a sign or a `##` piece is preferably the piece of the same text, which continues a word; an English
    word or a number is preferably the piece with ▁, which begins one. Any other token is cut by sentencepiece; a single
    ▁ and what sentencepiece does not know are left out.

    Args:
        tokens: of a vocabulary like BERT's.
        pieces: `sentencepiece.SentencePieceProcessor`.
    """
    ids = {pieces.id_to_piece(index): index for index in range(pieces.get_piece_size())}
    return [_piece_ids(token, pieces, ids) for token in tokens]


def map_rows(matrix: np.ndarray, rows: Sequence[tuple[int, ...]], random: np.random.Generator) -> np.ndarray:
    """Return float32 [rows, width]: the mean of the given rows of `matrix` [old, width], random where none is given."""
    matrix = matrix.astype(np.float32, copy=False)
    mean, spread = matrix.mean(axis=0), matrix.std(axis=0)
    mapped = [matrix[list(ids)].mean(axis=0) if ids else random.normal(mean, spread) for ids in rows]
    return np.array(mapped, np.float32)


def _piece_ids(token: str, pieces: Any, ids: dict[str, int]) -> tuple[int, ...]:
    if not token or token in SPECIAL_TOKENS:
        return next(((ids[name],) for name in _SPECIAL_PIECES.get(token, ()) if name in ids), ())
    follows_on = token.startswith("##") and len(token) > 2
    text = token[2:] if follows_on else token
    begins_word = not follows_on and text[0].isalnum() and unicodedata.east_asian_width(text[0]) not in "WF"
    names = (_WORD_START + text, text) if begins_word else (text, _WORD_START + text)
    for name in names:
        if name in ids and not _is_no_text(pieces, ids[name]):
            return (ids[name],)
    return tuple(
        index for index in pieces.encode(text) if not _is_no_text(pieces, index) and index != ids.get(_WORD_START)
    )


def _is_no_text(pieces: Any, index: int) -> bool:
    return bool(pieces.is_control(index) or pieces.is_unknown(index))
