"""The official client against a server that misbehaves, and against our own service."""

import http.server
import json
import threading

import pytest

from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.systems.openai_chat import clean_title, prompt_names, read_template
from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system

KEY = "sk-secret-of-the-test"
TEXTS = [Text(f"第{number}篇{{length}}", ("参考",)) for number in range(5)]


class Endpoint:
    """A server of chat completions: it answers each request with the next of `answers`, the last one again."""

    def __init__(self):
        self.requests, self.keys, self.answers = [], [], [title("标题")]
        endpoint = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with endpoint.lock:
                    endpoint.requests.append((self.path, body))
                    endpoint.keys.append(self.headers["Authorization"])
                    status, answer = endpoint.answers[0]
                    if len(endpoint.answers) > 1:
                        del endpoint.answers[0]
                data = json.dumps(answer(body) if callable(answer) else answer).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Retry-After", "0.01")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *arguments):
                pass

        self.lock = threading.Lock()
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/v1"


def title(content, finish_reason="stop", **message):
    """Return an answer with a title."""
    choice = {"index": 0, "finish_reason": finish_reason, "message": {"role": "assistant", "content": content}}
    choice["message"] |= message
    usage = {"prompt_tokens": 30, "completion_tokens": 4, "total_tokens": 34}
    whole = {"id": "x", "object": "chat.completion", "created": 0, "model": "m", "choices": [choice], "usage": usage}
    return 200, whole


@pytest.fixture
def endpoint(monkeypatch):
    made = Endpoint()
    thread = threading.Thread(target=made.server.serve_forever, args=(0.01,))
    thread.start()
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", made.url)
    yield made
    made.server.shutdown()
    made.server.server_close()
    thread.join()


def make(text):
    return make_system(parse_spec(text))


def echoed(body):
    return title(body["messages"][-1]["content"][-20:])[1]


def test_titles_are_in_the_order_of_the_texts(endpoint):
    endpoint.answers = [(200, echoed)]
    system = make("openai:gpt-x?prompt=title&length=12&concurrency=3&temperature=0.5&max_tokens=9")
    found = system.write(TEXTS, 0)
    assert [each.title.split("：")[-1].strip() for each in found] == [text.content for text in TEXTS]
    assert {path for path, _ in endpoint.requests} == {"/v1/chat/completions"}
    body = endpoint.requests[0][1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("gpt-x", 0.5, 9)
    assert "不超过12个字" in body["messages"][0]["content"]
    assert set(endpoint.keys) == {f"Bearer {KEY}"}


def test_the_first_prompt_is_that_of_the_published_comparison():
    prompt = "请对以下文本进行总结，注意总结的凝炼性，将总结字数控制在20个字以内"
    assert read_template("zh").replace("{length}", "20").startswith(prompt)
    assert prompt_names() == ["en", "english", "text", "title", "zh"]


def test_english_texts_have_an_english_prompt(endpoint):
    spec = parse_spec(f"openai:m?base_url={endpoint.url}&length=9", "en")
    endpoint.answers = [title('Summary: "Nick borrows it."')]
    system = make_system(spec)
    assert system.asked_length == 9
    assert make_system(parse_spec(f"openai:m?base_url={endpoint.url}&prompt=text")).asked_length is None
    (written,) = system.write([Text("Nick: May I?", ())], 0)
    assert written.title == "Nick borrows it."
    (message,) = endpoint.requests[-1][1]["messages"]
    assert message["content"].startswith("Summarize the following text as concisely as you can, in at most 9 words.")
    assert message["content"].endswith("\nNick: May I?")


def test_examples_stand_before_the_text(endpoint, tmp_path):
    (tmp_path / "pairs.tsv").write_text("题一\t文一\n题二\t文二\n题三\t文三\n", encoding="utf-8")
    (tmp_path / "own.txt").write_text("概括{text}", encoding="utf-8")
    system = make(f"openai:m?prompt={tmp_path}/own.txt&examples={tmp_path}/pairs.tsv&shots=2")
    system.write(TEXTS[:1], 0)
    messages = endpoint.requests[0][1]["messages"]
    assert [(each["role"], each["content"]) for each in messages] == [
        *(("user", "概括文一"), ("assistant", "题一"), ("user", "概括文二"), ("assistant", "题二")),
        ("user", f"概括{TEXTS[0].content}"),
    ]


def test_a_busy_endpoint_is_asked_again(endpoint):
    busy = {"error": {"message": "slow down"}}
    endpoint.answers = [(429, busy), (500, busy), (503, busy), title("标题：“短标题”")]
    assert make("openai:m").write(TEXTS[:1], 0)[0].title == "短标题"
    assert len(endpoint.requests) == 4


def test_an_endpoint_that_stays_busy_is_an_error_without_the_key(endpoint):
    endpoint.answers = [(429, {"error": {"message": f"quota of {KEY} is used up"}})]
    with pytest.raises(PegasusError, match=r"^openai:m at http://127.*: quota of \*\*\* is used up$") as caught:
        make("openai:m?tries=2").write(TEXTS[:1], 0)
    assert len(endpoint.requests) == 2
    assert caught.value.__cause__ is None
    assert KEY not in json.dumps(make("openai:m").identity())


def test_refused_and_empty_answers_are_told_apart(endpoint):
    endpoint.answers = [
        title(None, refusal="I cannot"),
        title("partly", finish_reason="content_filter"),
        title("  \n"),
        title("<think>想\n想</think>题"),
    ]
    found = [make("openai:m").write([text], 0)[0] for text in TEXTS[:4]]
    assert [(each.title, each.refused) for each in found] == [("", True), ("", True), ("", False), ("题", False)]


def test_cost_is_of_the_tokens(endpoint):
    system = make("openai:m?input_price=2&output_price=10")
    written = system.write(TEXTS, 0)
    assert sum(each.input_tokens for each in written) == 150
    assert system.cost(written) == pytest.approx((150 * 2 + 20 * 10) / 1e6)
    assert make("openai:m").cost(written) is None


def test_nobody_there(endpoint, monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    with pytest.raises(PegasusError, match=r"openai:m at http://127\.0\.0\.1:9/v1/: Connection error"):
        make("openai:m?tries=1&timeout=5").write(TEXTS[:1], 0)


@pytest.mark.parametrize(
    ("spec", "error", "message"),
    [
        ("openai:m?prompt=fr", DataError, "prompt must be one of en, english, text, title, zh or a .txt file, got fr"),
        ("openai:m?prompt=PATH/none.txt", DataError, "must have {text} where the text goes, got none in"),
        ("openai:m?examples=PATH/pairs.tsv&shots=3", OptionError, "must have 3 examples, got 1"),
        ("openai:m?input_price=1", OptionError, "input_price and output_price go together"),
        ("openai:m?input_price=inf&output_price=1", OptionError, "input_price must be a finite number, got inf"),
        ("openai:m?temperature=nan", OptionError, "temperature must be at least 0, got nan"),
        ("openai:m?concurrency=0", OptionError, "concurrency must be at least 1"),
    ],
)
def test_wrong_options_are_named(endpoint, tmp_path, spec, error, message):
    (tmp_path / "none.txt").write_text("概括", encoding="utf-8")
    (tmp_path / "pairs.tsv").write_text("题一\t文一\n", encoding="utf-8")
    with pytest.raises(error, match=message):
        make(spec.replace("PATH", str(tmp_path)))


def test_a_missing_key_is_a_line(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(OptionError, match="OPENAI_API_KEY must hold the key"):
        make("openai:m")


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("标题: 甲\n乙", "甲 乙"),
        ("《红楼梦》研究", "《红楼梦》研究"),
        ("「甲」", "甲"),
        ("“甲”与“乙”", "“甲”与“乙”"),
        ("", ""),
    ],
)
def test_an_answer_becomes_a_title(answer, expected):
    assert clean_title(answer) == expected
