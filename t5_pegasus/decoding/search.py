"""Finding titles by steps of an engine: beam search and sampling over a batch of sources, in numpy.

An engine does the heavy work of a step next to its weights and hands back a few candidates a row, so that one search
serves every engine. It is anything with the two methods of `Engine`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..config import GenerationConfig
from ..errors import OptionError, PegasusError
from .logits import NO_EDITS, Edits, find_edits

_WHOLE_VOCABULARY = 2**31 - 1
_LEAVE_BELOW = 0.75  # share of a batch that must be left for the others to be let go


class Candidate(NamedTuple):
    """A title in token ids: without [CLS], with [SEP] if it came to an end; and its score (see GenerationConfig)."""

    ids: tuple[int, ...]
    score: float


NOTHING = Candidate((), -float("inf"))  # where every continuation is forbidden


class Engine(Protocol):
    """Encoder and cached decoder step of a model. A state belongs to the engine; a search only hands it on."""

    def start(self, sources: list[list[int]], window: int | None = None) -> Any:
        """Encode sources (token ids of any length) and return the state before the first token, a beam a source.

        With `window` the encoder reads so many tokens at a time (see `inputs.divide`).
        """

    def step(
        self, state: Any, tokens: np.ndarray, parents: np.ndarray, sources: np.ndarray, edits: Edits, top: int
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Advance every beam by one token.

        Args:
            state: of the step before; it may be used up.
            tokens: int32 [sources, beams], the last token of each beam.
            parents: int32 [sources, beams], the row (source by source) that each beam had in the step before.
            sources: int32 [sources], the place that each source had in the step before.
            edits: log-probabilities to change before the best are taken; its rows go source by source.
            top: candidates a row, or the whole vocabulary where that is less.

        Returns: the new state; tokens int [sources, beams, top] and log-probabilities float [sources, beams, top] of
            the candidates, best first.
        """


class _Source:
    """The unfinished titles (rows) of one source, and those that have come to an end.

    prefixes: int32 [rows, tokens]. sums: float [rows], of log-probabilities. parents: int [rows], the row of each in
    the step before. groups: int [rows]; rows of a group compete, `slots` int [groups] are how many it may keep.
    """

    def __init__(self, ids: list[int], config: GenerationConfig) -> None:
        self.config = config
        self.place = 0  # in the engine's batch
        count = config.num_return_sequences if config.do_sample else config.num_beam_groups
        self.prefixes = np.empty((count, 0), np.int32)
        self.sums = np.zeros(count)
        self.parents = np.zeros(count, np.int64)
        self.groups = np.arange(count)
        self.slots = np.full(count, config.num_rows // count)
        self.finished: list[Candidate] = []
        # A text's samples hang on the seed and the text, not on what else is in the batch.
        if config.do_sample:
            self.random = np.random.default_rng(None if config.seed is None else [config.seed, *ids])

    def force(self, token: int, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """Go on with a given token in every row; the candidates, int and float [rows, top], are all there are."""
        rows, places = np.nonzero(tokens == token)
        self._go_on(rows, tokens[rows, places], log_probs[rows, places])

    def advance(self, tokens: np.ndarray, log_probs: np.ndarray, end_id: int) -> None:
        """Go on with some of the candidates, int and float [rows, top]."""
        choose = sample if self.config.do_sample else best_beams
        rows, places, log_probs = choose(self, tokens, log_probs)
        chosen = tokens[rows, places]
        self._go_on(rows, chosen, log_probs)
        ended = chosen == end_id
        self.finished += self._candidates(ended)
        np.subtract.at(self.slots, self.groups[ended], 1)
        self._keep(~ended)

    def _go_on(self, rows: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        self.prefixes = np.concatenate([self.prefixes[rows], tokens[:, None].astype(np.int32)], axis=1)
        self.sums, self.groups, self.parents = self.sums[rows] + log_probs, self.groups[rows], rows

    def _keep(self, rows: np.ndarray) -> None:
        self.prefixes, self.sums = self.prefixes[rows], self.sums[rows]
        self.groups, self.parents = self.groups[rows], self.parents[rows]

    def _candidates(self, rows: np.ndarray) -> list[Candidate]:
        length = max(1, self.prefixes.shape[1])  # before the first step there is none
        scores = self.sums[rows] / length**self.config.length_penalty
        return list(map(Candidate, map(tuple, self.prefixes[rows].tolist()), scores.tolist()))

    def is_settled(self) -> bool:
        """Tell whether no live row can still come among the titles to return."""
        config = self.config
        if not len(self.sums):
            return True
        if config.do_sample or len(self._distinct(self.finished)) < config.num_return_sequences:
            return False
        if config.early_stopping:
            return True
        # A sum only falls, and what it is divided by moves one way with the length: the best a beam can still reach
        # is its present sum, divided for the next length or for the longest.
        lengths = (self.prefixes.shape[1] + 1, config.max_new_tokens)
        bound = max(float(self.sums.max()) / length**config.length_penalty for length in lengths)
        worst = sorted(title.score for title in self._distinct(self.finished))[-config.num_return_sequences]
        return bool(worst >= bound)

    def titles(self) -> list[Candidate]:
        """Return the best titles, at least one, best first; rows that were stopped by the limit are titles too."""
        found = self.finished
        if not found or self.prefixes.shape[1] == self.config.max_new_tokens:
            found = found + self._candidates(np.ones(len(self.sums), bool))
        best = sorted(self._distinct(found), key=lambda title: -title.score)[: self.config.num_return_sequences]
        return best or [NOTHING]

    def _distinct(self, titles: list[Candidate]) -> list[Candidate]:
        """Return each title once, with its best score: groups of beams may find the same, and samples shall."""
        if self.config.num_beam_groups == 1:
            return titles
        return list({title.ids: title for title in sorted(titles, key=lambda title: title.score)}.values())

    def leader(self) -> Candidate:
        """Return the best title so far, of the finished and the unfinished; of a settled source the best of all."""
        if self.is_settled():
            return self.titles()[0]
        return max(self.finished + self._candidates(np.ones(len(self.sums), bool)), key=lambda title: title.score)


# A strategy tells which rows go on, with which of their candidates: int [chosen] both, and log-probabilities to add.
Choice = tuple[np.ndarray, np.ndarray, np.ndarray]


def best_beams(source: _Source, tokens: np.ndarray, log_probs: np.ndarray) -> Choice:
    """Choose the best continuations of each group's beams, one group after the other.

    A token costs `diversity_penalty` for each time that an earlier group has chosen it in this step (diverse beam
    search, https://arxiv.org/abs/1610.02424). Penalised tokens are fewer than the beams of the other groups, so that
    `num_beams` candidates a row are enough.
    """
    log_probs = log_probs.copy()
    rows, places = np.empty(0, np.int64), np.empty(0, np.int64)
    for group in range(source.config.num_beam_groups):
        members = np.flatnonzero(source.groups == group)
        taken = tokens[rows, places]
        if len(taken):
            times = (tokens[members][..., None] == taken).sum(axis=-1)
            log_probs[members] -= source.config.diversity_penalty * times
        totals = source.sums[members, None] + log_probs[members]
        best = np.argsort(-totals, axis=None, kind="stable")[: source.slots[group]]
        best = best[np.isfinite(totals.ravel()[best])]
        beams, best_places = np.unravel_index(best, totals.shape)
        rows, places = np.append(rows, members[beams]), np.append(places, best_places)
    return rows, places, log_probs[rows, places]


def sample(source: _Source, tokens: np.ndarray, log_probs: np.ndarray) -> Choice:
    """Draw one continuation of every row from the candidates that `temperature` and `top_p` leave."""
    config = source.config
    with np.errstate(invalid="ignore"):  # a row in which every token is forbidden: -inf minus -inf
        weights = np.nan_to_num(np.exp((log_probs - log_probs[:, :1]) / config.temperature))
    totals = weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    weights[before >= config.top_p * totals] = 0  # the fewest tokens that reach top_p together stay
    reached = np.cumsum(weights, axis=1)
    # A number for each row that there ever was, so that one that ends does not change what the others draw.
    drawn = source.random.random(config.num_return_sequences)[source.groups]
    rows = np.flatnonzero(totals[:, 0] > 0)
    places = (reached > (drawn * reached[:, -1])[:, None]).argmax(axis=1)[rows]
    return rows, places, log_probs[rows, places]


class BatchDecoder:
    """Searches for titles with an engine.

    Args:
        engine: runs the model.
        start_id, end_id: ids of [CLS] and [SEP].
    """

    def __init__(self, engine: Engine, start_id: int, end_id: int) -> None:
        self.engine, self.start_id, self.end_id = engine, start_id, end_id

    def search_batch(
        self,
        sources: list[list[int]],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        window: int | None = None,
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Candidate], None]] | None = None,
    ) -> list[list[Candidate]]:
        """Return the best titles of each source, `config.num_return_sequences` at most, best first.

        At each step a source keeps the best continuations of its beams; a beam that ends is set aside and not replaced,
        so that one beam is greedy search. A source leaves the batch when no live beam can come out above its finished
        ones. It is the search of `engines/reference.py`, for a batch. With `config.do_sample` every title is drawn.

        Args:
            sources: token ids of each source, of any length.
            config: options.
            prefix: token ids that every title begins with.
            window: tokens that the encoder reads at a time; all of a source if None.
            is_wanted: asked before each step for the number of each source that is still in the batch; one that is no
                longer wanted leaves it, and has the titles found so far.
            on_title: what is told the best title so far after each step, by the number of a source.

        Raises OptionError for a prefix that leaves no room for a title.
        """
        searches = [_Source(ids, config) for ids in sources]
        for _ in self._steps(searches, sources, config, prefix, window, is_wanted):
            for number, tell in (on_title or {}).items():
                tell(searches[number].leader())
        return [search.titles() for search in searches]

    def stream(
        self, source: list[int], config: GenerationConfig, prefix: Sequence[int] = (), window: int | None = None
    ) -> Iterator[Candidate]:
        """Yield the best title so far of one source after each step, at last what `search_batch` returns first."""
        search = _Source(source, config)
        for _ in self._steps([search], [source], config, prefix, window, None):
            if not search.is_settled():
                yield search.leader()
        yield search.titles()[0]

    def _steps(
        self,
        searches: list[_Source],
        sources: list[list[int]],
        config: GenerationConfig,
        prefix: Sequence[int],
        window: int | None,
        is_wanted: Callable[[int], bool] | None,
    ) -> Iterator[None]:
        """Move the searches of the sources on, and yield after each step."""
        check_prefix(prefix, config)
        for place, search in enumerate(searches):
            search.place = place
        batch = live = list(range(len(searches)))
        width = 1
        state = self.engine.start(sources, window)
        top = min(config.top_k or _WHOLE_VOCABULARY, _WHOLE_VOCABULARY) if config.do_sample else config.num_beams
        for position in range(config.max_new_tokens):
            live = [
                number
                for number in live
                if not searches[number].is_settled() and (is_wanted is None or is_wanted(number))
            ]
            if not live:
                break
            # To leave the batch means a copy of all that stay: so they leave several at a time.
            if len(live) <= _LEAVE_BELOW * len(batch):
                batch = live
            step = _Step([searches[number] for number in batch], [number in live for number in batch], width)
            width = step.width
            forced = position < len(prefix)
            edits = NO_EDITS if forced else step.edits(self.end_id, config)
            tokens = step.tokens(self.start_id)
            count = _WHOLE_VOCABULARY if forced else top
            state, tokens, log_probs = self.engine.step(state, tokens, step.parents(), step.places(), edits, count)
            if np.isnan(log_probs).any():
                raise PegasusError(
                    "the model gives no numbers (NaN): damaged weights, or an overflow in half precision"
                )
            for place, search, rows in step.rows():
                found = tokens[place, :rows], log_probs[place, :rows].astype(np.float64)
                if forced:
                    search.force(prefix[position], *found)
                else:
                    search.advance(*found, self.end_id)
            yield


class _Step:
    """How the rows of some searches are laid out for a step of the engine.

    Every search has as many rows as the one with most; those that it does not need repeat its first one.
    """

    def __init__(self, searches: list[_Source], is_live: list[bool], previous_width: int) -> None:
        self._searches = searches
        self._counts = [len(search.sums) if live else 0 for search, live in zip(searches, is_live, strict=True)]
        self._previous_width = previous_width
        self.width = max(self._counts)

    def rows(self) -> Iterator[tuple[int, _Source, int]]:
        """Yield place, search and number of rows of each that is live, and note its place for the next step."""
        for place, (search, count) in enumerate(zip(self._searches, self._counts, strict=True)):
            search.place = place
            if count:
                yield place, search, count

    def tokens(self, start_id: int) -> np.ndarray:
        """Return the last token of each row, int32 [sources, width]."""
        tokens = np.full((len(self._searches), self.width), start_id, np.int32)
        for row, search, count in zip(tokens, self._searches, self._counts, strict=True):
            if search.prefixes.shape[1]:
                row[:count] = search.prefixes[:count, -1]
        return tokens

    def places(self) -> np.ndarray:
        """Return the place of each source in the step before, int32 [sources]."""
        return np.array([search.place for search in self._searches], np.int32)

    def parents(self) -> np.ndarray:
        """Return the row of each row in the step before, int32 [sources, width]."""
        parents = np.repeat(self.places()[:, None] * self._previous_width, self.width, axis=1)
        for row, search, count in zip(parents, self._searches, self._counts, strict=True):
            row[:count] += search.parents[:count]
        return parents

    def edits(self, end_id: int, config: GenerationConfig) -> Edits:
        """Return what the filters say of the rows."""
        live = [(place, search) for place, search in enumerate(self._searches) if self._counts[place]]
        pairs, factors = find_edits(np.concatenate([search.prefixes for _, search in live]), end_id, config)
        if not len(pairs):
            return NO_EDITS
        rows = np.concatenate([place * self.width + np.arange(self._counts[place]) for place, _ in live])
        return Edits(np.stack([rows[pairs[:, 0]], pairs[:, 1]], axis=1).astype(np.int32), factors)


def check_prefix(prefix: Sequence[int], config: GenerationConfig) -> None:
    """Raise OptionError where the token ids that every title begins with leave no room for more."""
    if len(prefix) >= config.max_new_tokens:
        raise OptionError(
            f"max_new_tokens must be more than title_prefix has ({len(prefix)}), got {config.max_new_tokens}"
        )
