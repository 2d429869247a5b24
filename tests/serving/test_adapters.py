"""Adapters of a running service: asked for by name, added and removed while texts are decoded, counted."""

import json
import shutil
import threading
import time

import pytest
from starlette.testclient import TestClient

from t5_pegasus import AutoTitle
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import weights_hash
from t5_pegasus.networks.adapter_files import Record, write_adapter
from t5_pegasus.networks.architectures import describe
from t5_pegasus.serving.adapters import check_folder
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
from tests.engines.test_low_rank import make_adapter

TEXT = "".join(chr(0x4E00 + 7 * k % 90 + 4) for k in range(9))


@pytest.fixture(scope="module")
def made(random_t5, random_model_dir, tmp_path_factory):
    """Return a folder with the adapters `news`, `law` and `sport` of the random model, to be copied."""
    folder = tmp_path_factory.mktemp("made")
    record = Record("random", weights_hash(random_model_dir / "model.safetensors"))
    for seed, name in enumerate(("news", "law", "sport"), 1):
        adapter = make_adapter(describe(random_t5.config), seed, 2, ("q", "v", "wo"), 0.3)
        write_adapter(folder / name, adapter, record)
    return folder


@pytest.fixture(scope="module")
def exported(random_t5, random_model_dir, tmp_path_factory):
    """Return the random model, exported in int8: what starts at once."""
    path = tmp_path_factory.mktemp("serving") / "exported"
    weights = random_model_dir / "model.safetensors"
    export_model(random_t5, random_model_dir / "vocab.txt", path, quantize="int8", weights=weights)
    return path


@pytest.fixture(scope="module")
def expected(made, exported):
    """Return the title that each adapter writes, and the model itself."""
    title = AutoTitle.load(exported)
    titles = {None: title.generate(TEXT, max_new_tokens=6)}
    for name in ("news", "law", "sport"):
        title.add_adapter(name, made / name)
        titles[name] = title.generate(TEXT, max_new_tokens=6, adapter=name)
    assert len(set(titles.values())) == 4
    return titles


@pytest.fixture
def folder(made, tmp_path):
    shutil.copytree(made / "news", tmp_path / "adapters" / "news")
    return tmp_path / "adapters"


@pytest.fixture
def client(folder, exported):
    model = Model(exported, None, "auto", None)
    generation = GenerationConfig(max_new_tokens=6)
    app = App(make_service(ServingConfig(adapters=str(folder)), model, generation, DataConfig()))
    with TestClient(app.asgi) as running:
        wait_until(lambda: running.get("/ping").status_code == 200)
        yield running


def wait_until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


def adapters_of(client):
    return client.get("/v1/model").json()["adapters"]


def model_of(client):
    return client.get("/v1/model").json()["model"]


def title_of(client, adapter):
    answer = client.post("/v1/titles", json={"text": TEXT, **({"adapter": adapter} if adapter else {})})
    assert answer.status_code == 200, answer.text
    return answer.json()["results"][0]["titles"][0]["title"]


def test_adapters_are_asked_for_by_name_and_come_and_go(client, folder, made, expected):
    assert adapters_of(client) == ["news"]
    for name in (None, "news"):
        assert title_of(client, name) == expected[name]
    for path, body in (("/v1/titles", {"text": TEXT}), ("/invocations", {"data": TEXT})):
        answer = client.post(path, json={**body, "adapter": "law"})
        assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_adapter")
        assert answer.json()["error"]["message"] == "there is no such adapter; there are: news"
        assert client.post(path, json={**body, "adapter": 3}).json()["error"]["code"] == "wrong_type"

    # A broken one does not stop the others.
    (folder / "broken").mkdir()
    for name in ("adapter_config.json", "adapter_model.safetensors"):
        (folder / "broken" / name).write_text("{")
    shutil.copytree(made / "law", folder / "law")
    wait_until(lambda: adapters_of(client) == ["news", "law"])
    assert title_of(client, "law") == expected["law"]
    lines = "".join(f'{{"data": "{TEXT}", "adapter": "{name}"}}\n' for name in ("law", "news"))
    answer = client.post("/invocations", content=lines, headers={"Content-Type": "application/jsonlines"})
    found = [json.loads(line)["result"] for line in answer.text.splitlines()]
    assert found == [expected["law"], expected["news"]]

    assert [model["id"] for model in client.get("/v1/models").json()["data"]] == [model_of(client), "news", "law"]
    request = {"model": "law", "messages": [{"role": "user", "content": TEXT}]}
    answer = client.post("/v1/chat/completions", json=request).json()
    assert (answer["model"], answer["choices"][0]["message"]["content"]) == ("law", expected["law"])

    shutil.rmtree(folder / "news")
    wait_until(lambda: adapters_of(client) == ["law"])
    assert client.post("/v1/titles", json={"text": TEXT, "adapter": "news"}).status_code == 422
    shutil.rmtree(folder / "law")
    shutil.copytree(made / "sport", folder / "law")  # another under its name
    wait_until(lambda: "law" in adapters_of(client) and title_of(client, "law") == expected["sport"])
    lines = client.get("/metrics").text.splitlines()
    assert 't5_pegasus_titles_total{adapter="news"} 2.0' in lines
    assert 't5_pegasus_titles_total{adapter=""} 1.0' in lines


def test_the_document_allows_the_names_that_the_service_knows(exported, made, expected):
    """Of --adapter alone, without a folder: it writes unless another is named, and has a name itself."""
    model = Model(exported, None, "auto", None)._replace(adapter=str(made / "news"))
    app = App(make_service(ServingConfig(), model, GenerationConfig(max_new_tokens=6), DataConfig()))
    with TestClient(app.asgi) as running:
        wait_until(lambda: running.get("/ping").status_code == 200)
        assert adapters_of(running) == ["news"]
        assert title_of(running, None) == title_of(running, "news") == expected["news"]
        for unknown in ("law", ""):
            answer = running.post("/v1/titles", json={"text": TEXT, "adapter": unknown})
            assert (answer.status_code, answer.json()["error"]["code"]) == (422, "unknown_adapter")
        operation = running.get("/openapi.json").json()["paths"]["/v1/titles"]["post"]
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["properties"]["adapter"]
        assert schema["anyOf"] == [{"maxLength": 200, "type": "string"}, {"type": "null"}]
        assert "enum" not in schema


@pytest.mark.slow
def test_no_request_is_lost_while_adapters_come_and_go(client, folder, made, expected):
    failures, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            for name in ("news", "law", None):
                answer = client.post("/v1/titles", json={"text": TEXT, "adapter": name})
                if answer.status_code == 422 and name == "law":
                    continue
                found = answer.json()["results"][0]["titles"][0]["title"] if answer.status_code == 200 else answer.text
                if found != expected[name]:
                    failures.append((name, found))

    threads = [threading.Thread(target=ask) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(2):
        shutil.copytree(made / "law", folder / "law")
        wait_until(lambda: "law" in adapters_of(client))
        shutil.rmtree(folder / "law")
        wait_until(lambda: "law" not in adapters_of(client))
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    assert check_folder(None) is None
    with pytest.raises(OptionError, match="adapters must be a folder, got "):
        check_folder(str(tmp_path / "none"))
