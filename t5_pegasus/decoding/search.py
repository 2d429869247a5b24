"""Finding titles by steps of an engine: beam search and sampling over a batch of sources, in numpy.

An engine does the heavy work of a step next to its weights and returns a few candidates a row, so that one search
serves every engine. It is anything with the two methods of `Engine`.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np

from ..config import GenerationConfig
from ..errors import OptionError, PegasusError
from .inputs import Inputs, Source, make_inputs
from .logits import NO_EDITS, Edits, find_edits, suppress

_WHOLE_VOCABULARY = 2**31 - 1
_SHRINK_BELOW = 0.75  # share of a batch that is still live when those that are not leave it


class Candidate(NamedTuple):
    """A title in token ids: without the start token, with the end token if it has ended; and its score.

    See GenerationConfig for the score.
    """

    ids: tuple[int, ...]
    score: float


NOTHING = Candidate((), -float("inf"))  # if every continuation is forbidden


class Engine(Protocol):
    """Encoder and cached decoder step of a model. A state belongs to the engine; the search only passes it on."""

    def start(self, inputs: Inputs, /) -> Any:
        """Encode a batch of sources and return the state before the first token, with one beam a source."""

    def step(
        self, state: Any, tokens: np.ndarray, parents: np.ndarray, batch_index: np.ndarray, edits: Edits, top: int, /
    ) -> tuple[Any, np.ndarray, np.ndarray]:
        """Advance every beam by one token.

        Rows are beams, source by source.

        Args:
            state: of the previous step; it may be used up.
            tokens: int32 [sources, beams], the last token of each beam.
            parents: int32 [sources, beams], the row in the previous step that each beam continues.
            batch_index: int32 [sources], each source's index in the previous step's batch.
            edits: of log-probabilities by row, before the best are taken.
            top: candidates a row; as many as the vocabulary has if that is less.

        Returns: the new state; tokens int [sources, beams, top] and log-probabilities float [sources, beams, top] of
            the candidates, best first.
        """


class Decoder(Protocol):
    """What finds the titles of sources: `BatchDecoder` with an engine, or a search of its own."""

    def search_batch(
        self,
        sources: Sequence[Source],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Candidate], None]] | None = None,
    ) -> list[list[Candidate]]:
        """Return the best titles of each source, `config.num_return_sequences` at most, best first.

        Args:
            sources: of any lengths.
            config: options.
            prefix: token ids that every title begins with.
            is_wanted: asked before each step for the index of each source that is not done; one that is no longer
                wanted is given up, with the titles found so far.
            on_title: called with the best title so far after each step, by the index of a source.

        Raises OptionError for a prefix that leaves no room for a title.
        """

    def stream(self, source: Source, config: GenerationConfig, prefix: Sequence[int] = ()) -> Iterator[Candidate]:
        """Yield the best title so far of one source, and at last the first that `search_batch` returns."""


class BeamState:
    """The live beams (rows) of one source, and its finished titles.

    batch_index: the source's index in the previous step's batch.
    prefixes: int32 [rows, tokens].
    sums: float [rows], of log-probabilities.
    parents: int [rows], the row in the previous step that each row continues.
    groups: int [rows]; rows of a group compete.
    slots: int [groups], the rows that a group may keep.
    """

    def __init__(self, source: Source, config: GenerationConfig, batch_index: int) -> None:
        self.config = config
        self.batch_index = batch_index
        count = config.num_return_sequences if config.do_sample else config.num_beam_groups
        self.prefixes = np.empty((count, 0), np.int32)
        self.sums = np.zeros(count)
        self.parents = np.zeros(count, np.int64)
        self.groups = np.arange(count)
        self.slots = np.full(count, config.num_rows // count)
        self.finished: list[Candidate] = []
        # A text's samples depend on the seed and the text, not on the rest of the batch.
        if config.do_sample:
            self.random = np.random.default_rng(None if config.seed is None else [config.seed, *source.ids])

    def force(self, token: int, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        """Append a given token to every row; the candidates, int and float [rows, vocab_size], are all tokens."""
        rows, candidate_index = np.nonzero(tokens == token)
        self._append(rows, tokens[rows, candidate_index], log_probs[rows, candidate_index])

    def advance(self, tokens: np.ndarray, log_probs: np.ndarray, end_id: int) -> None:
        """Continue rows with some of the candidates, int and float [rows, top]."""
        choose = sample if self.config.do_sample else best_beams
        rows, candidate_index, log_probs = choose(self, tokens, log_probs)
        chosen = tokens[rows, candidate_index]
        self._append(rows, chosen, log_probs)
        ended = chosen == end_id
        if self.config.refills:
            self._refill(ended)
            return
        if ended.any():
            self.finished += self._candidates(ended)
            np.subtract.at(self.slots, self.groups[ended], 1)
            self._keep(~ended)

    def _refill(self, ended: np.ndarray) -> None:
        """Finish titles and keep `num_beams` rows that have not ended, of twice as many in the order of their sums.

        As in transformers' beam search, only the best `num_beams` rows become titles, when they end and when
        `max_new_tokens` stops them.
        """
        first = np.arange(len(ended)) < self.config.num_beams
        self.finished += self._candidates(ended & first)
        going_on = ~ended
        if self.prefixes.shape[1] == self.config.max_new_tokens:
            self._keep(going_on & first)
        else:
            self._keep(going_on & (np.cumsum(going_on) <= self.config.num_beams))

    def end_all(self, token: int) -> None:
        """Append a given token, which costs nothing, to every row."""
        rows = np.arange(len(self.sums))
        self._append(rows, np.full(len(rows), token), np.zeros(len(rows)))

    def _append(self, rows: np.ndarray, tokens: np.ndarray, log_probs: np.ndarray) -> None:
        self.prefixes = np.concatenate([self.prefixes[rows], tokens[:, None].astype(np.int32)], axis=1)
        self.sums, self.groups, self.parents = self.sums[rows] + log_probs, self.groups[rows], rows

    def _keep(self, rows: np.ndarray) -> None:
        self.prefixes, self.sums = self.prefixes[rows], self.sums[rows]
        self.groups, self.parents = self.groups[rows], self.parents[rows]

    def _candidates(self, rows: np.ndarray) -> list[Candidate]:
        length = max(1, self.prefixes.shape[1])  # 0 before the first step
        scores = self.sums[rows] / length**self.config.length_penalty
        return list(map(Candidate, map(tuple, self.prefixes[rows].tolist()), scores.tolist()))

    def is_settled(self) -> bool:
        """Return whether no live row can still become one of the titles to return."""
        config = self.config
        if not len(self.sums):
            return True
        if config.refills:
            return self._cannot_improve()
        if config.do_sample or len(self._distinct(self.finished)) < config.num_return_sequences:
            return False
        if config.early_stopping:
            return True
        # A sum only falls, and its divisor is monotonic in the length: the best score that a beam can still reach is
        # its present sum, divided for the next length or for the longest.
        lengths = (self.prefixes.shape[1] + 1, config.max_new_tokens)
        bound = max(float(self.sums.max()) / length**config.length_penalty for length in lengths)
        worst = sorted(title.score for title in self._distinct(self.finished))[-config.num_return_sequences]
        return bool(worst >= bound)

    def _cannot_improve(self) -> bool:
        """Return whether transformers' beam search would end: `num_beams` titles, none worse than the best live row.

        It compares with the row's score at its present length, though a longer title may have a better one.
        """
        best = sorted((title.score for title in self.finished), reverse=True)[: self.config.num_beams]
        if len(best) < self.config.num_beams:
            return False
        live = float(self.sums.max()) / self.prefixes.shape[1] ** self.config.length_penalty
        return self.config.early_stopping or best[-1] >= live

    def titles(self) -> list[Candidate]:
        """Return the best titles, at least one, best first; rows stopped by `max_new_tokens` are titles too."""
        found = self.finished
        if not found or self.prefixes.shape[1] == self.config.max_new_tokens:
            found = found + self._candidates(np.ones(len(self.sums), bool))
        best = sorted(self._distinct(found), key=lambda title: -title.score)[: self.config.num_return_sequences]
        return best or [NOTHING]

    def _distinct(self, titles: list[Candidate]) -> list[Candidate]:
        """Return each title once, with its best score: groups of beams may find the same. Samples may repeat."""
        if self.config.num_beam_groups == 1:
            return titles
        return list({title.ids: title for title in sorted(titles, key=lambda title: title.score)}.values())

    def leader(self) -> Candidate:
        """Return the best title so far, finished or not; of a settled source the best of all."""
        if self.is_settled():
            return self.titles()[0]
        return max(self.finished + self._candidates(np.ones(len(self.sums), bool)), key=lambda title: title.score)


# A strategy returns which rows continue, with which of their candidates: int [chosen] both, and the log-probabilities
# to add.
Choice = tuple[np.ndarray, np.ndarray, np.ndarray]


def best_beams(beams: BeamState, tokens: np.ndarray, log_probs: np.ndarray) -> Choice:
    """Choose the best continuations of each group's beams, one group after the other.

    A token costs `diversity_penalty` for each time that an earlier group has chosen it in this step (diverse beam
    search, https://arxiv.org/abs/1610.02424). The penalised tokens are fewer than the beams of the other groups, so
    that `num_beams` candidates a row are enough.
    """
    if beams.config.num_beam_groups == 1:
        count = beams.slots[0] * (2 if beams.config.refills else 1)
        rows, candidate_index = _best(beams.sums[:, None] + log_probs, count)
        return rows, candidate_index, log_probs[rows, candidate_index]
    log_probs = log_probs.copy()
    rows, candidate_index = np.empty(0, np.int64), np.empty(0, np.int64)
    for group in range(beams.config.num_beam_groups):
        members = np.flatnonzero(beams.groups == group)
        taken = tokens[rows, candidate_index]
        if len(taken):
            times = (tokens[members][..., None] == taken).sum(axis=-1)  # [members, top]
            log_probs[members] -= beams.config.diversity_penalty * times
        best, best_index = _best(beams.sums[members, None] + log_probs[members], beams.slots[group])
        rows, candidate_index = np.append(rows, members[best]), np.append(candidate_index, best_index)
    return rows, candidate_index, log_probs[rows, candidate_index]


def _best(totals: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return rows and columns of the `count` highest totals [rows, top], highest first; fewer if others are -inf."""
    rows, columns = np.divmod(np.argsort(-totals, axis=None, kind="stable")[:count], totals.shape[1])
    is_finite = np.isfinite(totals[rows, columns])
    return rows[is_finite], columns[is_finite]


def sample(beams: BeamState, tokens: np.ndarray, log_probs: np.ndarray) -> Choice:
    """Draw one continuation of every row from the candidates that `temperature` and `top_p` leave."""
    config = beams.config
    with np.errstate(invalid="ignore"):  # -inf minus -inf, in a row in which every token is forbidden
        weights = np.nan_to_num(np.exp((log_probs - log_probs[:, :1]) / config.temperature))
    totals = weights.sum(axis=1, keepdims=True)
    before = np.cumsum(weights, axis=1) - weights
    weights[before >= config.top_p * totals] = 0  # the fewest tokens that reach top_p together remain
    reached = np.cumsum(weights, axis=1)
    # A number for each row, ended ones too, so that one that ends does not change what the others draw.
    drawn = beams.random.random(config.num_return_sequences)[beams.groups]
    rows = np.flatnonzero(totals[:, 0] > 0)
    candidate_index = (reached > (drawn * reached[:, -1])[:, None]).argmax(axis=1)[rows]
    return rows, candidate_index, log_probs[rows, candidate_index]


class BatchDecoder:
    """Searches for titles with an engine; see `Decoder` for its methods.

    At each step a source keeps the best continuations of its beams; a beam that ends is set aside and not replaced, so
    that one beam is greedy search. A source leaves the batch when no live beam can surpass its finished ones. It is the
    search of `engines/reference.py`, for a batch. With `config.do_sample` every title is drawn.

    Args:
        engine: runs the model.
        start_id, end_id: ids of the tokens that a title begins with and ends at.
        unused_ids: ids of the model that are no tokens (see `text.protocol.Tokenizer`); they are never written.

    Attributes:
        engine: runs the model.
        base_sha256: returns the hash of the model's weights (see `locations.weights_hash`), None where it is not known.
    """

    def __init__(self, engine: Engine, start_id: int, end_id: int, unused_ids: Sequence[int] = ()) -> None:
        self.engine, self.start_id, self.end_id, self.unused_ids = engine, start_id, end_id, unused_ids
        self.base_sha256: Callable[[], str | None] = lambda: None

    def search_batch(
        self,
        sources: Sequence[Source],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Candidate], None]] | None = None,
    ) -> list[list[Candidate]]:
        """Return the best titles of each source, best first; see `Decoder`."""
        states = [BeamState(source, config, index) for index, source in enumerate(sources)]
        for _ in self._steps(states, sources, config, prefix, is_wanted):
            for index, report in (on_title or {}).items():
                report(states[index].leader())
        return [state.titles() for state in states]

    def stream(self, source: Source, config: GenerationConfig, prefix: Sequence[int] = ()) -> Iterator[Candidate]:
        """Yield the best title so far after each step, and at last the first that `search_batch` returns."""
        state = BeamState(source, config, 0)
        for _ in self._steps([state], [source], config, prefix, None):
            if not state.is_settled():
                yield state.leader()
        yield state.titles()[0]

    def _steps(
        self,
        states: list[BeamState],
        sources: Sequence[Source],
        config: GenerationConfig,
        prefix: Sequence[int],
        is_wanted: Callable[[int], bool] | None,
    ) -> Iterator[None]:
        """Advance the states of the sources, and yield after each step."""
        check_prefix(prefix, config)
        config = suppress(config, self.unused_ids)
        batch = live = list(range(len(states)))
        width = 1
        engine_state = self.engine.start(make_inputs(sources))
        top = config.num_beams * (2 if config.refills else 1)
        if config.do_sample:
            top = min(config.top_k or _WHOLE_VOCABULARY, _WHOLE_VOCABULARY)
        for position in range(config.max_new_tokens):
            live = [
                index for index in live if not states[index].is_settled() and (is_wanted is None or is_wanted(index))
            ]
            if not live:
                break
            # When sources leave the batch, all that stay are copied: so they leave several at a time.
            if len(live) <= _SHRINK_BELOW * len(batch):
                batch = live
            if config.forced_eos_token_id is not None and position == config.max_new_tokens - 1:
                for index in live:
                    states[index].end_all(config.forced_eos_token_id)
                yield
                return
            # Two rows at least where there may be several: a single one is added up in another order, so that its
            # last bits would depend on whether another source has two.
            fewest = min(2, config.num_rows) if position else 1
            step = _Step([states[index] for index in batch], [index in live for index in batch], width, fewest)
            width = step.width
            forced = position < len(prefix)
            engine_state, tokens, log_probs = self.engine.step(
                engine_state,
                step.tokens(self.start_id),
                step.parents(),
                step.batch_index(),
                NO_EDITS if forced else step.edits(self.end_id, config),
                _WHOLE_VOCABULARY if forced else top,
            )
            if np.isnan(log_probs).any():
                raise PegasusError(
                    "the model gives no numbers (NaN): damaged weights, or an overflow in half precision"
                )
            for index, state, rows in step.live_states():
                candidates = tokens[index, :rows], log_probs[index, :rows].astype(np.float64)
                if forced:
                    state.force(prefix[position], *candidates)
                else:
                    state.advance(*candidates, self.end_id)
            yield


class _Step:
    """The layout of some sources' rows for a step of the engine.

    Every source has as many rows as the one with most; those that it does not need repeat its first one.
    """

    def __init__(self, states: list[BeamState], is_live: list[bool], previous_width: int, fewest: int) -> None:
        self._states = states
        self._counts = [len(state.sums) if live else 0 for state, live in zip(states, is_live, strict=True)]
        self._previous_width = previous_width
        self.width = max(fewest, *self._counts)

    def live_states(self) -> Iterator[tuple[int, BeamState, int]]:
        """Yield the index in this batch, the state and the number of rows of each live source.

        Sets `batch_index` of every state for the next step.
        """
        for index, (state, count) in enumerate(zip(self._states, self._counts, strict=True)):
            state.batch_index = index
            if count:
                yield index, state, count

    def tokens(self, start_id: int) -> np.ndarray:
        """Return the last token of each row, int32 [sources, width]."""
        tokens = np.full((len(self._states), self.width), start_id, np.int32)
        for row, state, count in zip(tokens, self._states, self._counts, strict=True):
            if state.prefixes.shape[1]:
                row[:count] = state.prefixes[:count, -1]
        return tokens

    def batch_index(self) -> np.ndarray:
        """Return each source's index in the previous step's batch, int32 [sources]."""
        return np.array([state.batch_index for state in self._states], np.int32)

    def parents(self) -> np.ndarray:
        """Return the row in the previous step that each row continues, int32 [sources, width]."""
        parents = np.empty((len(self._states), self.width), np.int32)
        for row, state, count in zip(parents, self._states, self._counts, strict=True):
            first = state.batch_index * self._previous_width
            row[:] = first + (state.parents[0] if count else 0)
            row[:count] = first + state.parents[:count]
        return parents

    def edits(self, end_id: int, config: GenerationConfig) -> Edits:
        """Return the edits of the filters, by row of the step."""
        live = [(index, state) for index, state in enumerate(self._states) if self._counts[index]]
        pairs, factors = find_edits(np.concatenate([state.prefixes for _, state in live]), end_id, config)
        if not len(pairs):
            return NO_EDITS
        rows = np.concatenate([index * self.width + np.arange(self._counts[index]) for index, _ in live])
        pairs[:, 0] = rows[pairs[:, 0]]
        return Edits(pairs, factors)


def check_prefix(prefix: Sequence[int], config: GenerationConfig) -> None:
    """Raise OptionError for a prefix, in token ids, that leaves no room for more."""
    if len(prefix) >= config.max_new_tokens:
        raise OptionError(
            f"max_new_tokens must be more than title_prefix has ({len(prefix)}), got {config.max_new_tokens}"
        )
