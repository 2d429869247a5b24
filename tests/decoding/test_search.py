"""The batched search: held against brute force, against the reference, and against itself in other batches."""

import itertools

import numpy as np
import pytest
import scipy.stats

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.inputs import Source
from t5_pegasus.decoding.search import BatchDecoder
from t5_pegasus.errors import OptionError, PegasusError
from tests.engines.test_reference import ANY, END, START, ToyDecoder


def toys(*numbers):
    """Return the sources of a ToyEngine, each a decoder's number."""
    return [Source.whole([number]) for number in numbers]


def toy(rows, seed=0):
    """Return a ToyDecoder with other probabilities after the tokens given by two, or after all for None."""
    decoder = ToyDecoder(seed)
    for before, probabilities in rows.items():
        decoder.table[before or slice(None)] = probabilities
    return decoder


class ToyEngine:
    """Engine over the tables of ToyDecoders, one a source; see `toys`. Its state is numbers and prefixes."""

    def __init__(self, decoders):
        self.decoders = decoders
        self.rows_computed = 0
        self.tops = set()

    def start(self, inputs):
        return inputs.ids[:, 0].tolist(), [[] for _ in inputs.joined]

    def step(self, state, tokens, parents, batch_index, edits, top):
        assert tokens.dtype == parents.dtype == batch_index.dtype == np.int32
        self.tops.add(top)
        numbers, prefixes = state
        # Each row continues one of its own source, the rows that a source does not need as well.
        assert (parents // (len(prefixes) // len(numbers)) == batch_index[:, None]).all()
        numbers = [numbers[index] for index in batch_index]
        self.rows_computed += tokens.size
        prefixes = [
            [*prefixes[parent], token] for parent, token in zip(parents.ravel(), tokens.ravel().tolist(), strict=True)
        ]
        rows = []
        for row, prefix in enumerate(prefixes):
            table = self.decoders[numbers[row // tokens.shape[1]]].table
            rows.append(np.log(table[prefix[-2] if len(prefix) > 1 else 0, prefix[-1]] + 1e-12))
        log_probs = np.array(rows)
        for (row, token), factor in zip(*edits, strict=True):
            log_probs[row, token] *= factor
        best = np.argsort(-log_probs, axis=1, kind="stable")[:, :top]
        shape = (*tokens.shape, -1)
        return (
            (numbers, prefixes),
            best.reshape(shape),
            np.take_along_axis(log_probs, best, axis=1).reshape(shape),
        )


OPTIONS = [
    {},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 3},
    {"num_beams": 3, "length_penalty": 1.0},
    {"num_beams": 3, "length_penalty": -0.7, "num_return_sequences": 2},
    {"num_beams": 3, "length_penalty": -4.0},
    {"num_beams": 5, "min_new_tokens": 3, "no_repeat_ngram_size": 2},
    {"num_beams": 8, "no_repeat_ngram_size": 1, "length_penalty": 2.0, "num_return_sequences": 8},
    {"num_beams": 4, "repetition_penalty": 1.7, "suppress_tokens": (2,)},
    {"num_beams": 6, "repetition_penalty": 0.6, "min_new_tokens": 2, "num_return_sequences": 3},
    {"num_beams": 4, "early_stopping": True, "length_penalty": 1.0},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_gives_what_the_reference_gives_for_each_source(options):
    decoders = [ToyDecoder(seed) for seed in range(60)]
    config = GenerationConfig(max_new_tokens=7, **options)
    search = BatchDecoder(ToyEngine(decoders), START, END)
    found = search.search_batch(toys(*range(60)), config)
    assert search.engine.tops == {config.num_beams}
    for titles, decoder in zip(found, decoders, strict=True):
        expected = decoder.search(ANY, config)
        assert [title.ids for title in titles] == [title.ids for title in expected]
        assert all(type(token) is int for title in titles for token in title.ids)
        assert [title.score for title in titles] == pytest.approx([title.score for title in expected])


def test_of_equal_continuations_the_first_are_kept():
    decoders = EQUAL
    config = GenerationConfig(num_beams=8, max_new_tokens=3, num_return_sequences=8)
    found = BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(*range(len(decoders))), config)
    for titles, decoder in zip(found, decoders, strict=True):
        assert {title.ids for title in titles} == {ids for ids, _ in slow_diverse_search(decoder, config)}


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", [options for options in OPTIONS if "early_stopping" not in options], ids=str)
def test_a_beam_as_wide_as_all_titles_finds_the_best_of_all(seed, options):
    decoder = ToyDecoder(seed)
    config = GenerationConfig(max_new_tokens=4, **{**options, "num_beams": 4**4})
    scores = decoder.brute_force(config)
    best = sorted(scores.values(), reverse=True)[: config.num_return_sequences]
    (found,) = BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), config)
    assert len({title.ids for title in found}) == len(best)
    np.testing.assert_allclose([scores[title.ids] for title in found], best, rtol=1e-9)


def test_rows_that_a_source_does_not_need_continue_what_its_first_one_does():
    """Another's cache could otherwise not be let go."""

    class Engine(ToyEngine):
        others = 0

        def step(self, state, tokens, parents, *rest):
            unneeded = tokens == START  # which no title has here
            assert (parents == np.where(unneeded, parents[:, :1], parents)).all()
            numbers, prefixes = state
            self.others += (unneeded & (parents % (len(prefixes) // len(numbers)) > 0)).sum()
            return super().step(state, tokens, parents, *rest)

    engine = Engine([ToyDecoder(seed) for seed in range(60)])
    config = GenerationConfig(num_beams=4, max_new_tokens=12, suppress_tokens=(START,))
    BatchDecoder(engine, START, END).search_batch(toys(*range(60)), config)
    assert engine.others


@pytest.mark.parametrize("length_penalty", [-4.0, -1.0, 0.0, 2.0])
def test_a_search_ends_no_earlier_than_it_may(length_penalty):
    """However the length counts: with a search that never ends early, the titles are the same."""
    decoders = [ToyDecoder(seed) for seed in range(60)]
    sources = toys(*range(60))
    config = GenerationConfig(num_beams=2, max_new_tokens=12, length_penalty=length_penalty)
    found = BatchDecoder(ToyEngine(decoders), START, END).search_batch(sources, config)
    for (title,), decoder in zip(found, decoders, strict=True):
        expected = decoder.search(ANY, config)[0]
        assert title.ids == expected.ids
        assert title.score == pytest.approx(expected.score)


def test_a_beam_that_can_end_better_is_waited_for():
    """Here only at once: with a length penalty so far below 0, a later end is worse than the title that there is."""
    decoder = toy({(0, START): [0.049, 0, 0.951, 0], (START, 2): [1, 0, 0, 0]})
    config = GenerationConfig(num_beams=2, max_new_tokens=9, length_penalty=-4.0)
    (found,) = BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), config)
    assert found == [((2, END), pytest.approx(16 * np.log(0.951)))]


def test_a_beam_that_can_only_be_as_good_is_not_waited_for():
    engine = ToyEngine([toy({None: [0.5, 0, 0.5, 0]})])
    (found,) = BatchDecoder(engine, START, END).search_batch(toys(0), GenerationConfig(num_beams=2))
    assert [title.ids for title in found] == [(END,)]
    assert engine.rows_computed == 1


def test_finished_sources_and_beams_leave_the_batch():
    decoders = [ToyDecoder(seed) for seed in range(60)]
    engine = ToyEngine(decoders)
    config = GenerationConfig(num_beams=4, max_new_tokens=50)
    BatchDecoder(engine, START, END).search_batch(toys(*range(60)), config)
    assert engine.rows_computed < 500  # of 12,000; some 4,000 would be live to the last, with no hope


def test_early_stopping_takes_the_first_that_end():
    """With no titles to come that are worse than those it stopped at; on some chains it misses a better one."""
    decoders = [ToyDecoder(seed) for seed in range(60)]
    search = BatchDecoder(ToyEngine(decoders), START, END)
    sources = toys(*range(60))
    options = {"num_beams": 4, "max_new_tokens": 8, "length_penalty": 1.0}
    patient = search.search_batch(sources, GenerationConfig(**options))
    hasty = search.search_batch(sources, GenerationConfig(**options, early_stopping=True))
    assert all(early[0].score <= late[0].score + 1e-9 for early, late in zip(hasty, patient, strict=True))
    assert all(len(early[0].ids) <= len(late[0].ids) for early, late in zip(hasty, patient, strict=True))
    assert hasty != patient


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"num_beams": 4, "num_return_sequences": 2}], ids=str)
def test_titles_begin_with_the_prefix(options):
    """And are the best of those that do, with the probability of the prefix in their score."""
    decoders = [ToyDecoder(seed) for seed in range(20)]
    config = GenerationConfig(max_new_tokens=5, **options)
    prefix = (3, 2)
    found = BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(*range(20)), config, prefix)
    for titles, decoder in zip(found, decoders, strict=True):
        assert all(title.ids[:2] == prefix for title in titles)
        expected = decoder.search(ANY, config, prefix)
        assert [title.ids for title in titles] == [title.ids for title in expected]
        assert [title.score for title in titles] == pytest.approx([title.score for title in expected])
    wide = GenerationConfig(num_beams=4**4, max_new_tokens=4)
    scores = {ids: score for ids, score in decoders[0].brute_force(wide).items() if ids[:2] == prefix}
    (found,) = BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(0), wide, prefix)
    assert found[0].score == pytest.approx(max(scores.values()))
    with pytest.raises(OptionError, match=r"max_new_tokens must be more than title_prefix has \(2\), got 2"):
        BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(0), GenerationConfig(max_new_tokens=2), prefix)


def test_a_prefix_is_written_whatever_is_forbidden():
    decoder = ToyDecoder(0)
    config = GenerationConfig(max_new_tokens=3, suppress_tokens=(3,), no_repeat_ngram_size=1, repetition_penalty=1.5)
    (found,) = BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), config, (3, 3))
    last = np.log(decoder.table[3, 3, :3]).argmax()
    total = np.log(decoder.table[0, START, 3]) + np.log(decoder.table[START, 3, 3]) + np.log(decoder.table[3, 3, last])
    assert found == [((3, 3, last), pytest.approx(total))]


def slow_diverse_search(decoder, config):
    """Diverse beam search in plain loops: titles and scores of all groups, best first."""
    width = config.num_beams // config.num_beam_groups
    groups = [[((), 0.0)] for _ in range(config.num_beam_groups)]
    finished = [[] for _ in groups]
    for length in range(1, config.max_new_tokens + 1):
        taken = []
        for number, beams in enumerate(groups):
            ranked = []
            for (ids, total), token in itertools.product(beams, range(4)):
                before = (0, START, *ids)
                log_prob = np.log(decoder.table[before[-2], before[-1], token] + 1e-12)
                ranked.append(((*ids, token), total + log_prob - config.diversity_penalty * taken.count(token)))
            ranked.sort(key=lambda title: -title[1])
            kept = ranked[: width - len(finished[number])]
            taken += [ids[-1] for ids, _ in kept]
            last = length == config.max_new_tokens
            finished[number] += [title for title in kept if title[0][-1] == END or last]
            groups[number] = [title for title in kept if title[0][-1] != END and not last]
    best = {}
    for ids, score in itertools.chain(*finished):
        best[ids] = max(score, best.get(ids, -np.inf))
    return sorted(best.items(), key=lambda title: -title[1])


@pytest.mark.parametrize(("beams", "groups"), [(2, 2), (4, 2), (6, 3)])
def test_diverse_beam_search_equals_plain_loops(beams, groups):
    decoders = [ToyDecoder(seed) for seed in range(30)]
    config = GenerationConfig(
        num_beams=beams, num_beam_groups=groups, diversity_penalty=0.8, max_new_tokens=5, num_return_sequences=beams
    )
    found = BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(*range(30)), config)
    for titles, decoder in zip(found, decoders, strict=True):
        expected = slow_diverse_search(decoder, config)
        assert [title.ids for title in titles] == [ids for ids, _ in expected]
        assert [title.score for title in titles] == pytest.approx([score for _, score in expected])


# Decoders of which many titles are equally likely.
EQUAL = [toy({None: [0.25, 0.25, 0.25, 0.25]}), toy({None: [0.5, 0, 0.5, 0]}), toy({None: [0.25, 0.5, 0, 0.25]})]


def slow_refilling_search(decoder, config):
    """Beam search as in transformers, in plain loops: titles and scores, best first."""
    width, beams, finished = config.num_beams, [((), 0.0)], []
    for length in range(1, config.max_new_tokens + 1):
        last = length == config.max_new_tokens
        ranked = []
        for (ids, total), token in itertools.product(beams, range(4)):
            before = (0, START, *ids)
            ranked.append(((*ids, token), total + np.log(decoder.table[before[-2], before[-1], token] + 1e-12)))
        ranked = sorted(ranked, key=lambda title: -title[1])[: 2 * width]
        if last and config.forced_eos_token_id is not None:
            ranked = [((*ids, config.forced_eos_token_id), total) for ids, total in beams]
        divisor = length**config.length_penalty
        finished += [(ids, total / divisor) for ids, total in ranked[:width] if ids[-1] == END]
        if last:
            finished += [(ids, total / divisor) for ids, total in ranked[:width] if ids[-1] != END]
        beams = [(ids, total) for ids, total in ranked if ids[-1] != END][:width]
        best = sorted((score for _, score in finished), reverse=True)[:width]
        if len(best) == width and (config.early_stopping or not beams or best[-1] >= beams[0][1] / divisor):
            break
    return sorted(finished, key=lambda title: -title[1])[: config.num_return_sequences]


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 2},
        {"num_beams": 3, "length_penalty": 1.0, "num_return_sequences": 3},
        {"num_beams": 3, "length_penalty": -1.5, "num_return_sequences": 2},
        {"num_beams": 8, "num_return_sequences": 8},
        {"num_beams": 2, "length_penalty": 2.0, "num_return_sequences": 2},
        {"num_beams": 5, "length_penalty": 2.0, "early_stopping": True, "num_return_sequences": 5},
        {"num_beams": 2, "length_penalty": 1.0, "forced_eos_token_id": END, "num_return_sequences": 2},
        {"num_beams": 2, "length_penalty": 1.0, "forced_eos_token_id": 3, "num_return_sequences": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("longest", [1, 2, 7])
def test_a_search_that_refills_its_beams_equals_plain_loops(options, longest):
    decoders = [ToyDecoder(seed) for seed in range(40)]
    engine = ToyEngine([*decoders, *EQUAL])
    config = GenerationConfig(refill_beams=True, max_new_tokens=longest, **options)
    found = BatchDecoder(engine, START, END).search_batch(toys(*range(len(engine.decoders))), config)
    assert engine.tops <= {2 * config.num_beams}
    for titles, decoder in zip(found, engine.decoders, strict=True):
        expected = slow_refilling_search(decoder, config)
        assert [title.ids for title in titles] == [ids for ids, _ in expected]
        assert [title.score for title in titles] == pytest.approx([score for _, score in expected])


def test_a_forced_end_costs_nothing():
    decoders = [ToyDecoder(seed) for seed in range(20)]
    search = BatchDecoder(ToyEngine(decoders), START, END)
    options = {"max_new_tokens": 4, "min_new_tokens": 4}
    free, forced = (GenerationConfig(**options, forced_eos_token_id=token) for token in (None, 2))
    shorter = GenerationConfig(max_new_tokens=3, min_new_tokens=3)
    for source in toys(*range(20)):
        (before,), (title,) = (search.search_batch([source], config)[0] for config in (shorter, forced))
        assert title == ((*before.ids, 2), pytest.approx(before.score))
        assert list(search.stream(source, forced))[-1] == title
        assert search.search_batch([source], free)[0][0].ids[:3] == before.ids


SAMPLING = [
    {"top_k": 0},
    {"temperature": 0.5, "top_k": 0},
    {"temperature": 2.0, "top_k": 3},
    {"top_k": 0, "top_p": 0.7},
    {"temperature": 1.5, "top_k": 3, "top_p": 0.9, "min_new_tokens": 2, "repetition_penalty": 1.4},
]


def next_token_probabilities(decoder, ids, config):
    """Return what each of the four tokens is drawn with after a prefix, slowly."""
    before = (0, START, *ids)
    log_probs = np.log(decoder.table[before[-2], before[-1]] + 1e-12)
    for token in range(4):
        if token in ids:
            log_probs[token] *= config.repetition_penalty
    if len(ids) < config.min_new_tokens:
        log_probs[END] = -np.inf
    probabilities = np.exp(log_probs / config.temperature)
    ranked = sorted(range(4), key=lambda token: -probabilities[token])
    if config.top_k:
        probabilities[ranked[config.top_k :]] = 0
    probabilities /= probabilities.sum()
    reached = 0.0
    for token in ranked:
        if reached >= config.top_p:
            probabilities[token] = 0
        reached += probabilities[token]
    return probabilities / probabilities.sum()


@pytest.mark.parametrize("options", SAMPLING, ids=str)
def test_samples_follow_the_distribution(options):
    decoder = ToyDecoder(5)
    found = []
    for seed in range(40):
        config = GenerationConfig(do_sample=True, max_new_tokens=3, num_return_sequences=128, seed=seed, **options)
        found += BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), config)[0]
    expected = {}
    live = {(): 1.0}
    for _ in range(config.max_new_tokens):
        following = {}
        for ids, probability in live.items():
            for token, factor in enumerate(next_token_probabilities(decoder, ids, config)):
                (expected if token == END else following)[(*ids, token)] = probability * factor
        live = following
    expected |= live
    counts = dict.fromkeys(expected, 0)
    for title in found:
        counts[title.ids] += 1
    assert all(counts[ids] == 0 for ids, probability in expected.items() if probability == 0)
    # Titles that are hardly ever drawn are counted together: the test wants some of each kind.
    rare = [ids for ids, probability in expected.items() if probability * len(found) < 10]
    kinds = [[ids] for ids in expected if ids not in rare] + (
        [rare] if sum(expected[ids] for ids in rare) > 1e-3 else []
    )
    observed = np.array([sum(counts[ids] for ids in kind) for kind in kinds], float)
    wanted = np.array([sum(expected[ids] for ids in kind) for kind in kinds])
    assert len(kinds) > 3
    assert scipy.stats.chisquare(observed, wanted / wanted.sum() * observed.sum()).pvalue > 1e-3


def test_a_seed_repeats_its_samples_in_any_batch():
    decoders = [ToyDecoder(seed) for seed in range(8)]
    search = BatchDecoder(ToyEngine(decoders), START, END)
    sources = toys(*range(8))
    config = GenerationConfig(do_sample=True, max_new_tokens=12, num_return_sequences=3, seed=7, top_k=0)
    together = search.search_batch(sources, config)
    assert search.search_batch(sources, config) == together
    assert [search.search_batch([source], config)[0] for source in sources] == together
    other = GenerationConfig(do_sample=True, max_new_tokens=12, num_return_sequences=3, seed=8, top_k=0)
    assert search.search_batch(sources, other) != together
    unseeded = GenerationConfig(do_sample=True, max_new_tokens=12, num_return_sequences=3)
    assert search.search_batch(sources, unseeded) != search.search_batch(sources, unseeded)


def test_a_sample_is_scored_with_what_the_model_gives_it():
    decoder = ToyDecoder(3)
    config = GenerationConfig(do_sample=True, max_new_tokens=4, num_return_sequences=50, seed=0, temperature=3.0)
    (found,) = BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), config)
    scores = decoder.brute_force(GenerationConfig(max_new_tokens=4))
    assert [title.score for title in found] == pytest.approx([scores[title.ids] for title in found])


def test_a_sample_of_one_token_or_of_no_temperature_is_the_likeliest():
    decoders, sources = [ToyDecoder(seed) for seed in range(20)], toys(*range(20))
    search = BatchDecoder(ToyEngine(decoders), START, END)
    greedy = search.search_batch(sources, GenerationConfig(max_new_tokens=6))
    for options in ({"top_k": 1}, {"temperature": 1e-3}):
        config = GenerationConfig(do_sample=True, max_new_tokens=6, seed=1, **options)
        assert search.search_batch(sources, config) == greedy


def test_top_p_leaves_the_fewest_tokens_that_reach_it():
    config = GenerationConfig(do_sample=True, max_new_tokens=1, num_return_sequences=64, seed=0, top_k=0, top_p=0.5)
    (found,) = BatchDecoder(ToyEngine(EQUAL), START, END).search_batch(toys(0), config)
    assert {title.ids for title in found} == {(0,), (1,)}


@pytest.mark.parametrize("options", [{}, {"num_beams": 3}, {"do_sample": True, "seed": 3}], ids=str)
def test_a_stream_grows_to_what_the_batch_finds(options):
    for seed in range(20):
        search = BatchDecoder(ToyEngine([ToyDecoder(seed)]), START, END)
        config = GenerationConfig(max_new_tokens=6, **options)
        *partial, final = search.stream(*toys(0), config)
        assert final == search.search_batch(toys(0), config)[0][0]
        assert len(partial) <= 6
        if partial and not config.do_sample:
            assert partial[0].ids == (ToyDecoder(seed).table[0, START].argmax(),)
        if config.num_beams == 1:
            assert all(title.ids == final.ids[: len(title.ids)] for title in partial)
    decoders = [ToyDecoder(seed) for seed in range(20)]
    search, sources = BatchDecoder(ToyEngine(decoders), START, END), toys(*range(20))
    told = [[] for _ in sources]
    on_title = {number: told[number].append for number in range(0, 20, 2)}
    assert search.search_batch(sources, config, on_title=on_title) == search.search_batch(sources, config)
    for source, titles in zip(sources, told, strict=True):
        streamed = search.stream(source, config) if source.ids[0] in on_title else []
        assert [title for title, _ in itertools.groupby(titles)] == [title for title, _ in itertools.groupby(streamed)]


@pytest.mark.parametrize("options", [{"num_beams": 2}, {"do_sample": True}], ids=str)
def test_nothing_but_what_is_forbidden_is_an_empty_title(options):
    config = GenerationConfig(suppress_tokens=(0, 1, 2, 3), **options)
    search = BatchDecoder(ToyEngine([ToyDecoder(0)]), START, END)
    with np.errstate(invalid="raise"):
        (found,) = search.search_batch(toys(0), config)
    assert found == [((), -np.inf)]
    if not config.do_sample:
        assert found == ToyDecoder(0).search(ANY, config)


@pytest.mark.parametrize("options", [{"num_beams": 3}, {"do_sample": True, "seed": 3, "top_k": 2}], ids=str)
def test_unused_ids_are_suppressed_tokens(options):
    decoders = [ToyDecoder(seed) for seed in range(20)]
    free, suppressed = (
        GenerationConfig(max_new_tokens=6, suppress_tokens=tokens, **options) for tokens in ((), (2, 3))
    )
    plain = BatchDecoder(ToyEngine(decoders), START, END)
    search = BatchDecoder(ToyEngine(decoders), START, END, unused_ids=range(2, 4))
    sources = toys(*range(20))
    expected = plain.search_batch(sources, suppressed)
    assert search.search_batch(sources, free) == expected != plain.search_batch(sources, free)
    assert [list(search.stream(source, free))[-1] for source in sources] == [titles[0] for titles in expected]
    if "num_beams" in options:
        found = [ToyDecoder(seed, unused_ids=(2, 3)).search(ANY, free)[0].ids for seed in range(20)]
        assert found == [titles[0].ids for titles in expected]


def test_a_model_that_gives_no_numbers_is_told():
    decoder = ToyDecoder(0)
    decoder.table[:] = np.nan
    with pytest.raises(PegasusError, match="gives no numbers"):
        BatchDecoder(ToyEngine([decoder]), START, END).search_batch(toys(0), GenerationConfig())


def test_a_source_that_is_no_longer_wanted_leaves_the_batch():
    decoders = [ToyDecoder(seed) for seed in range(3)]
    engine, asked = ToyEngine(decoders), []
    config = GenerationConfig(num_beams=2, max_new_tokens=20, min_new_tokens=20)

    def is_wanted(number):
        asked.append(number)
        return number != 1 or asked.count(1) < 5

    found = BatchDecoder(engine, START, END).search_batch(toys(0, 1, 2), config, is_wanted=is_wanted)
    alone = [BatchDecoder(ToyEngine(decoders), START, END).search_batch(toys(n), config)[0] for n in (0, 2)]
    assert [found[0], found[2]] == alone
    assert len(found[1][0].ids) == 4
    assert asked.count(1) == 5
    assert engine.rows_computed == 3 + 3 * 3 * 2 + 16 * 2 * 2
    unwanted = GenerationConfig(length_penalty=-1.0)
    (found,) = BatchDecoder(engine, START, END).search_batch(toys(0), unwanted, is_wanted=lambda number: False)
    assert found == [((), 0.0)]


@pytest.mark.parametrize(("sources", "rows"), [(4, 4 * 4 + 16 * 3), (5, 20 * 5)])
def test_a_batch_is_copied_when_a_quarter_has_left(sources, rows):
    """Else one that has left stays in it, and its title as it was."""
    engine = ToyEngine([ToyDecoder(seed) for seed in range(sources)])
    config = GenerationConfig(max_new_tokens=20, min_new_tokens=20)
    asked = []

    def is_wanted(number):
        asked.append(number)
        return number != 1 or asked.count(1) < 5

    found = BatchDecoder(engine, START, END).search_batch(toys(*range(sources)), config, is_wanted=is_wanted)
    assert [len(titles[0].ids) for titles in found] == [4 if number == 1 else 20 for number in range(sources)]
    assert engine.rows_computed == rows


def test_a_decoder_knows_no_hash_of_weights_unless_told():
    assert BatchDecoder(ToyEngine([]), START, END).base_sha256() is None
