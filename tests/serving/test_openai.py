"""OpenAI's API as OpenAI's own client sees it, and what its parameters mean for a title."""

import asyncio
import dataclasses
import functools
import threading

import openai
import pytest
from hypothesis import given
from hypothesis import strategies as st
from openai.types.chat.completion_create_params import CompletionCreateParamsBase
from openai.types.chat.completion_create_params import CompletionCreateParamsStreaming as StreamingParams

from t5_pegasus.config import GenerationConfig
from t5_pegasus.serving.chat import IGNORED, UNSUPPORTED, ChatSchemas, cut
from t5_pegasus.serving.errors import ServiceError
from t5_pegasus.serving.openai import _Completion, _Stream
from t5_pegasus.serving.options import ServingConfig
from t5_pegasus.serving.schemas import Schemas, validate
from t5_pegasus.title import Answer, Hypothesis
from tests.serving.running import TEXT, Fake, text_of, wait_for

END = 102  # the id of [SEP]
LONG = {"min_new_tokens": 6, "suppress_tokens": [101]}  # the random model writes little but [CLS] otherwise


def client_of(running, **options) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{running.url}/v1", api_key="any", max_retries=0, timeout=20, **options)


@pytest.fixture(scope="module")
def client(service):
    with client_of(service) as client:
        yield client


def ask(client, text=TEXT, **options):
    return client.chat.completions.create(model="exported", messages=[{"role": "user", "content": text}], **options)


def contents(completion) -> list[str]:
    return [choice.message.content for choice in completion.choices]


# --- answers ----------------------------------------------------------------------------------------------------------


def test_the_client_lists_the_model(client, exported_dir):
    (model,) = client.models.list().data
    assert (model.id, model.object) == ("exported", "model")
    assert model.created == int((exported_dir / "config.json").stat().st_mtime)
    assert client.models.retrieve("exported") == model


def test_a_completion_is_the_title(client, title):
    completion = ask(client, extra_body=LONG)
    ((expected,),) = title.generate_n_best([TEXT], max_new_tokens=8, **LONG)
    assert expected.text
    (choice,) = completion.choices
    assert (choice.index, choice.message.role, choice.message.content) == (0, "assistant", expected.text)
    assert choice.finish_reason == ("stop" if expected.ids[-1] == END else "length")
    assert (completion.object, completion.model) == ("chat.completion", "exported")
    assert completion.id.startswith("chatcmpl-")
    read = len(TEXT) + 2  # a token a character, [CLS] and [SEP]
    written = len(expected.ids)
    usage = completion.usage
    assert (usage.prompt_tokens, usage.completion_tokens, usage.total_tokens) == (read, written, read + written)


def test_the_text_is_the_last_message_of_the_user(client, title):
    first, second = text_of(1, 20), text_of(2, 20)
    before = ask(client, first, extra_body=LONG)
    messages = [
        {"role": "system", "content": "你是编辑。"},
        {"role": "user", "content": first},
        before.choices[0].message,
        {"role": "user", "content": [{"type": "text", "text": second[:9]}, {"type": "text", "text": second[9:]}]},
        {"role": "assistant", "content": None},
    ]
    found = client.chat.completions.create(model="exported", messages=messages, extra_body=LONG)
    assert contents(found) == [title.generate(f"{second[:9]}\n{second[9:]}", max_new_tokens=8, **LONG)]
    assert contents(found) != contents(before)


def test_n_titles_are_those_of_a_search_with_n_beams(client, title):
    completion = ask(client, n=3, max_tokens=6)
    (expected,) = title.generate_n_best([TEXT], num_beams=3, num_return_sequences=3, max_new_tokens=6)
    assert contents(completion) == [each.text for each in expected]
    assert [choice.index for choice in completion.choices] == [0, 1, 2]
    assert completion.usage.completion_tokens == sum(len(each.ids) for each in expected)


def test_generation_options_go_into_the_extra_body(client, title):
    options = {"num_beams": 4, "length_penalty": 1.0, "no_repeat_ngram_size": 2}
    assert contents(ask(client, extra_body=options)) == [title.generate(TEXT, max_new_tokens=8, **options)]


def test_a_temperature_draws_and_a_seed_draws_again(client, title):
    expected = title.generate_n_best(
        [TEXT], do_sample=True, temperature=1.5, top_p=0.9, seed=7, num_return_sequences=4, max_new_tokens=8
    )
    for _ in range(2):
        found = ask(client, temperature=1.5, top_p=0.9, seed=7, n=4)
        assert contents(found) == [each.text for each in expected[0]]


def test_a_title_ends_before_a_stop(client):
    (whole,) = contents(ask(client, extra_body=LONG))
    assert len(whole) > 5
    for stop in (whole[3], ["没有", whole[3:5]]):
        (choice,) = ask(client, stop=stop, extra_body=LONG).choices
        assert choice.message.content == whole[: whole.index(stop if isinstance(stop, str) else stop[1])]
        assert choice.finish_reason == "stop"


@pytest.mark.parametrize("options", [{"extra_body": LONG}, {"n": 3}, {"extra_body": {"num_beams": 3, **LONG}}])
def test_a_stream_adds_up_to_the_answer_without_it(client, options):
    whole = ask(client, **options)
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}, **options))
    *chunks, last = chunks
    assert last.usage == whole.usage
    assert last.choices == []
    added = {choice.index: "" for choice in whole.choices}
    reasons = {}
    for chunk in chunks:
        assert (chunk.object, chunk.model, chunk.usage) == ("chat.completion.chunk", "exported", None)
        (choice,) = chunk.choices
        added[choice.index] += choice.delta.content or ""
        reasons[choice.index] = choice.finish_reason
    assert list(added.values()) == contents(whole)
    assert reasons == {choice.index: choice.finish_reason for choice in whole.choices}
    assert chunks[0].choices[0].delta.role == "assistant"
    pieces = [chunk for chunk in chunks if chunk.choices[0].index == 0 and chunk.choices[0].delta.content]
    # Nothing can replace the title of a single beam.
    assert len(pieces) > 1 if options == {"extra_body": LONG} else len(pieces) <= 1
    assert all(chunk.usage is None for chunk in ask(client, stream=True, **options))


def test_many_at_once_are_answered_as_if_alone(service, title):
    texts = [text_of(number, 3 + number * 7 % 60) for number in range(24)]

    async def ask_all():
        async with openai.AsyncOpenAI(base_url=f"{service.url}/v1", api_key="any", timeout=20) as client:
            return await asyncio.gather(*(ask(client, text, extra_body={"num_beams": 2}) for text in texts))

    expected = title.generate(texts, num_beams=2, max_new_tokens=8)
    assert [contents(each)[0] for each in asyncio.run(ask_all())] == expected


@given(
    text=st.text("万丈三上😀", max_size=12),
    stop=st.none() | st.text("万丈三", min_size=1, max_size=3) | st.lists(st.text("万丈三", min_size=1), max_size=3),
    data=st.data(),
)
def test_what_is_streamed_is_never_taken_back(text, stop, data):
    """Whatever a title grows by, and wherever a stop begins, the pieces are the answer."""
    completion = _Completion("m", stop, END)
    stream = _Stream(completion, GenerationConfig(), False)
    events = [stream.begin()]
    for length in sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=6))):
        events += stream.grow(Hypothesis(text[:length], -1.0, (5,)))
    answer = Answer([Hypothesis(text, -1.0, (5, END))], 3, False)
    events += stream.end(answer)
    chunks = [openai.types.chat.ChatCompletionChunk.model_validate_json(each.removeprefix("data: ")) for each in events]
    sent = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    stops = [stop] if isinstance(stop, str) else stop or []
    expected = next((text[:end] for end in range(len(text)) if text.startswith(tuple(stops), end)), text)
    assert sent == expected == cut(text, stop) == completion.whole(answer).choices[0].message.content


# --- what a parameter means -------------------------------------------------------------------------------------------


@functools.cache
def chat_of(generation: GenerationConfig, serving: ServingConfig) -> ChatSchemas:
    return ChatSchemas(Schemas(serving, generation, 300), serving, generation)


BEAMS, SERVING = GenerationConfig(num_beams=2), ServingConfig()


def config_of(generation=BEAMS, serving=SERVING, **fields) -> GenerationConfig:
    chat = chat_of(generation, serving)
    request = {"model": "m", "messages": [{"role": "user", "content": "万"}], **fields}
    return chat.config(validate(chat.Request, request))


DRAWS = {"temperature": 0.7, "top_p": 0.9, "seed": 4}
SAMPLES = GenerationConfig(do_sample=True, temperature=0.5, top_k=9)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, {"num_beams": 2}),
        ({"temperature": None, "n": None, "stop": None, "max_tokens": None, "seed": None}, {"num_beams": 2}),
        ({"temperature": 0}, {"num_beams": 2}),
        ({"temperature": 0.001, "top_p": 0.5, "seed": 4}, {"num_beams": 2}),
        ({"temperature": 1, "top_p": 0}, {"num_beams": 2}),
        ({"top_p": 1, "seed": 4}, {"num_beams": 2}),
        ({"temperature": 1}, {"do_sample": True}),
        (
            {"temperature": 0.7, "top_p": 0.9, "seed": 4},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 4},
        ),
        ({"top_p": 0.9}, {"do_sample": True, "top_p": 0.9}),
        ({"temperature": 1, "n": 5}, {"do_sample": True, "num_return_sequences": 5}),
        ({"temperature": 1, "top_k": 3}, {"do_sample": True, "top_k": 3}),
        ({"do_sample": True, "seed": 4}, {"do_sample": True, "seed": 4}),
        ({"n": 2}, {"num_beams": 2, "num_return_sequences": 2}),
        ({"n": 5}, {"num_beams": 5, "num_return_sequences": 5}),
        ({"n": 2, "num_beams": 4}, {"num_beams": 4, "num_return_sequences": 2}),
        ({"num_return_sequences": 2}, {"num_beams": 2, "num_return_sequences": 2}),
        ({"max_tokens": 9}, {"num_beams": 2, "max_new_tokens": 9}),
        ({"max_completion_tokens": 9.0}, {"num_beams": 2, "max_new_tokens": 9}),
        ({"topk": 3, "minlen": 2}, {"num_beams": 3, "min_new_tokens": 2}),
    ],
)
def test_parameters_are_generation_options(fields, expected):
    assert config_of(**fields) == GenerationConfig(**expected)


def test_a_service_that_samples_does_so_unless_asked_otherwise():
    for fields, expected in (
        ({}, SAMPLES),
        ({"seed": 3}, dataclasses.replace(SAMPLES, seed=3)),
        ({"temperature": 1}, dataclasses.replace(SAMPLES, temperature=1.0)),
        ({"temperature": 0}, GenerationConfig()),
        ({"num_beams": 3}, GenerationConfig(num_beams=3)),
        ({"n": 3}, dataclasses.replace(SAMPLES, num_return_sequences=3)),
    ):
        assert config_of(SAMPLES, **fields) == expected


IMAGE = {"role": "user", "content": [{"type": "image_url"}]}


@pytest.mark.parametrize(
    ("fields", "code", "field"),
    [
        ({"max_tokens": 3, "max_completion_tokens": 3}, "invalid_options", "max_tokens"),
        ({"max_tokens": 129}, "out_of_range", "max_tokens"),
        ({"max_tokens": 3, "max_new_tokens": 3, "maxlen": 3}, "invalid_options", None),
        ({"n": 9}, "out_of_range", "n"),
        ({"n": 3, "num_beams": 2}, "invalid_options", None),
        ({"temperature": 2.1}, "out_of_range", "temperature"),
        ({"temperature": "1"}, "wrong_type", "temperature"),
        ({"temperature": 1, "num_beams": 2}, "invalid_options", None),
        ({"temperature": 0, "do_sample": True}, "invalid_options", "do_sample"),
        ({"stop": [""]}, "empty_text", "stop.0"),
        ({"stop": list("abcde")}, "out_of_range", "stop"),
        ({"stream_options": {"include_usage": True}}, "invalid_options", "stream_options"),
        ({"stream": True, "stream_options": {"usage": True}}, "unknown_field", "stream_options.usage"),
        ({"beams": 3}, "unknown_field", "beams"),
        ({"messages": []}, "empty_list", "messages"),
        ({"messages": [{"role": "system", "content": "a"}]}, "missing_user_message", "messages"),
        ({"messages": [{"role": "user"}]}, "missing_field", "messages.0.content"),
        ({"messages": [{"role": "user", "content": " "}]}, "empty_text", "messages.0.content"),
        ({"messages": [{"role": "user", "content": []}]}, "empty_list", "messages.0.content"),
        ({"messages": [{"role": "user", "content": "a" * 20_001}]}, "text_too_long", "messages.0.content"),
        ({"messages": [{"role": "boss", "content": "a"}]}, "wrong_type", "messages.0.role"),
        ({"messages": ["a"]}, "wrong_type", "messages.0"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]},
            "wrong_type",
            "messages.0.content.0.type",
        ),
    ],
)
def test_what_has_no_meaning_is_refused(fields, code, field):
    with pytest.raises(ServiceError) as caught:
        config_of(**fields)
    assert (caught.value.status, caught.value.code, caught.value.field) == (422, code, field)


def test_search_for_more_titles_than_beams_is_refused():
    serving = ServingConfig(limit_num_beams=4)
    assert config_of(serving=serving, n=5, temperature=1).num_return_sequences == 5
    with pytest.raises(ServiceError, match="n must be at most 4 unless a temperature draws the titles"):
        config_of(serving=serving, n=5)


def test_parts_are_too_long_together():
    chat = chat_of(BEAMS, ServingConfig(max_chars=10))
    for length in (5, 6):
        parts = [{"type": "text", "text": "万" * size} for size in (length - 1, 5)]
        request = validate(chat.Request, {"model": "m", "messages": [{"role": "user", "content": parts}]})
        if length == 5:
            assert chat.text(request) == "万万万万\n万万万万万"
        else:
            with pytest.raises(ServiceError, match="at most 10 characters"):
                chat.text(request)


def test_every_parameter_of_the_client_is_known():
    theirs = CompletionCreateParamsBase.__annotations__.keys() | StreamingParams.__annotations__.keys()
    assert theirs <= chat_of(BEAMS, SERVING).Request.model_fields.keys()


@pytest.mark.parametrize("name", UNSUPPORTED)
def test_what_is_not_supported_says_what_to_do(name):
    values, instead = UNSUPPORTED[name]
    for value in values:
        assert config_of(**{name: value}) == config_of()
    for value in (True, 0.5, "x", ["x"], {"type": "json_object"}):
        with pytest.raises(ServiceError) as caught:
            config_of(**{name: value})
        assert (caught.value.code, caught.value.field) == ("unsupported_value", name)
        assert caught.value.message == f"this is not supported: {instead}"


def test_what_is_ignored_changes_nothing():
    for name in IGNORED:
        assert config_of(**{name: {"x": 1}}) == config_of(**{name: None}) == config_of()


# --- errors -----------------------------------------------------------------------------------------------------------


def test_errors_are_those_of_the_client(client, service):
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, temperature=3)
    assert (bad.value.param, bad.value.code, bad.value.type) == ("temperature", "out_of_range", "invalid_request_error")
    assert bad.value.request_id
    assert "less than or equal to 2" in bad.value.message
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, "万" * 2001)
    assert bad.value.code == "context_length_exceeded"
    with pytest.raises(openai.BadRequestError) as bad:
        ask(client, extra_body={"title_prefix": "😀"})
    assert bad.value.code == "invalid_options"
    for call in (
        lambda: client.chat.completions.create(model="gpt", messages=[{"role": "user", "content": TEXT}]),
        lambda: client.models.retrieve("gpt"),
    ):
        with pytest.raises(openai.NotFoundError, match="the model served here is exported") as missing:
            call()
        assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    answer = service.client.get("/v1/chat/completions")
    assert answer.status_code == 405
    assert answer.json()["error"]["type"] == "invalid_request_error"
    answer = service.client.post("/v1/chat/completions", content=b"{", headers={"Content-Type": "application/json"})
    assert answer.status_code == 400
    assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


def test_a_wrong_key_is_an_authentication_error(start, tmp_path):
    (tmp_path / "keys").write_text("right\n")
    running = start(api_key_file=str(tmp_path / "keys"))
    with pytest.raises(openai.AuthenticationError) as caught:
        ask(client_of(running))
    assert caught.value.code == "invalid_api_key"
    with pytest.raises(openai.AuthenticationError):
        client_of(running).models.list()
    assert contents(ask(client_of(running).with_options(api_key="right")))


def test_while_the_model_is_loaded_the_client_is_told_to_come_again(start, title):
    loaded = threading.Event()

    def load():
        assert loaded.wait(20)
        return title

    running = start(load, ready=False)
    with pytest.raises(openai.InternalServerError) as caught:
        ask(client_of(running))
    loaded.set()
    assert (caught.value.status_code, caught.value.code, caught.value.type) == (503, "loading", "server_error")
    assert int(caught.value.response.headers["retry-after"]) > 0
    running.wait_until_ready()


def test_a_failure_and_a_deadline_are_errors_in_a_stream_too(start, title):
    fake = Fake(title)
    with client_of(start(lambda: fake, timeout=0.3)) as client:
        with pytest.raises(openai.APIError, match="no answer in time") as late:
            list(ask(client, "丁七", stream=True))
        assert (late.value.code, late.value.type) == ("deadline_exceeded", "server_error")
        with pytest.raises(openai.InternalServerError, match="no answer in time"):
            ask(client, "丁七")
    fake.poison = fake.tokenizer.encode("丈")[1]
    fake.gate.set()
    with client_of(start(lambda: fake)) as client:
        with pytest.raises(openai.APIError, match="the service failed") as failed:
            list(ask(client, "丈", stream=True))
        assert failed.value.code == "internal"
        with pytest.raises(openai.InternalServerError, match="the service failed"):
            ask(client, "丈")
        assert contents(ask(client, "丁七")) == ["丁七"]


@pytest.mark.slow
def test_a_stream_that_is_closed_is_given_up(start, title):
    fake = Fake(title)
    running = start(lambda: fake)
    with client_of(running) as client:
        stream = ask(client, stream=True)
        assert next(iter(stream)).choices[0].delta.role == "assistant"
        assert fake.entered.wait(5)
        stream.close()
    wait_for(lambda: fake.given_up == [0])
