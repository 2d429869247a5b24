"""Decoding as bert4keras does it, on the plain model, with the whole prefix computed anew for each token.

Slow and obviously right: faster engines are tested against it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..config import GenerationConfig
from ..decoding.inputs import Source, make_inputs
from ..decoding.logits import suppress
from ..decoding.search import NOTHING, Candidate, check_prefix
from ..errors import OptionError
from ..networks.backend import bert4keras, keras, tf


class ReferenceDecoder(bert4keras.snippets.AutoRegressiveDecoder):  # type: ignore[misc]
    """bert4keras's decoder over a T5 model: its `beam_search` and `random_sample` work, and `search` is ours.

    Args:
        t5: any bert4keras T5 object, ours or stock, giving probabilities or logits.
        start_id, end_id: ids of the tokens that a title begins with and ends at.
        maxlen: longest title of bert4keras's own searches, in generated tokens.
        unused_ids: ids of the model that are no tokens; `search` never writes them.
    """

    def __init__(self, t5: Any, start_id: int, end_id: int, maxlen: int = 32, unused_ids: Sequence[int] = ()) -> None:
        super().__init__(start_id=start_id, end_id=end_id, maxlen=maxlen)
        self.t5, self.unused_ids = t5, unused_ids
        gives_logits = t5.decoder.layers[-1].activation is not keras.activations.softmax
        self.encoder = tf.function(lambda ids: t5.encoder(ids, training=False), reduce_retracing=True)

        @tf.function(reduce_retracing=True)  # type: ignore[untyped-decorator]
        def last_probabilities(context: tf.Tensor, output_ids: tf.Tensor) -> tf.Tensor:
            last = tf.cast(t5.decoder([context, output_ids], training=False)[:, -1], tf.float32)
            return tf.nn.softmax(last) if gives_logits else last

        self.last_probabilities = last_probabilities

    def encode(self, source: Source) -> np.ndarray:
        """Return the context of one source, float [source_len, hidden], joined if it is read in windows."""
        if source.adapter is not None:
            raise OptionError(
                f"engine reference takes no adapters; take keras or onnx, or merge it, got {source.adapter}"
            )
        ids, joined, *_ = make_inputs([source])
        contexts = self.encoder(tf.constant(ids)).numpy()  # [windows, window_len, hidden]
        context: np.ndarray = contexts.reshape(-1, contexts.shape[-1])[joined[0]]
        return context

    @bert4keras.snippets.AutoRegressiveDecoder.wraps(default_rtype="probas")  # type: ignore[untyped-decorator]
    def predict(self, inputs: list[np.ndarray], output_ids: np.ndarray, states: Any) -> np.ndarray:
        """Return the next token's probabilities, float32 [beams, vocab_size], for prefixes int [beams, length]."""
        result: np.ndarray = self.last_probabilities(tf.constant(inputs[0]), tf.constant(output_ids, tf.int32)).numpy()
        return result

    def search(self, source: Source, config: GenerationConfig, prefix: Sequence[int] = ()) -> list[Candidate]:
        """Return the best titles of one source by beam search, `config.num_return_sequences` at most, best first.

        It is bert4keras's beam search with three differences: a beam that ends is kept and competes with all others
        (bert4keras drops it unless it is the best at that moment); scores can be normalised by length; tokens can be
        forbidden or penalised. As in bert4keras, a beam that ends is not replaced by another.

        Raises OptionError for sampling and groups of beams, which bert4keras does not have.
        """
        if config.do_sample or config.num_beam_groups > 1 or config.refills or config.forced_eos_token_id is not None:
            raise OptionError(
                "engine reference has bert4keras's beam search only; take keras or onnx for do_sample, "
                "num_beam_groups, refill_beams and forced_eos_token_id"
            )
        check_prefix(prefix, config)
        config = suppress(config, self.unused_ids)
        context = self.encode(source)
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
        sources: Sequence[Source],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Candidate], None]] | None = None,
    ) -> list[list[Candidate]]:
        """Return the best titles of each source, one source after the other; see `search`.

        The arguments are those of `decoding.search.Decoder`; `on_title` is called once a source, with its best title.
        """
        found = []
        for index, source in enumerate(sources):
            wanted = is_wanted is None or is_wanted(index)
            found.append(self.search(source, config, prefix) if wanted else [NOTHING])
            report = (on_title or {}).get(index)
            if wanted and report is not None:
                report(found[-1][0])
        return found

    def stream(self, source: Source, config: GenerationConfig, prefix: Sequence[int] = ()) -> Iterator[Candidate]:
        """Yield the best title, once it is found."""
        yield self.search(source, config, prefix)[0]

    def _constrain(self, log_probs: np.ndarray, prefixes: np.ndarray, config: GenerationConfig) -> None:
        """Change log-probabilities float [beams, vocab_size] in place; prefixes int [beams, 1 + generated tokens]."""
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
