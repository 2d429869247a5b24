"""What is measured after each epoch: the loss of the validation pairs, and scores and lengths of generated titles."""

import sys
import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..data.examples import Example
from ..decoding.inputs import budget_batches, pad
from ..decoding.options import DataConfig
from ..metrics import score, score_names
from ..networks.backend import tf
from ..text.protocol import Tokenizer
from ..title import AutoTitle
from .options import TrainingConfig
from .pairs import PairSource, encode_pairs
from .state import Row

# Logits that exist at once: 256 MB in float32.
_LOGITS_AT_ONCE = 2**26


def figure_names(language: str) -> tuple[str, ...]:
    """Return the names of the figures that `Validation` measures, in the order they are shown."""
    return ("eval_loss", *score_names(language), "gen_len", "eval_runtime", "eval_samples_per_second")


class Validation:
    """Measures a model on validation pairs.

    Args:
        t5: a model that gives logits (`build_model(..., with_lm="linear")`).
        title: generates with that model.
        tokenizer: of the model's vocabulary.
        config, data: options.
    """

    def __init__(
        self, t5: Any, title: AutoTitle, tokenizer: Tokenizer, config: TrainingConfig, data: DataConfig
    ) -> None:
        self._model, self._rows = t5.model, int(t5.model.output_shape[-1])
        self._title, self._tokenizer, self._config, self._data = title, tokenizer, config, data
        self._pairs: PairSource | None = None
        ids = tf.TensorSpec((None, None), tf.int32)
        self._summed_loss = tf.function(self._loss_of_batch, input_signature=(ids, ids))

    def __call__(self, valid: Sequence[Example]) -> Row:
        """Return the figures of `figure_names`, of at most `max_eval_samples` pairs, the same at each call.

        `eval_loss` is the mean cross entropy of target tokens in nats, without label smoothing; `gen_len` the mean
        number of generated tokens, the end token among them; `eval_runtime` is in seconds.
        """
        chosen, start = valid[: self._config.max_eval_samples], time.perf_counter()
        loss = self._loss(chosen)
        found = self._title.generate_n_best(
            [example.content for example in chosen],
            num_beams=self._config.eval_num_beams,
            max_new_tokens=self._data.max_target_length,
            max_source_length=self._data.max_source_length,
            source_prefix=self._data.source_prefix,
            source_suffix=self._data.source_suffix,
            progress=sys.stderr.isatty(),
        )
        titles = [best[0] for best in found]
        scores = score([title.text for title in titles], [example.title for example in chosen], self._config.language)
        seconds = time.perf_counter() - start
        return {
            "eval_loss": loss,
            **scores,
            "gen_len": float(np.mean([len(title.ids) for title in titles])),
            "eval_runtime": seconds,
            "eval_samples_per_second": len(chosen) / seconds,
        }

    def _loss(self, chosen: Sequence[Example]) -> float:
        """Return the mean loss over all target tokens, the start tokens left out."""
        if self._pairs is None:
            self._pairs = encode_pairs(self._tokenizer, chosen, self._data, kind="validation")
        pairs, lengths = self._pairs, self._pairs.lengths
        at_once = max(1, _LOGITS_AT_ONCE // self._rows)  # target tokens
        summed = 0.0
        for targets_fit in budget_batches(lengths[:, 1].tolist(), at_once):
            size = self._config.per_device_train_batch_size
            for first in range(0, len(targets_fit), size):
                rows = [pairs[row] for row in targets_fit[first : first + size].tolist()]
                sources, targets = (tf.constant(pad(each)) for each in zip(*rows, strict=True))
                summed += float(self._summed_loss(sources, targets))
        return summed / float((lengths[:, 1] - 1).sum())

    def _loss_of_batch(self, sources: tf.Tensor, targets: tf.Tensor) -> tf.Tensor:
        """Return the summed cross entropy of a batch: sources int32 [rows, source_len], targets [rows, target_len]."""
        logits = tf.cast(self._model([sources, targets[:, :-1]], training=False), tf.float32)
        labels = targets[:, 1:]
        losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)  # [rows, target_len - 1]
        return tf.reduce_sum(tf.where(tf.not_equal(labels, 0), losses, 0.0))
