"""Decoding as bert4keras does it, on the plain model with the whole prefix computed anew for each token.

Slow and obviously right: what faster engines are held against.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import GenerationConfig
from ..decoding.inputs import divide
from ..decoding.search import NOTHING, Candidate, check_prefix
from ..errors import OptionError
from ..networks.backend import bert4keras, keras, tf


class ReferenceDecoder(bert4keras.snippets.AutoRegressiveDecoder):  # type: ignore[misc]
    """bert4keras's decoder over a T5 model: its `beam_search` and `random_sample` work, and `search` is ours.

    Args:
        t5: any bert4keras T5 object, ours or stock, giving probabilities or logits.
        start_id, end_id: ids of [CLS] and [SEP].
        maxlen: longest title of bert4keras's own searches, in generated tokens.
    """

    def __init__(self, t5: Any, start_id: int, end_id: int, maxlen: int = 32) -> None:
        super().__init__(start_id=start_id, end_id=end_id, maxlen=maxlen)
        self.t5 = t5
        gives_logits = t5.decoder.layers[-1].activation is not keras.activations.softmax
        self.encoder = tf.function(lambda ids: t5.encoder(ids, training=False), reduce_retracing=True)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def last_probabilities(context: tf.Tensor, output_ids: tf.Tensor) -> tf.Tensor:
            last = tf.cast(t5.decoder([context, output_ids], training=False)[:, -1], tf.float32)
            return tf.nn.softmax(last) if gives_logits else last

        self.last_probabilities = last_probabilities

    def encode(self, source_ids: list[int], window: int | None = None) -> np.ndarray:
        """Return the context of one source, float [source_len, hidden], joined if it is read in windows."""
        ids, joined = divide([source_ids], window)
        contexts = self.encoder(tf.constant(ids)).numpy()
        context: np.ndarray = contexts.reshape(-1, contexts.shape[-1])[joined[0]]
        return context

    @bert4keras.snippets.AutoRegressiveDecoder.wraps(default_rtype="probas")  # type: ignore[untyped-decorator]
    def predict(self, inputs: list[np.ndarray], output_ids: np.ndarray, states: Any) -> np.ndarray:
        """Return the next token's probabilities, float32 [beams, vocab_size], for prefixes int [beams, length]."""
        result: np.ndarray = self.last_probabilities(tf.constant(inputs[0]), tf.constant(output_ids, tf.int32)).numpy()
        return result

    def search(
        self, source_ids: list[int], config: GenerationConfig, prefix: Sequence[int] = (), window: int | None = None
    ) -> list[Candidate]:
        """Return the best titles of one source by beam search, `config.num_return_sequences` at most, best first.

        It is bert4keras's beam search, with three differences: a beam that ends is kept and competes with all others
        (bert4keras drops it unless it is the best at that moment); scores can be normalised by length; tokens can be
        forbidden or penalised. As in bert4keras a beam that ends is not replaced by another.

        Raises OptionError for sampling and groups of beams, which bert4keras does not have.
        """
        if config.do_sample or config.num_beam_groups > 1:
            raise OptionError(
                "engine reference has beam search only; take keras or onnx for do_sample, num_beam_groups"
            )
        check_prefix(prefix, config)
        context = self.encode(source_ids, window)
        live = self.first_output_ids  # int [beams, 1 + generated tokens]
        sums = np.zeros(1)  # of log-probabilities, [beams]
        finished: list[Candidate] = []
        width = config.num_beams
        for length in range(1, config.max_new_tokens + 1):
            inputs = [np.repeat(context[None], len(live), axis=0)]
            log_probs, _ = self.predict(inputs, live, None, rtype="logits")
            log_probs = log_probs.astype(np.float64)
            if length <= len(prefix):
                log_probs[:, np.arange(log_probs.shape[1]) != prefix[length - 1]] = -np.inf
            else:
                self._constrain(log_probs, live, config)
            totals = sums[:, None] + log_probs
            best = np.argsort(-totals, axis=None, kind="stable")[:width]
            best = best[np.isfinite(totals.ravel()[best])]
            rows, tokens = np.unravel_index(best, totals.shape)
            live = np.concatenate([live[rows], tokens[:, None]], axis=1)
            sums = totals[rows, tokens]
            ended = tokens == self.end_id
            finished += _candidates(live[ended], sums[ended], length, config)
            live, sums, width = live[~ended], sums[~ended], width - int(ended.sum())
            if not len(live) or (config.early_stopping and len(finished) >= config.num_return_sequences):
                break
        else:
            finished += _candidates(live, sums, config.max_new_tokens, config)
        return sorted(finished, key=lambda candidate: -candidate.score)[: config.num_return_sequences] or [NOTHING]

    def search_batch(
        self,
        sources: list[list[int]],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        window: int | None = None,
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Candidate], None]] | None = None,
    ) -> list[list[Candidate]]:
        """Return the best titles of each source, one after the other; see `search` and `BatchDecoder.search_batch`.

        Of a source's titles it tells the best, once it is found.
        """
        found = []
        for number, ids in enumerate(sources):
            wanted = is_wanted is None or is_wanted(number)
            found.append(self.search(ids, config, prefix, window) if wanted else [NOTHING])
            tell = (on_title or {}).get(number)
            if wanted and tell is not None:
                tell(found[-1][0])
        return found

    def stream(
        self, source: list[int], config: GenerationConfig, prefix: Sequence[int] = (), window: int | None = None
    ) -> Iterator[Candidate]:
        """Yield the best title, once it is found."""
        yield self.search(source, config, prefix, window)[0]

    def _constrain(self, log_probs: np.ndarray, prefixes: np.ndarray, config: GenerationConfig) -> None:
        """Change log-probabilities in place: float [beams, vocab_size], prefixes int [beams, 1 + generated]."""
        for row, prefix in zip(log_probs, prefixes[:, 1:].tolist(), strict=True):
            row[list(set(prefix))] *= config.repetition_penalty
            row[list(config.suppress_tokens)] = -np.inf
            if len(prefix) < config.min_new_tokens:
                row[self.end_id] = -np.inf
            size = config.no_repeat_ngram_size
            tail = prefix[len(prefix) - size + 1 :]
            for start in range(len(prefix) - size + 1 if size else 0):
                if prefix[start : start + size - 1] == tail:
                    row[prefix[start + size - 1]] = -np.inf


def _candidates(rows: np.ndarray, sums: np.ndarray, length: int, config: GenerationConfig) -> list[Candidate]:
    scores = sums / length**config.length_penalty
    return [Candidate(tuple(row[1:]), score) for row, score in zip(rows.tolist(), scores.tolist(), strict=True)]
