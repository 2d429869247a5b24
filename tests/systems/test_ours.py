"""Our models, files and services as systems: the titles are those of AutoTitle, of the file, of the answer."""

import contextlib
import http.server
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus import AutoTitle
from t5_pegasus.errors import DataError, PegasusError
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR
from t5_pegasus.systems.ours import files_hash, find_model_dir
from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system

OPTIONS = {"num_beams": 2, "max_new_tokens": 8}


@pytest.fixture(scope="module")
def texts(sample_pairs):
    return [Text(pair.content[:80], (pair.title,)) for pair in sample_pairs[:2]]


def write(system, texts):
    return [each.title for each in system.write(texts, 0)]


def spec_of(kind, **more):
    return parse_spec(f"{kind}?" + "&".join(f"{name}={value}" for name, value in {**OPTIONS, **more}.items()))


def test_titles_of_a_model_are_those_of_auto_title(texts):
    expected = AutoTitle.load(TINY_MODEL_DIR).generate([text.content for text in texts], **OPTIONS)
    assert write(make_system(spec_of("title:tiny")), texts) == expected


def test_models_are_found_by_path_and_by_name(tmp_path, monkeypatch):
    assert (
        find_model_dir("tiny")
        == ROOT / "chinese_t5_pegasus_tiny"
        == find_model_dir("chinese_t5_pegasus_tiny").resolve()
    )
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    assert find_model_dir("tiny").resolve() == tmp_path / "tiny"


def test_the_identity_of_a_model_is_its_files_and_options(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def identity(spec="title:model"):
        return json.dumps(make_system(parse_spec(spec)).identity(), sort_keys=True)

    (tmp_path / "model").mkdir()
    for name in ("config.json", "vocab.txt"):
        (tmp_path / "model" / name).write_text("{}")
    safetensors.numpy.save_file({"a": np.zeros(1)}, tmp_path / "model" / "model.safetensors")
    first = identity()
    assert identity("title:model?batch_tokens=64") == first  # changes no title
    assert identity("title:model?topk=1") == first  # the default
    (tmp_path / "model" / "model.safetensors.onnx").mkdir()  # the cache of exports
    assert identity() == first
    assert len({first, identity("title:model?num_beams=2"), identity("title:model?long_text=window")}) == 3
    (tmp_path / "model" / "generation_config.json").write_text('{"num_beams": 3}')
    second = identity()
    safetensors.numpy.save_file(
        {"a": np.ones(1)}, tmp_path / "best_model.weights"
    )  # found in the run_dir, which is this folder
    third = identity()
    assert len({first, second, third}) == 3


def test_a_hash_of_files_is_of_their_names_and_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_text("same")
    hashes = {files_hash(tmp_path / name) for name in ("a", "b")} | {files_hash(tmp_path)}
    assert len(hashes) == 3
    (tmp_path / "model.ckpt.index").write_text("index")
    before = files_hash(tmp_path / "model.ckpt")
    (tmp_path / "model.ckpt.data-00000-of-00001").write_text("data")
    assert files_hash(tmp_path / "model.ckpt") != before


def test_titles_of_a_file_are_taken_as_they_are(tmp_path, texts):
    path = tmp_path / "titles.jsonl"
    path.write_text('{"title": "一\\t题"}\n{"title": "二题"}\n{"title": "三题"}\n', encoding="utf-8")
    system = make_system(parse_spec(f"predictions:{path}"))
    assert [each.title for each in system.write(texts[:1], 0)] == ["一 题"]
    assert [each.title for each in system.write(texts, 1)] == ["二题", "三题"]
    system.check_count(3, "test.tsv")
    with pytest.raises(DataError, match=r"titles.jsonl has titles for 3 texts, test.tsv has 2: predict that very file"):
        system.check_count(2, "test.tsv")


class Service(http.server.BaseHTTPRequestHandler):
    """Answers each text with its first two characters."""

    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.bodies.append((self.path, body))
        titles = [text[:2] for text in body["data"]][: self.server.most]
        data = json.dumps({"result": titles, "infer_time": "0.1"}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *arguments):
        pass


def test_titles_of_a_service(texts):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.bodies, server.most = [], None
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        url = f"http://127.0.0.1:{server.server_port}"
        system = make_system(spec_of(f"service:{url}", texts_per_request=5))
        assert system.chunk_size == 5
        assert write(system, texts) == [text.content[:2] for text in texts]
        assert server.bodies == [("/invocations", {"data": [text.content for text in texts], "parameters": OPTIONS})]
        server.most = 1
        with pytest.raises(PegasusError, match="must answer a title for each of 2 texts"):
            system.write(texts, 0)
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    with pytest.raises(PegasusError, match=f"no answer from {url}: .*; is the service running"):
        system.write(texts, 0)


@pytest.mark.slow
def test_our_service_answers_its_own_client_and_openais(texts, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    serve = [sys.executable, ROOT / "serve.py", "--model_dir", TINY_MODEL_DIR, "--host", "127.0.0.1"]
    options = [word for name, value in OPTIONS.items() for word in (f"--{name}", str(value))]
    service = subprocess.Popen([*serve, "--port", str(port), *options], env={**os.environ, "NO_PROXY": "127.0.0.1"})
    try:
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                break
            time.sleep(0.1)
        expected = AutoTitle.load(TINY_MODEL_DIR).generate([text.content for text in texts], **OPTIONS)
        assert write(make_system(parse_spec(f"service:http://127.0.0.1:{port}")), texts) == expected
        monkeypatch.setenv("OPENAI_API_KEY", "none")
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        (model,) = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=5))["data"]
        spec = f"openai:{model['id']}?base_url=http://127.0.0.1:{port}/v1&prompt=text&max_tokens=8"
        found = make_system(parse_spec(spec)).write(texts, 0)
        assert [each.title for each in found] == expected
        assert all(each.input_tokens and each.output_tokens for each in found)
    finally:
        service.send_signal(signal.SIGTERM)
        service.wait(30)
