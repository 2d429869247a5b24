"""Unmerged adapters in the keras and onnx engines: those of merged weights, many in a batch, int8 beneath them."""

import dataclasses

import numpy as np
import pytest

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.inputs import Source, Window, make_inputs
from t5_pegasus.decoding.logits import NO_EDITS
from t5_pegasus.decoding.search import BatchDecoder
from t5_pegasus.engines.keras import KerasEngine
from t5_pegasus.engines.onnx import OnnxEngine
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import OptionError, PegasusError
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.t5 import network_of
from tests.engines.test_low_rank import make_adapter

EVERYWHERE = ("q", "k", "v", "o", "wi_0", "wi_1", "wo", "embedding", "head")
SOURCES = [
    Source.whole([11, 12, 13, 14, 15, 16, 17]),
    Source((Window([31, 5, 31, 8], 0, 3), Window([5, 31, 8, 9, 2], 2, 5))),
    Source.whole([41, 42, 43]),
    Source.whole([51, 52, 53, 54, 55, 56, 57, 58, 59]),
]


@pytest.fixture(scope="module")
def network(random_t5):
    return network_of(random_t5)


@pytest.fixture(scope="module")
def adapters(network):
    """Return adapters that change what is written: of all projections, of some, and another rank."""
    return {
        "all": make_adapter(network.description, 1, 3, EVERYWHERE, 0.08),
        "some": make_adapter(network.description, 2, 2, ("q", "v"), 0.3),
        "few": make_adapter(network.description, 3, 1, ("wo",), 0.6, rank_pattern={r"block\.0\..*": 2}),
    }


@pytest.fixture(scope="module")
def make_engine(network, random_t5, random_model_dir, tmp_path_factory):
    """Return a function that makes an engine without adapters."""

    def make(kind):
        if kind == "keras":
            return KerasEngine(network)
        folder = tmp_path_factory.mktemp("exported") / kind
        export_model(random_t5, random_model_dir / "vocab.txt", folder, "int8" if kind == "int8" else "no")
        return OnnxEngine(folder)

    return make


@pytest.fixture(scope="module")
def merged(network, adapters):
    """Return the engines of the weights that each adapter gives when it is merged."""
    weights = {name: network.weights[name].numpy() for name in network.description.weight_shapes()}
    engines = {None: KerasEngine(network)}
    for name, adapter in adapters.items():
        values = {key: tf.Variable(value) for key, value in {**weights, **adapter.merged(weights)}.items()}
        engines[name] = KerasEngine(dataclasses.replace(network, weights=values))
    return engines


def with_adapters(names):
    return [dataclasses.replace(source, adapter=name) for source, name in zip(SOURCES, names, strict=False)]


def log_probs(engine, sources):
    """Return log-probabilities of two steps, the second of two beams, float [sources, 3, vocab_size]."""
    indices, found = np.arange(len(sources), dtype=np.int32), []
    state, width = engine.start(make_inputs(sources)), 1
    for tokens, parents in ([[101]], [[0]]), ([[7, 9]], [[0, 0]]):
        rows = np.repeat(np.array(tokens, np.int32), len(sources), axis=0)
        parents = np.repeat(np.array(parents), len(sources), axis=0) + indices[:, None] * width
        state, best, values = engine.step(state, rows, parents, indices, NO_EDITS, 300)
        found.append(np.take_along_axis(values, np.argsort(best, axis=-1), axis=-1))
        width = rows.shape[1]
    return np.concatenate(found, axis=1)


@pytest.mark.parametrize("kind", ["keras", "onnx"])
def test_a_row_has_the_logits_of_its_adapter_merged(kind, make_engine, adapters, merged):
    """One after the other, so that the graphs are made anew for further projections; windows and beams among them."""
    engine = make_engine(kind)
    plain = log_probs(engine, SOURCES)
    for name in ("few", "some", "all"):
        engine.add_adapter(name, adapters[name])
    assert engine.adapters.names == ("few", "some", "all")
    for names in (["all", "some", None, "few"], ["few", "few", "few", "few"], [None] * 4):
        sources = with_adapters(names)
        found = log_probs(engine, sources)
        for row, name in enumerate(names):
            expected = log_probs(merged[name], SOURCES)[row]
            np.testing.assert_allclose(found[row], expected, atol=2e-4, err_msg=str(name))
            assert name is None or np.abs(expected - plain[row]).max() > 0.5
    with pytest.raises(OptionError, match="adapter must be one of few, some, all, got other"):
        engine.start(make_inputs(with_adapters(["other"])))
    engine.adapters.remove("all")
    np.testing.assert_allclose(log_probs(engine, SOURCES), plain, atol=1e-5)


@pytest.mark.parametrize("kind", [pytest.param("keras", marks=pytest.mark.slow), "onnx", "int8"])
def test_titles_of_a_mixed_batch_are_those_of_each_adapter_alone(kind, make_engine, adapters):
    engine = make_engine(kind)
    for name, adapter in adapters.items():
        engine.add_adapter(name, adapter)
    decoder, config = BatchDecoder(engine, 101, 102), GenerationConfig(num_beams=3, max_new_tokens=9)
    alone = {name: decoder.search_batch(with_adapters([name] * 4), config) for name in (None, *adapters)}
    sources = [(name, row) for name in alone for row in range(4)]
    order = np.random.default_rng(0).permutation(len(sources))
    together = [sources[index] for index in order]
    found = decoder.search_batch([with_adapters([name] * 4)[row] for name, row in together], config)
    for (name, row), titles in zip(together, found, strict=True):
        assert [each.ids for each in titles] == [each.ids for each in alone[name][row]]
        # A rounding to int8 can go the other way.
        assert titles[0].score == pytest.approx(alone[name][row][0].score, abs=0.05 if kind == "int8" else 1e-3)
    titles = {name: frozenset(each[0].ids for each in rows) for name, rows in alone.items()}
    assert len(set(titles.values())) == 4  # each adapter writes something else


def test_an_int8_base_takes_float_adapters(make_engine, adapters, merged):
    engine, names = make_engine("int8"), ["all", "some", None, "few"]
    for name, adapter in adapters.items():
        engine.add_adapter(name, adapter)
    found = log_probs(engine, with_adapters(names))
    for row, name in enumerate(names):
        expected, plain = log_probs(merged[name], SOURCES)[row], log_probs(merged[None], SOURCES)[row]
        error = np.abs(found[row] - expected).mean()
        assert 0 < error < 0.15
        assert name is None or np.abs(found[row] - plain).mean() > 3 * error


def test_without_onnx_it_is_said(make_engine, adapters, monkeypatch):
    engine = make_engine("onnx")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(PegasusError, match="need the package onnx"):
        engine.add_adapter("all", adapters["all"])
    assert engine.adapters.names == ()
