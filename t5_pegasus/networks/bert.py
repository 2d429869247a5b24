"""A BERT that turns texts into vectors, read by bert4keras: Google's format, such as chinese_L-12_H-768_A-12."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ..errors import CheckpointError, DataError, OptionError
from ..files import read_json
from .backend import bert4keras, keras

CONFIG, CHECKPOINT, VOCABULARY = "bert_config.json", "bert_model.ckpt", "vocab.txt"
_BATCH = 64


class BertEncoder:
    """Gives each token of a text the vector of one of BERT's layers.

    Args:
        folder: holds bert_config.json, bert_model.ckpt (the prefix of several files) and vocab.txt.
        layer: whose output is taken, from 1; None is two thirds of the way up: 8 of 12, as bert-score has it for
            bert-base-chinese.

    Attributes:
        layer: as given, or the default.

    Raises DataError or CheckpointError for a folder that lacks something, OptionError for a layer that there is not.
    """

    def __init__(self, folder: str | Path, layer: int | None = None) -> None:
        folder = Path(folder)
        try:
            config = read_json(folder / CONFIG)
            layers, self._longest = int(config["num_hidden_layers"]), int(config["max_position_embeddings"])
        except FileNotFoundError as error:
            raise DataError(f"cannot read {folder / CONFIG}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise DataError(f"{folder / CONFIG} is not the config of a BERT: {error}") from error
        for name in (f"{CHECKPOINT}.index", VOCABULARY):
            if not (folder / name).is_file():
                raise CheckpointError(f"no {name} in {folder}")
        self.layer = max(1, round(layers * 2 / 3)) if layer is None else layer
        if not 1 <= self.layer <= layers:
            raise OptionError(f"encoder_layer must be from 1 to {layers}, got {layer}")
        self._tokenizer = bert4keras.tokenizers.Tokenizer(str(folder / VOCABULARY), do_lower_case=True)
        bert = bert4keras.models.build_transformer_model(str(folder / CONFIG), str(folder / CHECKPOINT), model="bert")
        output = bert.get_layer(f"Transformer-{self.layer - 1}-FeedForward-Norm").output
        self._model = keras.Model(bert.inputs, output)

    def encode(self, texts: Sequence[str]) -> list[np.ndarray]:
        """Return for each text the vectors of its tokens, [CLS] first and [SEP] last, as float32 [tokens, size].

        Vectors have length 1. A text longer than BERT reads is cut.
        """
        rows = [self._tokenizer.encode(text.strip(), maxlen=self._longest)[0] for text in texts]
        order = sorted(range(len(rows)), key=lambda index: len(rows[index]))
        vectors: list[np.ndarray] = [np.zeros((0, 0), np.float32)] * len(rows)
        for start in range(0, len(order), _BATCH):
            batch = order[start : start + _BATCH]
            ids = np.zeros((len(batch), max(len(rows[index]) for index in batch)), np.int32)
            for place, index in enumerate(batch):
                ids[place, : len(rows[index])] = rows[index]
            found = np.asarray(self._model.predict([ids, np.zeros_like(ids)], verbose=0))
            for place, index in enumerate(batch):
                own = found[place, : len(rows[index])]
                vectors[index] = own / np.maximum(np.linalg.norm(own, axis=-1, keepdims=True), 1e-12)
        return vectors
