"""A cached step is the full decoder's last position: on a random model, and in the titles of the trained one."""

import numpy as np
import pytest

from t5_pegasus import AutoTitle, PegasusTokenizer, build_model, read_examples
from t5_pegasus.backend import bert4keras
from t5_pegasus.batching import pad
from t5_pegasus.checkpoints import named_variables
from t5_pegasus.config import GenerationConfig, ModelConfig
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.locations import TINY_MODEL_DIR
from t5_pegasus.search import BatchDecoder

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "attention_head_size": 16,
}
NONE_FORBIDDEN = np.zeros((0, 2), np.int32)


def random_sources(random, lengths):
    return [random.integers(106, 7000, length).tolist() for length in lengths]


@pytest.mark.parametrize("cross_position_bias", [True, False])
def test_cached_steps_equal_the_full_decoder_at_every_position(cross_position_bias):
    """Sources of unlike length, beams that change places, sources that leave: 40 tokens, past the exact buckets."""
    t5 = build_model(TINY_MODEL_DIR, with_lm="linear", cross_position_bias=cross_position_bias, **SHAPE)
    random = np.random.default_rng(7)
    sources = random_sources(random, (150, 9, 40, 3))
    engine = KerasEngine(t5)
    state = engine.start(sources)
    alive, prefixes = [0, 1, 2, 3], [[] for _ in range(4)]
    previous_width = 1
    for position in range(40):
        places = np.array([0, 2, 3] if position == 20 else range(len(alive)), np.int32)
        alive = [alive[place] for place in places]
        width = 1 if position == 0 else 2 if 10 < position < 30 else 3
        parents = places[:, None] * previous_width + random.integers(0, previous_width, (len(alive), width))
        previous_width = width
        tokens = random.integers(106, 7000, (len(alive), width)).astype(np.int32)
        prefixes = [[*prefixes[parent], token] for parent, token in zip(parents.ravel(), tokens.ravel(), strict=True)]
        state, best, log_probs = engine.step(state, tokens, parents, places, NONE_FORBIDDEN, 7000)
        if position % 6 and position not in (20, 39):
            continue
        batch = pad([sources[source] for source in alive for _ in range(width)])
        logits = t5.model.predict([batch, np.array(prefixes, np.int32)], verbose=0)[:, -1].astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = best.reshape(len(prefixes), -1)
        np.testing.assert_allclose(
            log_probs.reshape(rows.shape), np.take_along_axis(expected, rows, axis=1), atol=1e-4, err_msg=str(position)
        )
        assert (np.sort(rows, axis=1) == np.arange(7000)).all()


def test_forbidden_tokens_never_come_back_and_change_no_other():
    t5 = build_model(TINY_MODEL_DIR, **SHAPE)
    engine = KerasEngine(t5)
    state = engine.start([[101, 500, 102]])
    tokens, zero = np.array([[101]], np.int32), np.zeros(1, np.int32)
    _, best, log_probs = engine.step(state, tokens, zero[None], zero, NONE_FORBIDDEN, 10)
    forbidden = np.array([[0, best[0, 0, 0]], [0, best[0, 0, 3]], [0, best[0, 0, 3]]], np.int32)
    _, others, other_log_probs = engine.step(state, tokens, zero[None], zero, forbidden, 8)
    kept = [1, 2, 4, 5, 6, 7, 8, 9]
    np.testing.assert_array_equal(others[0, 0], best[0, 0, kept])
    np.testing.assert_allclose(other_log_probs[0, 0], log_probs[0, 0, kept], atol=1e-6)


OPTIONS = [
    {},
    {"num_beams": 2},
    {"num_beams": 4, "num_return_sequences": 4},
    {"num_beams": 3, "length_penalty": 1.0, "no_repeat_ngram_size": 2, "min_new_tokens": 6},
]


def assert_same_titles(found, expected):
    """Assert equal titles, but for a few in which two beams were a hair's breadth apart."""
    different = 0
    for titles, references in zip(found, expected, strict=True):
        scores = [title.score for title in references]
        assert [title.score for title in titles] == pytest.approx(scores, abs=1e-4)
        different += [title.ids for title in titles] != [title.ids for title in references]
    assert different <= 0.02 * len(expected)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_titles_of_the_trained_model_are_the_references(trained_dir, trained_title, sample_pairs, options):
    config = GenerationConfig(**options)
    reference = AutoTitle.load(TINY_MODEL_DIR, trained_dir / "best_model.weights", engine="reference").decoder
    sources = trained_title.tokenizer.encode_batch([example.content for example in sample_pairs[:12]])
    expected = reference.search_batch(sources, config)
    assert_same_titles(trained_title.decoder.search_batch(sources, config), expected)
    assert_same_titles([trained_title.decoder.search_batch([source], config)[0] for source in sources], expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_titles_of_200_abstracts_are_the_references(trained_dir, trained_title, public_data, num_beams):
    config = GenerationConfig(num_beams=num_beams)
    texts = [example.content for example in read_examples(public_data / "csl" / "test.tsv")][:200]
    sources = trained_title.tokenizer.encode_batch(texts, 256)
    reference = AutoTitle.load(TINY_MODEL_DIR, trained_dir / "best_model.weights", engine="reference").decoder
    found = [
        title
        for start in range(0, 200, 16)
        for title in trained_title.decoder.search_batch(sources[start:][:16], config)
    ]
    assert_same_titles(found, reference.search_batch(sources, config))


def test_a_stock_model_runs_in_the_engine_too():
    config = ModelConfig.load(TINY_MODEL_DIR, **SHAPE)
    stock = bert4keras.models.build_transformer_model(
        model="mt5.1.1", return_keras_model=False, name="S", **config.to_dict()
    )
    tokenizer = PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")
    sources = tokenizer.encode_batch(["一段正文。", "另一段长一些的正文。"])
    options = GenerationConfig(num_beams=2, max_new_tokens=6)
    batched = BatchDecoder(KerasEngine(stock), tokenizer.start_id, tokenizer.end_id).search_batch(sources, options)
    reference = AutoTitle(stock, tokenizer, engine="reference").decoder
    assert_same_titles(batched, reference.search_batch(sources, options))


def test_training_between_two_titles_counts():
    """The engine reads the weights at each step; a copy made once would go on with old ones."""
    t5 = build_model(TINY_MODEL_DIR, **SHAPE)
    engine = KerasEngine(t5)
    tokens, zero = np.array([[101]], np.int32), np.zeros(1, np.int32)
    _, best, _ = engine.step(engine.start([[101, 7, 102]]), tokens, zero[None], zero, NONE_FORBIDDEN, 1)
    head = named_variables(t5)["decoder/logits/kernel"]
    head.assign(-head)
    _, after, _ = engine.step(engine.start([[101, 7, 102]]), tokens, zero[None], zero, NONE_FORBIDDEN, 1)
    assert best[0, 0, 0] != after[0, 0, 0]
