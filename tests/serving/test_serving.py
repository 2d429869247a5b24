"""The service as its clients see it: over loopback, by their own libraries, and with everything they may do wrong."""

import concurrent.futures
import dataclasses
import itertools
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import boto3
import httpx
import jsonschema_rs
import pytest
import schemathesis
from botocore.config import Config as BotoConfig
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import positive_data_acceptance
from werkzeug.datastructures import MIMEAccept
from werkzeug.http import parse_accept_header

import serve
from t5_pegasus import AutoTitle, locations
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.serving.bodies import preferred_type
from t5_pegasus.serving.errors import ServiceError
from t5_pegasus.serving.logs import JsonFormatter
from t5_pegasus.serving.options import (
    LIMITS,
    Model,
    ServingConfig,
    find_model,
    make_service,
    options_from_environment,
    read_api_keys,
)
from t5_pegasus.serving.schemas import RANGES, Schemas, inline_schema, validate
from tests.serving.processes import workers
from tests.serving.running import TEXT, Fake, text_of, wait_for

# --- SageMaker's contract ---------------------------------------------------------------------------------------------


def test_ping_says_when_the_model_answers(start, title):
    loaded = threading.Event()

    def load() -> AutoTitle:
        assert loaded.wait(20)
        return title

    running = start(load, ready=False)
    for path, answer in (
        ("/ping", running.client.get("/ping")),
        ("/invocations", running.post("/invocations", {"data": TEXT})),
        ("/v1/titles", running.post("/v1/titles", {"text": TEXT})),
    ):
        assert answer.status_code == 503, path
        assert answer.json()["error"]["code"] == "loading"
        assert int(answer.headers["retry-after"]) > 0
    assert running.client.get("/v1/model").json()["source_prefix"] is None
    loaded.set()
    running.wait_until_ready()
    assert running.client.get("/v1/model").json()["source_prefix"] == ""
    assert running.client.get("/ping").json() == {"status": "ready"}


def test_invocations_answer_as_sagemakers_clients_expect(service, title):
    answer = service.post("/invocations", {"data": TEXT}).json()
    assert answer["result"] == title.generate(TEXT, max_new_tokens=8)
    assert isinstance(answer["infer_time"], str)
    assert 0 < float(answer["infer_time"]) < 20
    texts = [text_of(number, 10 + number) for number in range(3)]
    parameters = {"num_beams": 4, "max_new_tokens": 6}
    answer = service.post("/invocations", {"data": texts, "parameters": {**parameters, "num_beams": 4.0}}).json()
    assert answer["result"] == title.generate(texts, **parameters)
    answer = service.post("/invocations", {"data": texts, "parameters": {**parameters, "num_return_sequences": 2}})
    expected = title.generate_n_best(texts, num_return_sequences=2, **parameters)
    assert [[each["title"] for each in titles] for titles in answer.json()["titles"]] == [
        [each.text for each in titles] for titles in expected
    ]


def test_other_content_types_come_in_and_go_out(service, title):
    expected = title.generate(TEXT, max_new_tokens=8)
    post = service.client.post
    plain = {"Content-Type": "text/plain; charset=utf-8"}
    assert post("/invocations", content=TEXT.encode(), headers=plain).json()["result"] == expected
    answer = post("/invocations", content=TEXT.encode(), headers={**plain, "Accept": "text/plain"})
    assert answer.text == expected
    assert answer.headers["content-type"] == "text/plain; charset=utf-8"
    lines = [{"data": TEXT}, {"data": [TEXT, "万"], "parameters": {"num_beams": 3}}]
    body = "\ufeff" + "\r\n".join(map(json.dumps, lines)) + "\n\n"
    answer = post("/invocations", content=body.encode(), headers={"Content-Type": "application/jsonlines"})
    assert answer.headers["content-type"] == "application/jsonlines"
    first, second = map(json.loads, answer.text.splitlines())
    assert first["result"] == expected
    assert second["result"] == title.generate([TEXT, "万"], num_beams=3, max_new_tokens=8)
    headers = {"Content-Type": "application/jsonlines", "Accept": "application/json"}
    answer = post("/invocations", content=body.encode(), headers=headers).json()
    assert answer["result"] == [first["result"], *second["result"]]


RANGES_OF_TYPES = ("application/json", "application/jsonlines", "text/plain", "application/*", "text/*", "*/*", "a/b")
OFFERS = ("application/jsonlines", "application/json", "text/plain")


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", OFFERS[0]),
        ("*/*", OFFERS[0]),
        (" , ,", OFFERS[0]),
        ("text/plain, application/json", "text/plain"),
        ("text/plain;q=0.5, application/json;q=0.8", "application/json"),
        ("text/plain;q=0, */*", OFFERS[0]),
        ("application/jsonlines;q=0, */*", "application/json"),
        ("application/*;q=0, */*", "text/plain"),
        ("*/*;q=0", None),
        ("text/plain; charset=utf-8; Q=0", None),
        ("image/png, text/html", None),
        ("APPLICATION/JSON", "application/json"),
        ("text/*;q=0.2, application/json;q=0.1", "text/plain"),
        ("text/plain;q=x, application/json;q=0.1", "application/json"),
    ],
)
def test_the_type_of_the_answer_is_the_preferred_one(accept, expected):
    assert preferred_type(accept, OFFERS) == expected


@given(
    st.lists(
        st.tuples(st.sampled_from(RANGES_OF_TYPES), st.sampled_from([None, 0, 0.001, 0.5, 1])), unique_by=lambda x: x[0]
    )
)
def test_the_preferred_type_has_the_highest_quality_by_another_reading(ranges):
    header = ", ".join(name if weight is None else f"{name};q={weight}" for name, weight in ranges)
    if not header:
        return
    qualities = {offer: parse_accept_header(header, MIMEAccept).quality(offer) for offer in OFFERS}
    found = preferred_type(header, OFFERS)
    assert qualities.get(found, 0) == max(qualities.values())
    assert (found is None) == (max(qualities.values()) == 0)


def test_what_is_not_accepted_is_not_sent(service):
    asked = {"data": TEXT, "parameters": {"max_new_tokens": 1}}
    answer = service.post("/invocations", asked, headers={"Accept": "application/json;q=0, */*;q=0.1"})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/jsonlines")
    answer = service.post("/invocations", asked, headers={"Accept": "application/json;q=0"})
    assert (answer.status_code, answer.json()["error"]["code"]) == (406, "not_acceptable")


def test_boto3s_runtime_client_works_unchanged(service, title):
    client = boto3.client(
        "sagemaker-runtime",
        endpoint_url=service.url,
        region_name="cn-north-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
        config=BotoConfig(retries={"max_attempts": 0}, proxies={}),
    )
    answer = client.invoke_endpoint(
        EndpointName="pegasus", ContentType="application/json", Body=json.dumps({"data": TEXT})
    )
    assert json.loads(answer["Body"].read())["result"] == title.generate(TEXT, max_new_tokens=8)
    with pytest.raises(client.exceptions.ClientError) as caught:
        client.invoke_endpoint(EndpointName="pegasus", ContentType="application/json", Body=b"{}")
    assert caught.value.response["ResponseMetadata"]["HTTPStatusCode"] == 422
    assert caught.value.response["Error"]["Message"] == "the field is missing (data)"


def test_sagemakers_variables_are_options(tmp_path, exported_dir, monkeypatch):
    variables = {
        "SAGEMAKER_BIND_TO_PORT": "8090",
        "SAGEMAKER_SAFE_PORT_RANGE": "8090-8100",
        "SAGEMAKER_MODEL_SERVER_WORKERS": "2",
        "SAGEMAKER_MODEL_SERVER_TIMEOUT": "30",
        "SAGEMAKER_MAX_PAYLOAD_IN_MB": "3",
        "SAGEMAKER_DEFAULT_INVOCATIONS_ACCEPT": "application/jsonlines",
        "SAGEMAKER_CONTAINER_LOG_LEVEL": "30",
        "SAGEMAKER_REGION": "cn-north-1",
    }
    config = ServingConfig(**options_from_environment(variables))
    assert (config.port, config.workers, config.timeout, config.max_body_bytes) == (8090, 2, 30, 3 * 2**20)
    assert (config.default_accept, config.log_level) == ("application/jsonlines", "warning")
    with pytest.raises(OptionError, match="SAGEMAKER_BIND_TO_PORT has a value that port cannot have: http"):
        options_from_environment({"SAGEMAKER_BIND_TO_PORT": "http"})

    monkeypatch.setenv("SAGEMAKER_BASE_DIR", str(tmp_path))
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "best_model.weights").touch()
    monkeypatch.setattr(locations, "check_weights", lambda path: None)
    given = (None, None, "auto", None, ".")
    weights = str(tmp_path / "model" / "best_model.weights")
    assert find_model(*given).weights == weights
    for name in ("config.json", "vocab.txt"):
        (tmp_path / "model" / name).touch()
    assert find_model(*given) == Model(tmp_path / "model", weights, "auto", None)
    assert find_model(str(exported_dir), *given[1:]).model_dir == exported_dir


# --- our own API ------------------------------------------------------------------------------------------------------


def test_titles_come_with_their_scores(service, title):
    parameters = {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 1}
    answer = service.post("/v1/titles", {"text": [TEXT, "万" * 400], "parameters": parameters}).json()
    expected = title.generate_n_best([TEXT, "万" * 400], max_new_tokens=8, **parameters)
    for result, titles in zip(answer["results"], expected, strict=True):
        assert [each["title"] for each in result["titles"]] == [each.text for each in titles]
        assert [each["score"] for each in result["titles"]] == pytest.approx([each.score for each in titles], abs=1e-4)
    assert [result["truncated"] for result in answer["results"]] == [False, True]
    assert [result["source_tokens"] for result in answer["results"]] == [32, 256]


def read_events(response: Any) -> list[tuple[str, Any]]:
    blocks = [block.split("\n") for block in response.text.split("\n\n") if block.startswith("event")]
    return [(name.removeprefix("event: "), json.loads(data.removeprefix("data: "))) for name, data in blocks]


def test_a_stream_grows_to_the_answer_without_it(service, title):
    request = {"text": TEXT, "parameters": {"num_beams": 3, "num_return_sequences": 2}}
    response = service.post("/v1/titles", {**request, "stream": True})
    assert response.headers["content-type"].startswith("text/event-stream")
    *partial, (name, done) = read_events(response)
    assert (name, {each for each, _ in partial}) == ("done", {"title"})
    assert [text for text, _ in itertools.groupby(data["title"] for _, data in partial)] == [
        each.text for each in title.stream(TEXT, max_new_tokens=8, num_beams=3, num_return_sequences=2)
    ]
    assert done["results"] == service.post("/v1/titles", request).json()["results"]
    assert partial[-1][1] == done["results"][0]["titles"][0]


def test_the_model_tells_what_it_admits(service):
    answer = service.client.get("/v1/model").json()
    assert answer["max_chars"] == 2000
    assert answer["parameters"]["num_beams"] == {
        "default": 1,
        "description": "beams; 1 is greedy decoding",
        "maximum": 8,
        "minimum": 1,
        "type": "integer",
    }
    assert answer["parameters"].keys() == {f.name for f in dataclasses.fields(GenerationConfig)} - {"batch_tokens"}


# --- batches ----------------------------------------------------------------------------------------------------------


def test_texts_that_arrive_together_are_answered_as_if_alone(start, title):
    running = start(batch_wait_ms=50, max_queue=500)
    options = [{}, {"num_beams": 3}, {"num_beams": 2, "max_new_tokens": 5}, {"do_sample": True, "seed": 3, "top_k": 5}]
    asked = [(text_of(number, 3 + number * 7 % 90), options[number % 4]) for number in range(80)]
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        answers = list(
            pool.map(lambda each: running.post("/v1/titles", {"text": each[0], "parameters": each[1]}).json(), asked)
        )
    for (text, given_options), answer in zip(asked, answers, strict=True):
        ((expected,),) = title.generate_n_best([text], **{"max_new_tokens": 8, **given_options})
        (found,) = answer["results"][0]["titles"]
        assert found["title"] == expected.text
        assert found["score"] == pytest.approx(expected.score, abs=1e-4)
    metrics = running.client.get("/metrics").text
    batches, texts = (
        float(re.search(rf"^t5_pegasus_batch_size_{n} (.*)$", metrics, re.M)[1]) for n in ("count", "sum")
    )
    assert texts == 80
    assert batches < 30


def test_a_batch_is_within_its_budget_of_tokens(start, title):
    fake = Fake(title)
    generation = GenerationConfig(max_new_tokens=8, batch_tokens=100)
    running = start(lambda: fake, generation=generation, batch_wait_ms=20)
    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        first = pool.submit(running.post, "/invocations", {"data": TEXT})
        assert fake.entered.wait(5)
        # 30 tokens and [CLS] and [SEP], three of them in 100; one of more than 100 tokens is decoded alone.
        rest = [pool.submit(running.post, "/invocations", {"data": TEXT}) for _ in range(7)]
        long = pool.submit(running.post, "/invocations", {"data": TEXT * 5})
        while running.app.metrics.queue_length._value.get() < 8:
            time.sleep(0.01)
        fake.gate.set()
        assert {each.result().status_code for each in [first, *rest, long]} == {200}
    assert sorted(fake.batches) == [1, 1, 1, 3, 3] or sorted(fake.batches) == [1, 1, 2, 2, 3]


def test_streams_are_decoded_with_others(start, title):
    fake = Fake(title)
    running = start(lambda: fake)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        first = pool.submit(running.post, "/v1/titles", {"text": TEXT, "stream": True})
        assert fake.entered.wait(5)
        asked = [{"text": text_of(number, 9), "stream": number < 4} for number in range(6)]
        others = [pool.submit(running.post, "/v1/titles", each) for each in asked]
        wait_for(lambda: running.app.metrics.queue_length._value.get() == 6)
        fake.gate.set()
        answers = [each.result() for each in others]
        first.result()
    assert fake.batches == [1, 6]
    for each, answer in zip(asked, answers, strict=True):
        events = read_events(answer) if each["stream"] else [("done", answer.json())]
        titles = [data["title"] for name, data in events if name == "title"]
        assert titles == ([each["text"][:1]] if each["stream"] else [])
        assert events[-1][1]["results"][0]["titles"][0]["title"] == each["text"]


def test_who_is_alone_does_not_wait_for_others(start, title):
    fake = Fake(title)
    fake.gate.set()
    running = start(lambda: fake, batch_wait_ms=1000)
    begin = time.monotonic()
    for _ in range(3):
        assert running.post("/invocations", {"data": TEXT}).status_code == 200
    assert time.monotonic() - begin < 1
    assert running.post("/invocations", {"data": [TEXT, TEXT]}).status_code == 200
    assert fake.batches == [1, 1, 1, 2]


def test_what_fails_for_one_text_spoils_no_other(start, title, caplog):
    fake = Fake(title)
    fake.poison = fake.tokenizer.encode("丈")[1]
    fake.gate.set()
    running = start(lambda: fake, batch_wait_ms=100)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(lambda text: running.post("/invocations", {"data": text}), ["一丁", "丈", "七万"]))
    assert [each.status_code for each in answers] == [200, 500, 200]
    assert answers[1].json()["error"] == {"code": "internal", "message": "the service failed; its log says why"}
    lines = [JsonFormatter(log_text=False).format(record) for record in caplog.records]
    assert any('"exception": "RuntimeError"' in line and "search_batch" in line for line in lines)
    assert not any("cannot decode" in line for line in lines)


# --- limits -----------------------------------------------------------------------------------------------------------


def test_a_full_queue_says_when_to_come_again(start, title):
    fake = Fake(title)
    running = start(lambda: fake, max_queue=2, max_texts=2, batch_wait_ms=0)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        first = pool.submit(running.post, "/invocations", {"data": TEXT})
        assert fake.entered.wait(5)
        waiting = [pool.submit(running.post, "/invocations", {"data": TEXT}) for _ in range(2)]
        while running.app.metrics.queue_length._value.get() < 2:
            time.sleep(0.01)
        refused = running.post("/invocations", {"data": TEXT})
        assert refused.status_code == 503
        assert refused.json()["error"]["code"] == "queue_full"
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert running.client.get("/ping").status_code == 200
        fake.gate.set()
        assert [each.result().status_code for each in [first, *waiting]] == [200] * 3


def test_texts_that_are_not_encoded_yet_have_deadlines_and_places_in_the_queue(start, title):
    fake = Fake(title)
    fake.gate.set()
    fake.may_encode.clear()
    running = start(lambda: fake, max_queue=3, max_texts=2)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        first = pool.submit(running.post, "/v1/titles", {"text": "一丁"})
        wait_for(lambda: fake.encoded == ["一丁"])
        second = pool.submit(running.post, "/v1/titles", {"text": ["七万", "丈三"], "timeout": 1.5})
        wait_for(lambda: running.app.metrics.queue_length._value.get() == 3)
        refused = running.post("/v1/titles", {"text": "上"})
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "queue_full")
        assert second.result().json()["error"]["code"] == "deadline_exceeded"
        # The answer may come before its texts are given up: that is the event loop's next turn.
        wait_for(lambda: wanted(running) == ["一丁"])
        third = pool.submit(running.post, "/v1/titles", {"text": ["上下", "不与"]})
        wait_for(lambda: wanted(running) == ["一丁", "上下", "不与"])
        fake.may_encode.set()
        assert [each.result().status_code for each in (first, third)] == [200, 200]
    assert fake.encoded == ["一丁", "上下", "不与"]


def wanted(running) -> list[str]:
    return [job.text for job in running.app.batcher._queue if job.is_wanted]


def test_an_idle_service_has_no_queue(start, title):
    fake = Fake(title)
    running = start(lambda: fake)
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        first = pool.submit(running.post, "/invocations", {"data": TEXT})
        assert fake.entered.wait(5)
        assert running.post("/v1/titles", {"text": TEXT, "timeout": 0.1}).status_code == 504
        fake.gate.set()
        assert first.result().status_code == 200
    wait_for(lambda: running.app.metrics.queue_length._value.get() == 0)


@pytest.mark.parametrize("stream", [False, True])
def test_past_its_deadline_a_request_is_given_up(start, title, stream):
    fake = Fake(title)
    running = start(lambda: fake)
    answer = running.post("/v1/titles", {"text": TEXT, "timeout": 0.2, "stream": stream})
    if stream:
        assert read_events(answer)[-1][0] == "error"
        assert read_events(answer)[-1][1]["error"]["code"] == "deadline_exceeded"
    else:
        assert answer.status_code == 504
        assert answer.json()["error"]["code"] == "deadline_exceeded"
    wait_for(lambda: fake.given_up == [0])
    wait_for(lambda: running.app.batcher._busy_since is None)


def test_work_for_a_client_who_has_gone_is_given_up(start, title):
    fake = Fake(title)
    running = start(lambda: fake)
    body = json.dumps({"data": TEXT}).encode()
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(head(len(body)) + body)
        assert fake.entered.wait(5)
    wait_for(lambda: fake.given_up == [0])
    wait_for(lambda: 'status="499"' in running.client.get("/metrics").text)


def head(length: int | None, path: str = "/invocations", content_type: str = "application/json") -> bytes:
    size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
    return f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: {content_type}\r\n{size}\r\n\r\n".encode()


def receive(client: socket.socket) -> bytes:
    client.settimeout(5)
    answer = b""
    while b"}}" not in answer:
        part = client.recv(65536)
        if not part:
            break
        answer += part
    return answer


def test_a_body_over_the_limit_is_refused_while_it_is_read(service):
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(head(100_000_000) + b"{")
        assert b"413" in receive(client)
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(head(None))
        chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
        for _ in range(4):
            client.sendall(chunk)
        answer = receive(client)  # though the body has not come to its end
        assert b"413" in answer
        assert b"body_too_large" in answer
    # Who sends it all before reading gets his answer too.
    answer = service.client.post("/v1/titles", content=b" " * 30_000_000, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413


def test_bodies_beyond_the_memory_for_them_are_refused(start):
    running = start(max_body_bytes=100_000)
    running.app.bodies._room = 200_000
    with socket.create_connection(("127.0.0.1", running.port)) as client:
        client.sendall(head(99_000) + b" " * 80_000)
        wait_for(lambda: running.app.bodies._room < 65_000)
        answer = running.post("/invocations", {"data": TEXT})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "busy")
        assert int(answer.headers["retry-after"]) > 0
        assert running.client.get("/ping").status_code == 200
    wait_for(lambda: running.app.bodies._room == 200_000)
    assert running.post("/invocations", {"data": TEXT}).status_code == 200


def test_many_unknown_keys_are_told_of_one(monkeypatch):
    schemas = Schemas(ServingConfig(), GenerationConfig(), 300)
    monkeypatch.setattr(schemas.Invocation, "model_validate", None)  # it would tell of each
    many = dict.fromkeys(["data", "\ud83d", *map(str, range(100))], "a")
    for value, code, field in (
        (many, "unknown_field", "?"),
        ({"data": "a", "parameters": many}, "unknown_option", "parameters.data"),
    ):
        with pytest.raises(ServiceError) as caught:
            validate(schemas.Invocation, value)
        assert (caught.value.code, caught.value.field) == (code, field)


def test_a_body_that_comes_too_slowly_is_refused(service):
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(head(100) + b'{"data":')
        answer = receive(client)
        assert b"408" in answer
        assert b"body_timeout" in answer


JSON, LINES, PLAIN = "application/json", "application/jsonlines", "text/plain"
BAD = [
    (b"{", JSON, 400, "invalid_json", None),
    (b"{'data': 1}", JSON, 400, "invalid_json", None),
    (b'{"data": NaN}', JSON, 400, "invalid_json", None),
    (b"[" * 90_000, JSON, 400, "invalid_json", None),
    (b'{"data": ' + b"1" * 5000 + b"}", JSON, 400, "invalid_json", None),
    (b"", JSON, 400, "invalid_json", None),
    ("正文".encode("gb18030"), PLAIN, 400, "invalid_utf8", None),
    ('{"data": "正文"}'.encode("gb18030"), JSON, 400, "invalid_utf8", None),
    (b'{"data": "\\ud83d"}', JSON, 422, "invalid_unicode", "data"),
    (b'"text"', JSON, 422, "wrong_type", None),
    (b"null", JSON, 422, "wrong_type", None),
    (b"{}", JSON, 422, "missing_field", "data"),
    (b'{"data": 5}', JSON, 422, "wrong_type", "data"),
    (b'{"data": null}', JSON, 422, "wrong_type", "data"),
    (b'{"data": ["a", 5]}', JSON, 422, "wrong_type", "data.1"),
    (b'{"data": ""}', JSON, 422, "empty_text", "data"),
    ('{"data": ["万", " \u3000\\n"]}'.encode(), JSON, 422, "empty_text", "data.1"),
    (b'{"data": []}', JSON, 422, "empty_list", "data"),
    (b'{"data": "' + b"a" * 2001 + b'"}', JSON, 422, "text_too_long", "data"),
    (b'{"data": ["a","a","a","a","a","a","a","a","a"]}', JSON, 422, "too_many_texts", "data"),
    (b'{"data": "a", "text": "a"}', JSON, 422, "unknown_field", "text"),
    (b'{"data": "a", "parameters": 4}', JSON, 422, "wrong_type", "parameters"),
    (b'{"data": "a", "parameters": {"beams": 4}}', JSON, 422, "unknown_option", "parameters.beams"),
    (b'{"data": "a", "parameters": {"num_beams": "4"}}', JSON, 422, "wrong_type", "parameters.num_beams"),
    (b'{"data": "a", "parameters": {"num_beams": true}}', JSON, 422, "wrong_type", "parameters.num_beams"),
    (b'{"data": "a", "parameters": {"num_beams": 0}}', JSON, 422, "out_of_range", "parameters.num_beams"),
    (b'{"data": "a", "parameters": {"num_beams": 99}}', JSON, 422, "out_of_range", "parameters.num_beams"),
    (b'{"data": "a", "parameters": {"topk": 99}}', JSON, 422, "out_of_range", "parameters.topk"),
    (b'{"data": "a", "parameters": {"suppress_tokens": [300]}}', JSON, 422, "out_of_range", None),
    (b'{"data": "a", "parameters": {"length_penalty": 1e999}}', JSON, 422, "out_of_range", None),
    (b'{"data": "a", "parameters": {"num_return_sequences": 3}}', JSON, 422, "invalid_options", "parameters"),
    (b'{"data": "a", "parameters": {"topk": 3, "num_beams": 3}}', JSON, 422, "invalid_options", "parameters"),
    (
        '{"data": "a", "parameters": {"title_prefix": "万丈三上下不与丁七"}}'.encode(),
        JSON,
        422,
        "invalid_options",
        "parameters",
    ),
    (
        '{"data": "a", "parameters": {"title_prefix": "😀"}}'.encode(),
        JSON,
        422,
        "invalid_options",
        "parameters",
    ),
    (b'{"data": "a"}\n{"data": 5}', LINES, 422, "wrong_type", "line 2: data"),
    (b'{"data": "a"}\n{"data": "a"', LINES, 400, "invalid_json", "line 2"),
    (b"\n\n", LINES, 422, "empty_list", None),
    (b'{"data": "a"}\n' * 9, LINES, 422, "too_many_texts", None),
    (b" ", PLAIN, 422, "empty_text", "data"),
    (b"data=a", "application/x-www-form-urlencoded", 415, "unsupported_content_type", None),
    (b'{"data": "a"}', "application/json; charset=gbk", 415, "unsupported_charset", None),
]


@pytest.mark.parametrize(("body", "content_type", "status", "code", "field"), BAD, ids=range(len(BAD)))
def test_bad_input_is_told_by_its_kind(service, body, content_type, status, code, field):
    answer = service.client.post("/invocations", content=body, headers={"Content-Type": content_type})
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, code)
    assert field is None or error["field"] == field
    assert "Traceback" not in answer.text


def test_other_wrong_requests_are_told_too(service):
    json_type = {"Content-Type": "application/json"}
    client = service.client
    for answer, status, code in (
        (client.get("/nothing/../../etc/passwd"), 404, "not_found"),
        (client.get("/%2e%2e/%2e%2e/etc/passwd"), 404, "not_found"),
        (client.get("/invocations"), 405, "method_not_allowed"),
        (client.post("/invocations", json={"data": "a"}, headers={"Accept": "image/png"}), 406, "not_acceptable"),
        (
            client.post("/invocations", content=b"x", headers={**json_type, "Content-Encoding": "gzip"}),
            415,
            "unsupported_content_encoding",
        ),
        (
            client.post("/v1/titles", content=b"a", headers={"Content-Type": "text/plain"}),
            415,
            "unsupported_content_type",
        ),
        (client.post("/v1/titles", json={"text": "a", "timeout": 0}), 422, "out_of_range"),
        (client.post("/v1/titles", json={"text": ["a", "b"], "stream": True}), 422, "not_streamable"),
    ):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    for request in (b"\x16\x03\x01\x02\x00\x01\x00", b"nonsense\r\n\r\n", b"POST / HTTP/1.1\r\nHost x\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", service.port)) as raw:
            raw.sendall(request)
            raw.settimeout(5)
            assert raw.recv(100).startswith(b"HTTP/1.1 400")


@pytest.mark.parametrize(
    ("path", "status"), [("/", 200), ("/ping", 200), ("/page.js", 200), ("/v1/titles", 405), ("/nothing", 404)]
)
def test_head_is_get_without_the_body(service, path, status):
    whole, head = service.client.get(path), service.client.head(path)
    assert (head.status_code, head.content) == (status, b"")
    changing = ("date", "x-request-id")
    for name, value in whole.headers.items():
        assert head.headers[name] == value or name in changing
    assert int(head.headers["content-length"]) == len(whole.content) > 0
    assert service.client.get("/ping").status_code == 200  # over the same connection


def test_the_schema_knows_that_an_option_has_one_name_at_a_time():
    schemas = Schemas(ServingConfig(), GenerationConfig(), 300)
    schema = inline_schema(schemas.Invocation)
    for options, is_right in (
        ({"topk": 3}, True),
        ({"num_beams": 3, "max_new_tokens": 4}, True),
        ({"num_beams": 3, "topk": 4}, False),
        ({"num_beams": 3, "topk": 3}, False),
        ({"maxlen": 3, "max_new_tokens": 4}, False),
        ({"minlen": 0, "maxlen": 4, "min_new_tokens": 0}, False),
    ):
        value = {"data": "a", "parameters": options}
        assert jsonschema_rs.is_valid(schema, value) == is_right, options
        if not is_right:
            with pytest.raises(ServiceError, match="is given twice"):
                schemas.config(validate(schemas.Invocation, value).parameters)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(min_size=1, max_size=60).filter(str.strip), beams=st.integers(1, 3))
def test_unicode_of_every_plane_gets_a_title(service, text, beams):
    answer = service.post("/v1/titles", {"text": text, "parameters": {"num_beams": beams, "max_new_tokens": 2}})
    assert answer.status_code == 200, answer.text
    assert isinstance(answer.json()["results"][0]["titles"][0]["title"], str)


def test_ranges_are_those_of_the_options():
    """What the schema admits alone, the options admit too; each option that is a number has its bounds stated."""
    others = {
        "num_return_sequences": {"num_beams": 8},
        "num_beam_groups": {"num_beams": 8},
        "diversity_penalty": {"num_beams": 2, "num_beam_groups": 2},
        **{name: {"do_sample": True} for name in ("temperature", "top_k", "top_p", "seed")},
        "min_new_tokens": {"max_new_tokens": 128},
    }
    fields = {field.name for field in dataclasses.fields(GenerationConfig) if field.type is not bool}
    assert fields - {"batch_tokens"} == RANGES.keys()
    for name, bounds in RANGES.items():
        for kind, step in (("ge", -1), ("gt", 0)):
            if kind not in bounds or bounds[kind] in (-10, 0.01):  # narrower than the library's, on purpose
                continue
            inside = {"ge": bounds[kind], "gt": bounds[kind] + 0.5}[kind]
            if name != "diversity_penalty":
                GenerationConfig(**{**others.get(name, {}), name: inside})
            with pytest.raises(OptionError):
                GenerationConfig(**{**others.get(name, {}), name: bounds[kind] + step})
    schemas = Schemas(ServingConfig(limit_num_beams=5), GenerationConfig(), 300)
    properties = schemas.Parameters.model_json_schema()["properties"]
    assert properties["num_beams"]["maximum"] == properties["topk"]["maximum"] == 5
    assert properties["num_beam_groups"]["maximum"] == 5


def test_defaults_are_held_to_the_limits():
    model = Model(Path(), None, "auto", None)
    for name, limit in LIMITS.items():
        generation = GenerationConfig(num_beams=4, num_return_sequences=4, max_new_tokens=4)
        with pytest.raises(OptionError, match=f"{name} must be at most {limit} \\(3\\), got 4"):
            make_service(ServingConfig(**{limit: 3}), model, generation, DataConfig())


# --- who may call -----------------------------------------------------------------------------------------------------


MESSAGE = "a key is needed: Authorization: Bearer …"


def test_keys_are_asked_for_where_there_are_any(start, tmp_path):
    (tmp_path / "keys").write_text("first-key\n\nsecond-key\n")
    running = start(api_key_file=str(tmp_path / "keys"))
    request = {"data": TEXT}
    for header in (None, "Bearer wrong", "Bearer first-ke", "Basic first-key", "first-key", "Bearer"):
        headers = {} if header is None else {"Authorization": header}
        for path in ("/invocations", "/endpoints/x/invocations", "/v1/titles"):
            answer = running.post(path, request, headers=headers)
            assert answer.json().get("Message") == (MESSAGE if path.startswith("/endpoints") else None)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        assert running.client.get("/metrics", headers=headers).status_code == 401
        assert running.client.get("/v1/model", headers=headers).status_code == 401
    for header in ("Bearer first-key", "bearer second-key"):
        assert running.post("/invocations", request, headers={"Authorization": header}).status_code == 200
    for path in ("/ping", "/", "/page.js", "/openapi.json"):
        assert running.client.get(path).status_code == 200
    (tmp_path / "keys").write_text("\n")
    with pytest.raises(OptionError, match="must hold a key"):
        read_api_keys(str(tmp_path / "keys"))


def test_other_origins_are_let_in_only_where_asked_for(service, start):
    ask = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}
    answer = service.client.options("/v1/titles", headers=ask)
    assert answer.status_code == 405
    assert not any(name.startswith("access-control") for name in answer.headers)
    running = start(allow_origin="https://a.example")
    answer = running.client.options("/v1/titles", headers=ask)
    assert answer.headers["access-control-allow-origin"] == "https://a.example"
    assert (
        "access-control-allow-origin"
        not in running.client.get("/ping", headers={"Origin": "https://b.example"}).headers
    )


def test_the_log_has_the_text_only_where_asked_for(service, start, caplog):
    caplog.set_level(logging.INFO)
    texts = [text_of(5, 20), text_of(6, 20)]
    service.post("/v1/titles", {"text": texts[0]}, headers={"X-Request-ID": "mine-1"})
    service.post("/v1/titles?text=" + texts[0], {"text": texts[0], "parameters": {"x" * 3000: texts[0]}})
    service.client.get("/" + texts[0])
    running = start(log_text=True)
    running.post("/v1/titles", {"text": texts[1]})

    def logged():
        return [json.loads(JsonFormatter(log_text=False).format(record)) for record in list(caplog.records)]

    wait_for(lambda: any(each.get("texts") == [texts[1]] for each in logged()))
    lines = logged()
    assert texts[0] not in json.dumps(lines, ensure_ascii=False)
    (line,) = [each for each in lines if each.get("request_id") == "mine-1"]
    assert line["route"] == "/v1/titles"
    assert (line["status"], line["texts"], line["chars"], line["source_tokens"]) == (200, 1, 20, 22)


def test_metrics_count_requests_and_their_time(start):
    running = start()
    running.post("/invocations", {"data": TEXT})
    running.post("/invocations", {"data": ""})
    wait_for(lambda: "t5_pegasus_batch_size_count 1.0" in running.client.get("/metrics").text)
    metrics = running.client.get("/metrics").text
    for line in (
        't5_pegasus_requests_total{route="/invocations",status="200"} 1.0',
        't5_pegasus_requests_total{route="/invocations",status="422"} 1.0',
        't5_pegasus_request_seconds_count{route="/invocations"} 2.0',
        "t5_pegasus_batch_size_count 1.0",
        "t5_pegasus_queue_seconds_count 1.0",
        "t5_pegasus_queue_length 0.0",
        "t5_pegasus_source_tokens_total 32.0",
    ):
        assert f"\n{line}\n" in metrics


# --- the OpenAPI document ---------------------------------------------------------------------------------------------


@schemathesis.serializer("application/jsonlines")
def as_lines(context, value):
    return json.dumps(value).encode()


@schemathesis.serializer("text/plain")
def as_text(context, value):
    return value.encode() if isinstance(value, str) else json.dumps(value).encode()


def test_schemathesis_finds_nothing_amiss(service):
    """Whatever it makes from the document, right or wrong, gets an answer that the document allows."""
    seen = set()
    for result in schemathesis.openapi.from_url(f"{service.url}/openapi.json").get_all_operations():
        operation = result.ok()
        right = operation.as_strategy()
        wrong = operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE)

        @given(case=st.one_of(right, wrong))
        @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
        def check(case):
            response = case.call()
            seen.add((case.operation.label, response.status_code))
            case.validate_response(response, excluded_checks=excluded(response))

        check()
    for operation in ("POST /invocations", "POST /v1/titles"):
        assert {(operation, 200), (operation, 422)} <= seen
    assert {("POST /v1/chat/completions", 400), ("POST /v1/chat/completions", 404)} <= seen


def excluded(response: Any) -> list[Any]:
    """Leave out that right requests are accepted, where what is right alone is not together, or not of this model."""
    if response.status_code == 504:  # to a timeout of no time at all
        return [not_a_server_error]
    together = (
        *("invalid_options", "not_streamable", "context_length_exceeded", "model_not_found"),
        "unknown_adapter",  # the document cannot say which there are
    )
    refused = response.status_code in (400, 404, 422) and response.json()["error"]["code"] in together
    return [positive_data_acceptance] if refused else []


# --- serve.py and its processes ---------------------------------------------------------------------------------------


def test_stopped_under_load_every_accepted_request_is_answered(script, exported_dir, title):
    running = script("--model_dir", str(exported_dir), "--max_new_tokens", "64")
    running.wait_until_ready()
    texts = [text_of(number, 40) for number in range(24)]
    outcomes: list[tuple[str, Any]] = []

    def ask(number: int) -> None:
        with httpx.Client(base_url=running.url, timeout=30) as client:
            while True:
                try:
                    answer = client.post("/invocations", json={"data": texts[number], "parameters": {"num_beams": 4}})
                except httpx.ConnectError:  # nobody listens any more, as it should be
                    return
                except httpx.TransportError as error:
                    outcomes.append(("lost", repr(error)))
                    return
                outcomes.append((texts[number], answer.json()["result"]))

    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        asking = [pool.submit(ask, number) for number in range(24)]
        # Before its first answer a connection may not have been accepted yet.
        wait_for(lambda: len({text for text, _ in outcomes}) == len(texts), seconds=60)
        assert running.stop() == 0
        concurrent.futures.wait(asking, 20)
    expected = dict(zip(texts, title.generate(texts, num_beams=4, max_new_tokens=64), strict=True))
    assert [each for each in outcomes if expected.get(each[0]) != each[1]] == []
    assert not [line for line in running.lines if "places" in line]


def test_a_killed_process_is_started_again_and_metrics_are_of_all(script, exported_dir):
    running = script("--model_dir", str(exported_dir), "--workers", "2")
    running.wait_until_ready()
    wait_for(lambda: len(workers(running)) == 2)
    for _ in range(20):
        assert httpx.post(f"{running.url}/invocations", json={"data": TEXT}).status_code == 200
    metrics = httpx.get(f"{running.url}/metrics").text
    count = re.search(r'^t5_pegasus_requests_total\{route="/invocations",status="200"\} (.*)$', metrics, re.M)
    assert float(count[1]) == 20
    victim = workers(running)[0]
    os.kill(victim, signal.SIGKILL)
    wait_for(lambda: len(workers(running)) == 3)
    for _ in range(20):  # while a new one loads its model, the other answers
        assert httpx.post(f"{running.url}/invocations", json={"data": TEXT}).status_code == 200
    assert any(json.loads(line).get("exit_code") == -9 for line in running.lines if line.startswith("{"))
    survivors = set(workers(running)) - {victim}
    running.wait_until_ready()
    assert httpx.post(f"{running.url}/invocations", json={"data": TEXT}).status_code == 200
    assert running.stop() == 0
    for worker in survivors:
        with pytest.raises(ProcessLookupError):
            os.kill(worker, 0)


@pytest.mark.slow
def test_a_process_that_cannot_load_its_model_harms_no_other(script, exported_dir, tmp_path):
    words = tmp_path / "words.txt"
    words.write_text("一丁\n", encoding="utf-8")
    running = script("--model_dir", str(exported_dir), "--workers", "2", "--user_dict", str(words))
    running.wait_until_ready()
    wait_for(lambda: sum("model loaded" in line for line in running.lines) == 2)
    words.unlink()
    os.kill(workers(running)[0], signal.SIGKILL)
    wait_for(lambda: any('"exit_code": 2' in line for line in running.lines))
    os.mkfifo(words)  # who reads it waits for ever
    assert any("cannot read" in json.loads(line).get("reason", "") for line in running.lines)
    wait_for(lambda: len(workers(running)) == 4)
    for _ in range(10):
        assert httpx.post(f"{running.url}/invocations", json={"data": TEXT}).status_code == 200
    time.sleep(1)  # until it waits
    running.process.send_signal(signal.SIGTERM)

    def is_refused():
        try:
            return httpx.post(f"{running.url}/invocations", json={"data": TEXT}).status_code == 503
        except httpx.ConnectError:
            return True

    wait_for(is_refused)  # nobody listens any more, not even who still loads: no connection is taken and then lost
    assert running.process.wait(60) == 0


def test_an_exported_model_is_served_without_tensorflow(exported_dir):
    code = f"""
import sys
from starlette.testclient import TestClient
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
model = Model({str(exported_dir)!r}, None, "auto", None)
app = App(make_service(ServingConfig(), model, GenerationConfig(), DataConfig()))
with TestClient(app.asgi) as client:
    while client.get("/ping").status_code == 503:
        pass
    assert client.post("/invocations", json={{"data": "{TEXT}"}}).status_code == 200
assert not {{"tensorflow", "tf_keras", "keras", "bert4keras", "onnx"}} & set(sys.modules)
"""
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert result.returncode == 0, result.stderr


def test_what_a_user_has_wrong_is_one_line_and_code_2(exported_dir):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        here = ["--host", "127.0.0.1", "--port", port, "--model_dir", str(exported_dir)]
        with pytest.raises(OptionError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use"):
            serve.main(here)
    with pytest.raises(OptionError, match="max_texts must be at most max_queue"):
        serve.main(["--max_queue", "2"])


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_model_that_cannot_be_loaded_ends_the_service(exported_dir, tmp_path, workers):
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in exported_dir.iterdir():
        (broken / path.name).write_bytes(b"" if path.name == "encoder.onnx" else path.read_bytes())
    command = [sys.executable, "serve.py", "--port", "0", "--model_dir", str(broken), "--workers", workers]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=60)
    assert result.returncode == 2
    assert "encoder.onnx is not the file that was exported" in result.stderr
    assert "Traceback" not in result.stderr


def test_who_asks_for_sampling_is_not_given_the_defaults_of_beam_search():
    schemas = Schemas(ServingConfig(), GenerationConfig(num_beams=4, early_stopping=True, length_penalty=0.5), 300)
    asked = schemas.Parameters(do_sample=True, top_k=5)
    assert schemas.config(asked) == GenerationConfig(do_sample=True, top_k=5, length_penalty=0.5)
    assert schemas.config(schemas.Parameters(num_beams=1)) == GenerationConfig(length_penalty=0.5)
