"""A cached step is the full decoder's last position: on a random model, and in the titles of the trained one."""

import subprocess
import sys

import numpy as np
import pytest

from t5_pegasus import AutoTitle, PegasusTokenizer, build_model, export, read_examples, score
from t5_pegasus.config import GenerationConfig, ModelConfig
from t5_pegasus.decoding.inputs import Source, make_inputs, pad
from t5_pegasus.decoding.logits import NO_EDITS, Edits
from t5_pegasus.decoding.search import BatchDecoder
from t5_pegasus.engines import onnx_export
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.backend import bert4keras
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.t5 import network_of
from t5_pegasus.training import precision
from tests.paths import UNTRAINED_MODEL_DIR

SHAPE = {
    "hidden_size": 48,
    "num_hidden_layers": 2,
    "intermediate_size": 64,
    "num_attention_heads": 3,
    "attention_head_size": 16,
}


def random_sources(random, lengths):
    return [random.integers(106, 7000, length).tolist() for length in lengths]


def start(engine, sources):
    return engine.start(make_inputs([Source.whole(ids) for ids in sources]))


@pytest.fixture(params=["keras", "onnx"])
def make_engine(request, tmp_path):
    """Return a function from a model to an engine over it."""

    def make(t5):
        if request.param == "keras":
            return KerasEngine(network_of(t5))
        export_model(t5, UNTRAINED_MODEL_DIR / "vocab.txt", tmp_path / "exported")
        return OnnxEngine(tmp_path / "exported")

    return make


def exchanged(random, position, previous_width):
    """Return the beam that each beam goes on from: as in beam search, where most die out soon."""
    width = 1 if position == 0 else 2 if 10 < position < 30 else 3
    return random.integers(0, previous_width, width)


def independent(random, position, previous_width):
    """Return the beam that each beam goes on from: as in sampling, where each is its own, and some come to an end."""
    width = 1 if position == 0 else 12 if position < 25 else 9
    return np.sort(random.choice(previous_width, width, replace=previous_width < width))


@pytest.mark.parametrize(("cross_position_bias", "go_on"), [(True, exchanged), (False, exchanged), (True, independent)])
def test_cached_steps_equal_the_full_decoder_at_every_position(cross_position_bias, go_on, make_engine):
    """Sources of unlike length, beams that are exchanged, sources that leave: 40 tokens, past the exact buckets."""
    t5 = build_model(UNTRAINED_MODEL_DIR, with_lm="linear", cross_position_bias=cross_position_bias, **SHAPE)
    random = np.random.default_rng(7)
    sources = random_sources(random, (150, 9, 40, 3))
    engine = make_engine(t5)
    state = start(engine, sources)
    alive, prefixes = [0, 1, 2, 3], [[] for _ in range(4)]
    previous_width = 1
    for position in range(40):
        places = np.array({20: [0, 2, 3], 33: [1, 2]}.get(position, range(len(alive))), np.int32)
        alive = [alive[place] for place in places]
        parents = np.stack([place * previous_width + go_on(random, position, previous_width) for place in places])
        previous_width = width = parents.shape[1]
        tokens = random.integers(106, 7000, (len(alive), width)).astype(np.int32)
        prefixes = [[*prefixes[parent], token] for parent, token in zip(parents.ravel(), tokens.ravel(), strict=True)]
        state, best, log_probs = engine.step(state, tokens, parents, places, NO_EDITS, 7000)
        if position % 6 and position not in (20, 33, 39):
            continue
        batch = pad([sources[source] for source in alive for _ in range(width)])
        logits = t5.model([batch, np.array(prefixes, np.int32)])[:, -1].numpy().astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        rows = best.reshape(len(prefixes), -1)
        np.testing.assert_allclose(
            log_probs.reshape(rows.shape), np.take_along_axis(expected, rows, axis=1), atol=1e-4, err_msg=str(position)
        )
        assert (np.sort(rows, axis=1) == np.arange(7000)).all()


@pytest.mark.parametrize("hidden_act", [("gelu_tanh", "linear"), ("gelu_erf", "linear"), ("relu", "linear")])
def test_other_activations_are_the_models(hidden_act, make_engine):
    t5 = build_model(UNTRAINED_MODEL_DIR, with_lm="linear", hidden_act=hidden_act, **SHAPE)
    for variable in t5.model.trainable_variables:
        variable.assign(3 * variable)  # far enough from 0 for one activation to differ from another
    engine, places = make_engine(t5), np.zeros(1, np.int32)
    tokens = np.array([[101]], np.int32)
    _, best, log_probs = engine.step(start(engine, [[101, 500, 102]]), tokens, places[None], places, NO_EDITS, 7000)
    logits = t5.model([np.array([[101, 500, 102]]), tokens])[0, -1].numpy().astype(np.float64)
    expected = logits - logits.max() - np.log(np.exp(logits - logits.max()).sum())
    np.testing.assert_allclose(log_probs[0, 0], expected[best[0, 0]], atol=1e-3)


def test_activations_that_engines_lack_are_refused(make_engine):
    t5 = build_model(UNTRAINED_MODEL_DIR, hidden_act=("silu", "linear"), **SHAPE)
    with pytest.raises(
        OptionError, match=r"hidden_act must be .* for engines keras and onnx, got silu; use engine ref"
    ):
        make_engine(t5)


def test_cached_steps_equal_hugging_face(random_model_dir, make_engine):
    """Without the cross-attention bias, with other buckets than T5's, under padding: see golden/make_mt5.py."""
    golden = np.load(ROOT / "tests" / "golden" / "mt5_logits.npz")
    t5 = build_model(
        random_model_dir,
        weights=ROOT / "tests" / "golden" / "mt5.safetensors",
        num_hidden_layers=3,
        cross_position_bias=False,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=40,
    )
    logits = golden["logits"].astype(np.float64)
    expected = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    engine = make_engine(t5)
    state = start(engine, [row[: np.flatnonzero(row)[-1] + 1].tolist() for row in golden["source_ids"]])
    places = np.arange(len(logits), dtype=np.int32)
    for position, tokens in enumerate(golden["target_ids"].T.astype(np.int32)):
        state, best, log_probs = engine.step(state, tokens[:, None], places[:, None], places, NO_EDITS, 300)
        found = np.take_along_axis(log_probs[:, 0], np.argsort(best[:, 0], axis=-1), axis=-1)
        written = tokens != 0  # a title holds no padding; in the golden batch one is shorter than the other
        np.testing.assert_allclose(found[written], expected[written, position], atol=1e-4, err_msg=str(position))


@pytest.mark.parametrize(("mixed_precision", "tolerance"), [("float16", 0.02), ("bfloat16", 0.15)])
def test_the_keras_engine_computes_in_the_models_type(mixed_precision, tolerance):
    """Near to the model in that type; both are as far from float32, whose steps the other tests hold to 1e-4."""
    with precision(mixed_precision):
        t5 = build_model(UNTRAINED_MODEL_DIR, with_lm="linear", **SHAPE)
    engine = KerasEngine(network_of(t5))
    random = np.random.default_rng(5)
    sources, places = random_sources(random, (30, 12)), np.arange(2, dtype=np.int32)
    prefixes = random.integers(106, 7000, (2, 5)).astype(np.int32)
    for _ in range(2):
        state = start(engine, sources)
        for tokens in prefixes.T:
            state, best, log_probs = engine.step(state, tokens[:, None], places[:, None], places, NO_EDITS, 7000)
        assert state.caches[0].dtype == mixed_precision
        logits = t5.model([pad(sources), prefixes])[:, -1].numpy().astype(np.float64)
        expected = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
        found = np.take_along_axis(log_probs[:, 0], np.argsort(best[:, 0], axis=-1), axis=-1)
        np.testing.assert_allclose(found, expected, atol=tolerance)
        assert np.ptp(expected) > 5 * tolerance
        head = named_variables(t5)["decoder/logits/kernel"]  # a step of training, as it were
        head.assign(-head)


def test_edited_log_probabilities_are_multiplied_and_no_other_changes(make_engine):
    engine = make_engine(build_model(UNTRAINED_MODEL_DIR, **SHAPE))
    state = start(engine, [[101, 500, 102]])
    tokens, zero = np.array([[101]], np.int32), np.zeros(1, np.int32)
    _, best, log_probs = engine.step(state, tokens, zero[None], zero, NO_EDITS, 10)
    edited = best[0, 0, [0, 3, 1]]
    edits = Edits(np.stack([[0, 0, 0], edited], axis=1).astype(np.int32), np.array([np.inf, np.inf, 0.5], np.float32))
    _, others, other_log_probs = engine.step(start(engine, [[101, 500, 102]]), tokens, zero[None], zero, edits, 8)
    np.testing.assert_array_equal(others[0, 0], best[0, 0, [1, 2, 4, 5, 6, 7, 8, 9]])
    np.testing.assert_allclose(other_log_probs[0, 0, 0], log_probs[0, 0, 1] / 2, atol=1e-6)
    np.testing.assert_allclose(other_log_probs[0, 0, 1:], log_probs[0, 0, [2, 4, 5, 6, 7, 8, 9]], atol=1e-6)


OPTIONS = [
    {},
    pytest.param({"num_beams": 2}, marks=pytest.mark.slow),
    {"num_beams": 4, "num_return_sequences": 4},
    pytest.param(
        {"num_beams": 3, "length_penalty": 1.0, "no_repeat_ngram_size": 2, "min_new_tokens": 6}, marks=pytest.mark.slow
    ),
    {"num_beams": 3, "repetition_penalty": 1.5, "suppress_tokens": (104, 105, 1500), "early_stopping": True},
]


def assert_same_titles(found, expected):
    """Assert equal titles and scores, but for one text in a hundred.

    Two tokens whose probabilities differ by a millionth, as those of tokens that training never met do, may change
    places with the last bit of a sum; a beam search that takes the other one can end anywhere.
    """
    different = 0
    for titles, references in zip(found, expected, strict=True):
        if [title.ids for title in titles] == [title.ids for title in references]:
            scores = [title.score for title in references]
            assert [title.score for title in titles] == pytest.approx(scores, abs=1e-4)
        else:
            different += 1
    assert different <= 0.01 * len(expected)


@pytest.fixture(scope="module")
def decoders(trained_dir):
    """Return a decoder over the trained model for every engine, by name."""
    weights = trained_dir / "best_model.weights"
    return {name: AutoTitle.load(trained_dir, weights, name).decoder for name in ("keras", "onnx", "reference")}


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_titles_of_the_trained_model_are_the_references(decoders, trained_title, sample_pairs, options):
    config = GenerationConfig(**options)
    sources = list(map(Source.whole, trained_title.tokenizer.encode_batch([e.content for e in sample_pairs[:6]])))
    expected = decoders["reference"].search_batch(sources, config)
    for name in ("keras", "onnx"):
        assert_same_titles(decoders[name].search_batch(sources, config), expected)
        assert_same_titles([decoders[name].search_batch([source], config)[0] for source in sources], expected)


@pytest.mark.slow
@pytest.mark.parametrize("num_beams", [1, 2, 4])
def test_titles_of_200_abstracts_are_the_references(decoders, trained_title, public_data, num_beams):
    config = GenerationConfig(num_beams=num_beams)
    texts = [example.content for example in read_examples(public_data / "csl" / "test.tsv")][:200]
    sources = list(map(Source.whole, trained_title.tokenizer.encode_batch(texts, 256)))
    expected = decoders["reference"].search_batch(sources, config)
    for name in ("keras", "onnx"):
        found = [decoders[name].search_batch(sources[start : start + 16], config) for start in range(0, 200, 16)]
        assert_same_titles([titles for batch in found for titles in batch], expected)


@pytest.fixture(scope="module")
def int8_dir(trained_dir, tmp_path_factory):
    """Return the trained model exported in int8 by the command line."""
    folder = tmp_path_factory.mktemp("export") / "int8"
    flags = ["--model_dir", str(trained_dir), "--weights", str(trained_dir / "best_model.weights")]
    assert export.main([*flags, "--output_dir", str(folder), "--quantize", "int8"]) == 0
    return folder


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0},
        {"num_beams": 12, "max_new_tokens": 20},  # each has a cache of its own
        {"num_beams": 1, "long_text": "window", "max_source_length": 24},
        {"do_sample": True, "num_return_sequences": 4, "top_k": 0, "temperature": 3.0, "seed": 5},
    ],
)
@pytest.mark.parametrize("quantize", [pytest.param("no", marks=pytest.mark.slow), "int8"])
def test_a_text_has_the_same_bits_in_any_batch(quantize, options, int8_dir, trained_title, sample_pairs):
    """Whatever sources and slots are padded to; so no draw of a seed and no near-tie depends on other texts."""
    title = AutoTitle.load(int8_dir) if quantize == "int8" else trained_title
    texts = [example.content[: 13 * number + 1] for number, example in enumerate(sample_pairs[:11])]
    alone = [title.generate_n_best([text], **options)[0] for text in texts]
    assert title.generate_n_best(texts, **options) == alone
    assert title.generate_n_best(texts[::-3], **options) == alone[::-3]


def test_int8_scores_stay_near_those_of_float32(int8_dir, trained_dir):
    random = np.random.default_rng(3)
    sources = random_sources(random, (30, 80))
    tokens, places = np.full((2, 1), 101, np.int32), np.arange(2, dtype=np.int32)
    weights = trained_dir / "best_model.weights"
    results = []
    for engine in (KerasEngine(network_of(build_model(trained_dir, weights))), OnnxEngine(int8_dir)):
        _, best, log_probs = engine.step(start(engine, sources), tokens, places[:, None], places, NO_EDITS, 12_000)
        results.append(np.take_along_axis(log_probs, np.argsort(best, axis=-1), axis=-1))
    difference = np.abs(results[0] - results[1])
    assert difference[results[0] > -12].max() < 0.5
    assert 0 < difference.mean() < 0.15


@pytest.mark.slow
def test_int8_keeps_rouge_l_on_csl(int8_dir, trained_title, public_data):
    examples = list(read_examples(public_data / "csl" / "test.tsv"))
    contents, references = [e.content for e in examples], [e.title for e in examples]
    scores = [
        score(title.generate(contents), references)["rouge-l"] for title in (AutoTitle.load(int8_dir), trained_title)
    ]
    assert abs(scores[0] - scores[1]) < 0.005


def test_an_exported_model_runs_without_tensorflow(int8_dir, sample_pairs):
    code = (
        "import sys; from t5_pegasus import AutoTitle; "
        f"print(AutoTitle.load({str(int8_dir)!r}).generate({sample_pairs[0].content!r}, topk=2)); "
        "assert not {'tensorflow', 'tf_keras', 'bert4keras', 'onnx'} & set(sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == AutoTitle.load(int8_dir).generate(sample_pairs[0].content, topk=2)


def test_exports_are_whole_and_never_over_something(trained_dir, tmp_path, monkeypatch):
    t5 = build_model(UNTRAINED_MODEL_DIR, **SHAPE)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(OptionError, match="output_dir must be empty or not exist"):
        export_model(t5, UNTRAINED_MODEL_DIR / "vocab.txt", tmp_path / "taken")
    monkeypatch.setattr(onnx_export.shutil, "copyfile", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left")))
    with pytest.raises(OSError, match="No space left"):
        export_model(t5, UNTRAINED_MODEL_DIR / "vocab.txt", tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["taken"]


def test_what_is_no_export_is_said(tmp_path, int8_dir):
    with pytest.raises(CheckpointError, match="is not an exported model"):
        OnnxEngine(tmp_path)
    with pytest.raises(OptionError, match="is an exported model: give no weights"):
        AutoTitle.load(int8_dir, weights="best_model.weights")


def test_a_stock_model_runs_in_the_engine_too():
    config = ModelConfig.load(UNTRAINED_MODEL_DIR, **SHAPE)
    stock = bert4keras.models.build_transformer_model(
        model="mt5.1.1", return_keras_model=False, name="S", **config.to_dict()
    )
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
    sources = list(map(Source.whole, tokenizer.encode_batch(["一段正文。", "另一段长一些的正文。"])))
    options = GenerationConfig(num_beams=2, max_new_tokens=6)
    batched = BatchDecoder(KerasEngine(network_of(stock)), tokenizer.start_id, tokenizer.end_id).search_batch(
        sources, options
    )
    reference = AutoTitle(stock, tokenizer, engine="reference").decoder
    assert_same_titles(batched, reference.search_batch(sources, options))


def test_training_between_two_titles_counts():
    """The engine reads the weights at each step; a copy made once would go on with old ones."""
    t5 = build_model(UNTRAINED_MODEL_DIR, **SHAPE)
    engine = KerasEngine(network_of(t5))
    tokens, zero = np.array([[101]], np.int32), np.zeros(1, np.int32)
    _, best, _ = engine.step(start(engine, [[101, 7, 102]]), tokens, zero[None], zero, NO_EDITS, 1)
    head = named_variables(t5)["decoder/logits/kernel"]
    head.assign(-head)
    _, after, _ = engine.step(start(engine, [[101, 7, 102]]), tokens, zero[None], zero, NO_EDITS, 1)
    assert best[0, 0, 0] != after[0, 0, 0]
