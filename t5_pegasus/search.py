"""Finding titles by steps of an engine: beam search over a batch of sources, in numpy.

An engine does the heavy work of a step next to its weights and hands back a few candidates a row, so that one search
serves every engine. It is anything with the two methods of `Engine`.
"""

from typing import Any, NamedTuple, Protocol

import numpy as np

from .config import GenerationConfig
from .logits import forbidden_tokens


class Candidate(NamedTuple):
    """A title in token ids: without [CLS], with [SEP] if it came to an end; and its score (see GenerationConfig)."""

    ids: tuple[int, ...]
    score: float


class Engine(Protocol):
    """Encoder and cached decoder step of a model. A state belongs to the engine; a search only hands it on."""

    def start(self, sources: list[list[int]]) -> Any:
        """Encode sources (token ids of any length) and return the state before the first token, a beam a source."""

    def step(
        self, state: Any, tokens: np.ndarray, parents: np.ndarray, sources: np.ndarray, forbidden: np.ndarray, top: int
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Advance every beam by one token.

        Args:
            state: of the step before.
            tokens: int32 [sources, beams], the last token of each beam.
            parents: int32 [sources, beams], the row (source by source) that each beam had in the step before.
            sources: int32 [sources], the place that each source had in the step before.
            forbidden: int32 [pairs, 2], (row, token) pairs whose log-probability is -inf.
            top: candidates a row, or the whole vocabulary where that is less.

        Returns: the new state; tokens int [sources, beams, top] and log-probabilities float [sources, beams, top] of
            the candidates, best first.
        """


class _Source:
    """The beams of one source: prefixes, sums of log-probabilities, and the titles that have come to an end."""

    def __init__(self, index: int, config: GenerationConfig) -> None:
        self.index, self.config = index, config
        self.prefixes = np.empty((1, 0), np.int32)
        self.sums = np.zeros(1)
        self.parents = np.zeros(1, np.int64)
        self.finished: list[Candidate] = []

    def advance(self, tokens: np.ndarray, log_probs: np.ndarray, end_id: int) -> None:
        """Keep the best of the candidates: tokens int and log_probs float [beams, top]."""
        width = self.config.num_beams - len(self.finished)
        totals = self.sums[:, None] + log_probs
        best = np.argsort(-totals, axis=None, kind="stable")[:width]
        best = best[np.isfinite(totals.ravel()[best])]
        self.parents, places = np.unravel_index(best, totals.shape)
        chosen = tokens[self.parents, places]
        self.prefixes = np.concatenate([self.prefixes[self.parents], chosen[:, None]], axis=1)
        self.sums = totals[self.parents, places]
        ended = chosen == end_id
        self._finish(ended)
        self.prefixes, self.sums, self.parents = self.prefixes[~ended], self.sums[~ended], self.parents[~ended]

    def _finish(self, rows: np.ndarray) -> None:
        scores = self.sums[rows] / self.prefixes.shape[1] ** self.config.length_penalty
        self.finished += map(Candidate, map(tuple, self.prefixes[rows].tolist()), scores.tolist())

    def is_settled(self) -> bool:
        """Tell whether no live beam can still come among the titles to return."""
        if not len(self.sums):
            return True
        if len(self.finished) < self.config.num_return_sequences:
            return False
        # A sum only falls, and what it is divided by moves one way with the length: the best a beam can still reach
        # is its present sum, divided for the next length or for the longest.
        lengths = (self.prefixes.shape[1] + 1, self.config.max_new_tokens)
        bound = max(float(self.sums.max()) / length**self.config.length_penalty for length in lengths)
        worst = sorted(title.score for title in self.finished)[-self.config.num_return_sequences]
        return bool(worst >= bound)

    def titles(self) -> list[Candidate]:
        """Return the best titles, at least one, best first; beams that were stopped by the limit are titles too."""
        if self.prefixes.shape[1] == self.config.max_new_tokens:
            self._finish(np.ones(len(self.sums), bool))
        best = sorted(self.finished, key=lambda title: -title.score)[: self.config.num_return_sequences]
        return best or [Candidate((), -float("inf"))]


class BatchDecoder:
    """Searches for titles with an engine.

    Args:
        engine: runs the model.
        start_id, end_id: ids of [CLS] and [SEP].
    """

    def __init__(self, engine: Engine, start_id: int, end_id: int) -> None:
        self.engine, self.start_id, self.end_id = engine, start_id, end_id

    def search_batch(self, sources: list[list[int]], config: GenerationConfig) -> list[list[Candidate]]:
        """Return the best titles of each source, `config.num_return_sequences` at most, best first.

        At each step a source keeps the best continuations of its beams; a beam that ends is set aside and not replaced,
        so that one beam is greedy search. A source leaves the batch when no live beam can come out above its finished
        ones. It is the search of `reference.py`, for a batch.

        Args:
            sources: token ids of each source, of any length.
            config: options.
        """
        all_sources = [_Source(index, config) for index in range(len(sources))]
        state = self.engine.start(sources)
        live, width = all_sources, 1
        for _ in range(config.max_new_tokens):
            tokens, parents, places, forbidden = self._layout(live, width, config)
            width = tokens.shape[1]
            state, tokens, log_probs = self.engine.step(state, tokens, parents, places, forbidden, config.num_beams)
            for place, source in enumerate(live):
                beams = len(source.sums)
                source.index = place
                source.advance(tokens[place, :beams], log_probs[place, :beams].astype(np.float64), self.end_id)
            live = [source for source in live if not source.is_settled()]
            if not live:
                break
        return [source.titles() for source in all_sources]

    def _layout(
        self, live: list[_Source], previous_width: int, config: GenerationConfig
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Return what `Engine.step` takes: tokens, parents, sources, forbidden.

        Every source has as many rows as the one with most beams; the rows it does not need repeat its first one.
        """
        width = max(len(source.sums) for source in live)
        places = np.array([source.index for source in live], np.int32)
        tokens = np.full((len(live), width), self.start_id, np.int32)
        parents = np.repeat(places[:, None] * previous_width, width, axis=1)
        forbidden = []
        for place, source in enumerate(live):
            beams = len(source.sums)
            if source.prefixes.shape[1]:
                tokens[place, :beams] = source.prefixes[:, -1]
            parents[place, :beams] += source.parents
            pairs = forbidden_tokens(source.prefixes, self.end_id, config)
            forbidden.append(pairs + np.array([place * width, 0], np.int32))
        return tokens, parents, places, np.concatenate(forbidden)
