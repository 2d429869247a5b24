"""Exports and weights with accidents: the titles of the whole model, or one line. And requests of a service over it."""

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from t5_pegasus import AutoTitle
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines import exported
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.networks.checkpoints import load_weights, named_variables, save_weights
from t5_pegasus.networks.t5 import build_from_config
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
from t5_pegasus.weight_files import check_weights
from tests.hostile.damage import as_json, damaged, damaged_object
from tests.hostile.outcomes import Refused, refusing, some_or_many

TEXT = "一丁七万丈三上下不与" * 3  # of the tokens of the random model
WEIGHTS = ("best_model.weights", "model.safetensors", "model.ckpt")


@pytest.fixture(scope="module")
def whole(random_t5, random_model_dir, tmp_path_factory) -> Path:
    """Return an export of the random model."""
    folder = tmp_path_factory.mktemp("hostile") / "exported"
    export_model(random_t5, random_model_dir / "vocab.txt", folder)
    return folder


@pytest.fixture(scope="module")
def title(whole):
    return AutoTitle.load(whole)


@some_or_many(25, 250)
def test_exports_with_accidents(whole, title, examples):
    """Of the weights, the bytes are counted and not compared: a bit that has changed there may change a title."""
    expected = title.generate(TEXT, max_new_tokens=4)
    contents = {name: (whole / name).read_bytes() for name in exported.FILES}

    @settings(max_examples=examples)
    @given(st.sampled_from(exported.FILES), st.data())
    def attack(name, data):
        changed = data.draw(damaged(contents[name], most=2))
        with tempfile.TemporaryDirectory() as folder:
            export = shutil.copytree(whole, Path(folder) / "export")
            (export / name).write_bytes(changed)
            try:
                with refusing():
                    found = AutoTitle.load(export).generate(TEXT, max_new_tokens=4)
            except Refused:
                return
        assert found == expected or name in exported.WEIGHT_FILES
        assert name not in exported.WEIGHT_FILES or len(changed) == len(contents[name])

    attack()


@pytest.fixture(scope="module")
def t5(random_t5):
    """Return a network to load weights into."""
    return build_from_config(random_t5.config, with_lm="linear")


@some_or_many(10, 100)
@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_with_accidents(random_t5, t5, tmp_path, name, examples):
    """What the check of the file passes is loaded, or refused by its reader; then the model is as it was."""
    save_weights(random_t5, tmp_path / name)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    @settings(max_examples=examples)
    @given(st.sampled_from(sorted(contents)), st.data())
    def attack(file, data):
        before = {each: variable.numpy().copy() for each, variable in named_variables(t5).items()}
        (tmp_path / file).write_bytes(data.draw(damaged(contents[file], most=2)))
        try:
            with refusing():
                check_weights(tmp_path / name)
                load_weights(t5, tmp_path / name)
        except Refused as refused:
            assert isinstance(refused.__cause__, CheckpointError)  # noqa: PT017
            for each, variable in named_variables(t5).items():
                assert (variable.numpy() == before[each]).all()
        finally:
            (tmp_path / file).write_bytes(contents[file])

    attack()


# What is no list of texts, or no text.
WRONG = [None, 5, b"bytes", {"text": "x"}, ["text", None], [["text"]], [1], object()]


@pytest.mark.parametrize("texts", [*WRONG, TEXT], ids=lambda texts: type(texts).__name__)
def test_what_is_no_list_of_texts_is_told(title, texts):
    with pytest.raises(OptionError, match="texts must be a list of texts, got "):
        title.generate_n_best(texts)
    if not isinstance(texts, str):
        with pytest.raises(OptionError, match="texts must be a list of texts, got "):
            title.generate(texts)
        with pytest.raises(OptionError, match="text must be a text, got "):
            title.stream(texts)


def test_any_list_of_texts_is_taken(title):
    expected = title.generate([TEXT, "", TEXT], max_new_tokens=4)
    assert title.generate((TEXT, "", TEXT), max_new_tokens=4) == expected
    assert title.generate(iter([TEXT, "", TEXT]), max_new_tokens=4) == expected
    assert expected[1] == ""
    assert title.generate([], max_new_tokens=4) == []


REQUESTS = {
    "/invocations": {"data": TEXT, "parameters": {"num_beams": 2, "max_new_tokens": 4}},
    "/v1/titles": {"text": [TEXT, TEXT[:5]], "parameters": {"topk": 1, "maxlen": 4}, "stream": False, "timeout": 20},
}
TYPES = ("application/json", "application/jsonlines", "text/plain", "", "x", "application/json; charset=gbk")


@pytest.fixture(scope="module")
def client(whole):
    """Return a client of the service, in this process; an exception that is not answered is raised here."""
    model = Model(whole, None, "auto", None)
    service = make_service(ServingConfig(max_chars=2000), model, GenerationConfig(max_new_tokens=4), DataConfig())
    with TestClient(App(service).asgi) as client:
        while client.get("/ping").status_code != 200:
            pass
        yield client


@some_or_many(40, 300)
@pytest.mark.parametrize("path", REQUESTS)
def test_requests_with_accidents(client, title, path, examples):
    good, key = REQUESTS[path], "results" if path == "/v1/titles" else "result"
    expected = client.post(path, json=good).json()[key]

    @settings(max_examples=examples)
    @given(
        damaged(as_json(good)) | damaged_object(good).map(as_json),
        st.just(TYPES[0]) | st.just(TYPES[0]) | st.sampled_from(TYPES),
    )
    def attack(body, content_type):
        answer = client.post(path, content=body, headers={"content-type": content_type})
        if answer.status_code == 200:
            assert "NaN" not in answer.text
            assert "Infinity" not in answer.text
            if body == as_json(good) and content_type == TYPES[0]:
                assert answer.json()[key] == expected
        else:
            assert 400 <= answer.status_code < 500, answer.text
            error = answer.json()["error"]
            assert error["code"]
            assert error["message"]

    attack()
    # The accidents have left no trace.
    answer = client.post("/invocations", json=REQUESTS["/invocations"]).json()
    assert answer["result"] == title.generate(TEXT, num_beams=2, max_new_tokens=4)
