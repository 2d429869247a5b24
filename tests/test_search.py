"""The batched search: held against brute force, against the reference, and against itself in other batches."""

import numpy as np
import pytest
from test_reference import END, START, ToyDecoder

from t5_pegasus.config import GenerationConfig
from t5_pegasus.search import BatchDecoder


class ToyEngine:
    """Engine over the tables of ToyDecoders, one a source; `sources` are [decoder number]. Its state is prefixes."""

    def __init__(self, decoders):
        self.decoders = decoders
        self.rows_computed = 0

    def start(self, sources):
        return [number for (number,) in sources], [[] for _ in sources]

    def step(self, state, tokens, parents, sources, forbidden, top):
        numbers, prefixes = state
        numbers = [numbers[source] for source in sources]
        self.rows_computed += tokens.size
        prefixes = [
            [*prefixes[parent], token] for parent, token in zip(parents.ravel(), tokens.ravel().tolist(), strict=True)
        ]
        rows = []
        for row, prefix in enumerate(prefixes):
            table = self.decoders[numbers[row // tokens.shape[1]]].table
            rows.append(np.log(table[prefix[-2] if len(prefix) > 1 else 0, prefix[-1]] + 1e-12))
        log_probs = np.array(rows)
        for row, token in forbidden:
            log_probs[row, token] = -np.inf
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
    {"num_beams": 5, "min_new_tokens": 3, "no_repeat_ngram_size": 2},
    {"num_beams": 8, "no_repeat_ngram_size": 1, "length_penalty": 2.0, "num_return_sequences": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_batch_gives_what_the_reference_gives_for_each_source(options):
    decoders = [ToyDecoder(seed) for seed in range(60)]
    config = GenerationConfig(max_new_tokens=7, **options)
    search = BatchDecoder(ToyEngine(decoders), START, END)
    found = search.search_batch([[number] for number in range(60)], config)
    for titles, decoder in zip(found, decoders, strict=True):
        expected = decoder.search([1], config)
        assert [title.ids for title in titles] == [title.ids for title in expected]
        assert [title.score for title in titles] == pytest.approx([title.score for title in expected])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_a_beam_as_wide_as_all_titles_finds_the_best_of_all(seed, options):
    decoder = ToyDecoder(seed)
    config = GenerationConfig(max_new_tokens=4, **{**options, "num_beams": 4**4})
    scores = decoder.brute_force(config)
    best = sorted(scores.values(), reverse=True)[: config.num_return_sequences]
    (found,) = BatchDecoder(ToyEngine([decoder]), START, END).search_batch([[0]], config)
    assert len({title.ids for title in found}) == len(best)
    np.testing.assert_allclose([scores[title.ids] for title in found], best, rtol=1e-9)


def test_finished_sources_and_beams_leave_the_batch():
    decoders = [ToyDecoder(seed) for seed in range(60)]
    engine = ToyEngine(decoders)
    config = GenerationConfig(num_beams=4, max_new_tokens=50)
    BatchDecoder(engine, START, END).search_batch([[number] for number in range(60)], config)
    assert engine.rows_computed < 0.25 * 60 * 4 * 50
