"""The page in a real Chromium: someone writes a text, gets titles, does something wrong, and comes back to them."""

import itertools
import json
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect, sync_playwright

from t5_pegasus import AutoTitle, read_examples
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.serving import static
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
from t5_pegasus.serving.server import Server
from t5_pegasus.serving.supervisor import listen

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
TEXT = "一丁七万丈三上下不与" * 3


@pytest.fixture(scope="module")
def model_dir(random_t5, random_model_dir, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("page") / "exported"
    export_model(random_t5, random_model_dir / "vocab.txt", folder, quantize="int8")
    return folder


@pytest.fixture(scope="module")
def make_url(model_dir) -> Iterator:
    """Return a function that starts a service and returns its address."""
    running = []

    def make(api_key_file: str | None = None, **options) -> str:
        serving = ServingConfig(api_key_file=api_key_file, limit_max_new_tokens=40, **options)
        model = Model(model_dir, None, "auto", None)
        server = Server(App(make_service(serving, model, GenerationConfig(max_new_tokens=12), DataConfig())))
        listener = listen("127.0.0.1", 0)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        running.append((server, thread))
        while server._app.batcher.state != "ready":
            assert thread.is_alive()
        return url

    yield make
    for server, thread in running:
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def browser() -> Iterator:
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser) -> Iterator:
    """Return a function that opens an address; in the end no page may have complained, or asked anyone else."""
    contexts, complaints = [], []

    def open_page(url: str, locale: str = "zh-CN", **options) -> Page:
        contexts.append(browser.new_context(locale=locale, **options))
        page = contexts[-1].new_page()
        page.set_default_timeout(15_000)
        page.on("console", lambda message: complaints.append(message.text) if message.type != "log" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: None if request.url.startswith(url) else complaints.append(request.url))
        page.goto(url)
        page.wait_for_selector("html[data-ready]")
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def test_a_text_gets_its_titles_as_they_are_written(make_url, open_page, model_dir):
    page = open_page(make_url())
    page.get_by_label("正文").fill(TEXT)
    page.get_by_label("候选宽度").fill("3")
    page.get_by_label("最长词数").fill("8")
    # Every text that the title has had, by an observer beside the page's own script.
    page.evaluate(
        "window.seen = []; new MutationObserver(() => seen.push(document.getElementById('best').textContent))"
        ".observe(document.getElementById('best'), {childList: true})"
    )
    page.get_by_role("button", name="生成标题").click()
    expect(page.locator("#facts")).to_contain_text("读了 32 个词")
    (expected,) = AutoTitle.load(model_dir).generate_n_best(
        [TEXT], num_beams=3, num_return_sequences=3, max_new_tokens=8
    )
    rows = page.locator("#titles li")
    assert rows.locator("span").all_text_contents() == [each.text for each in expected]
    assert rows.locator("data").all_text_contents() == [f"{each.score:.2f}" for each in expected]
    assert page.locator("#best").text_content() == expected[0].text
    partial = [each.text for each in AutoTitle.load(model_dir).stream(TEXT, num_beams=3, max_new_tokens=8)]
    seen = [text for text in page.evaluate("seen") if text != "正在读……"]
    assert [text for text, _ in itertools.groupby(seen)] == [text or "—" for text, _ in itertools.groupby(partial)]


def test_an_empty_box_is_told_and_costs_no_request(make_url, open_page):
    page = open_page(make_url())
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_label("正文").fill(" \n")
    page.get_by_role("button", name="生成标题").click()
    expect(page.get_by_role("alert")).to_have_text("请先写一段正文。")
    expect(page.get_by_label("正文")).to_be_focused()
    assert requests == []
    page.get_by_label("正文").fill(TEXT)
    expect(page.get_by_role("alert")).to_be_hidden()


def test_the_keyboard_is_enough(make_url, open_page):
    page = open_page(make_url(), locale="en-GB")
    reached = set()
    for _ in range(14):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
        if page.evaluate("document.activeElement.id") == "text":
            page.keyboard.insert_text(TEXT)
    assert {"language", "theme", "text", "beams", "length", "go"} <= reached
    page.keyboard.press("Control+Enter")
    expect(page.locator("#facts")).to_contain_text("32 words read")


def test_samples_history_language_and_theme(make_url, open_page):
    page = open_page(make_url(), color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    for _ in range(2):  # two samples, two lines of history
        page.locator("#samples button").nth(_).click()
        page.keyboard.press("Control+Enter")
        expect(page.locator("#history li")).to_have_count(_ + 1)
    page.reload()
    page.wait_for_selector("html[data-ready]")
    page.locator("#history button").nth(1).click()
    assert page.get_by_label("正文").input_value() == page.evaluate("samples[0].text")
    expect(page.locator("#titles li")).to_have_count(4)
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Find titles")).to_be_visible()
    assert page.locator("html").get_attribute("lang") == "en"
    expect(page.locator("#theme")).to_have_text("Theme: system")
    page.get_by_role("button", name="Theme: system").click()
    expect(page.locator("#theme")).to_have_text("Theme: light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark
    page.get_by_role("button", name="Clear").click()
    expect(page.locator("#history-box")).to_be_hidden()


# In place of the service: `push` sends a title, and asking is counted.
SLOW_SERVICE = """() => {
  window.asked = 0;
  window.fetch = async (path, { signal }) => new Response(new ReadableStream({ start(stream) {
    asked += 1;
    window.push = (title) => stream.enqueue(new TextEncoder().encode(
      `event: title\\ndata: ${JSON.stringify({ title, score: -1 })}\\n\\n`));
    if (window.heeds !== false) signal.addEventListener("abort", () => stream.error(signal.reason));
  } }));
}"""


def test_titles_of_another_text_do_not_come_after_it_was_left(make_url, open_page):
    page = open_page(make_url())
    page.get_by_label("正文").fill(TEXT)
    page.keyboard.press("Control+Enter")
    expect(page.locator("#history li")).to_have_count(1)
    title = page.locator("#best").text_content()
    page.evaluate(SLOW_SERVICE)
    page.evaluate("heeds = false")  # what was under way when the request was given up
    page.get_by_label("正文").fill("另一篇")
    page.keyboard.press("Control+Enter")
    page.wait_for_function("asked")
    page.evaluate("push('甲')")
    expect(page.locator("#best")).to_have_text("甲")
    page.locator("#history button").click()
    page.evaluate("push('乙')")
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert page.locator("#best").text_content() == title
    assert page.get_by_label("正文").input_value() == TEXT
    expect(page.get_by_role("button", name="生成标题")).to_be_enabled()


def test_a_request_can_be_stopped_before_and_after_its_first_title(make_url, open_page):
    page = open_page(make_url())
    page.evaluate(SLOW_SERVICE)
    page.get_by_label("正文").fill(TEXT)
    composing = "{key: 'Enter', ctrlKey: true, isComposing: true}"
    page.evaluate(f"document.dispatchEvent(new KeyboardEvent('keydown', {composing}))")
    assert page.evaluate("asked") == 0
    page.keyboard.press("Control+Enter")
    expect(page.locator("#best")).to_have_text("正在读……")
    page.get_by_role("button", name="English").click()
    expect(page.locator("#best")).to_have_text("Reading…")
    page.keyboard.press("Escape")
    expect(page.locator("#result")).to_be_hidden()
    page.keyboard.press("Control+Enter")
    page.wait_for_function("asked === 2")
    page.evaluate("push('甲')")
    expect(page.locator("#best")).to_have_text("甲")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#facts")).to_have_text("Stopped")
    page.get_by_role("button", name="中文").click()
    expect(page.locator("#facts")).to_have_text("已停止")


def test_errors_are_told_in_the_language_of_the_page(make_url, open_page):
    page = open_page(make_url())
    page.get_by_role("button", name="生成标题").click()
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("alert")).to_have_text("Please write a text first.")
    chinese, english = page.evaluate("['zh', 'en'].map((name) => Object.keys(TEXTS[name].problems))")
    assert chinese == english
    page.get_by_role("button", name="中文").click()
    page.evaluate("fail('new_code', 'said in English')")
    expect(page.get_by_role("alert")).to_have_text("服务没有接受请求，答复是：said in English")


IS_IN_VIEW = """() => {
  const { top, bottom } = document.getElementById("result").getBoundingClientRect();
  return top >= -1 && bottom <= innerHeight + 1;
}"""


def test_the_result_comes_into_view_and_can_be_copied(make_url, open_page):
    page = open_page(make_url(), viewport={"width": 360, "height": 600}, permissions=["clipboard-read"])
    page.get_by_label("正文").fill(TEXT)
    page.evaluate("scrollTo(0, 0)")
    assert not page.evaluate("document.getElementById('go').getBoundingClientRect().top < 300")  # it is far down
    page.keyboard.press("Control+Enter")
    expect(page.locator("#facts")).to_contain_text("读了 32 个词")
    page.wait_for_function(IS_IN_VIEW)
    title = page.locator("#best").text_content()
    page.get_by_role("button", name="复制").click()
    expect(page.get_by_role("button", name="已复制")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == title
    page.get_by_role("button", name="English").click()
    expect(page.get_by_role("button", name="Copied")).to_be_visible()
    page.evaluate("scrollTo(0, 0)")
    page.locator("#history button").click()
    page.wait_for_function(IS_IN_VIEW)
    expect(page.get_by_role("button", name="Copy", exact=True)).to_be_visible()


def test_a_title_can_be_copied_over_plain_http_too(make_url, open_page):
    page = open_page(make_url())
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")  # as it is there
    page.get_by_label("正文").fill(TEXT)
    page.keyboard.press("Control+Enter")
    page.get_by_role("button", name="复制").click()
    expect(page.get_by_role("button", name="已复制")).to_be_visible()
    title = page.locator("#best").text_content()
    page.get_by_label("正文").fill("")
    page.get_by_label("正文").focus()
    page.keyboard.press("Control+V")
    assert page.get_by_label("正文").input_value() == title


def test_the_limit_of_characters_is_shown_and_kept_without_a_request(make_url, open_page):
    page = open_page(make_url(max_chars=31))
    requests = []
    page.on("request", lambda request: requests.append(request.url))
    page.get_by_label("正文").fill(TEXT + "𠀀")  # outside the basic plane: one character
    expect(page.locator("#count")).to_have_text("31 / 31 字")
    page.get_by_label("正文").fill(TEXT + "𠀀\n")
    expect(page.locator("#count")).to_have_text("32 / 31 字")
    expect(page.locator("#count")).to_have_class("count over")
    page.keyboard.press("Control+Enter")
    expect(page.get_by_role("alert")).to_have_text("正文太长了。")
    expect(page.get_by_label("正文")).to_be_focused()
    assert requests == []
    page.get_by_label("正文").fill(TEXT + "𠀀")
    page.keyboard.press("Control+Enter")
    expect(page.locator("#facts")).to_contain_text("个词")
    page.get_by_role("button", name="English").click()
    expect(page.locator("#count")).to_have_text("31 of 31 characters")


def test_nothing_sticks_out_on_a_phone(make_url, open_page):
    page = open_page(make_url(), locale="en", viewport={"width": 320, "height": 640})
    page.get_by_label("Text", exact=True).fill("万" * 300)
    page.get_by_role("button", name="Find titles").click()
    expect(page.locator("#facts")).not_to_be_empty()
    assert page.evaluate("document.documentElement.scrollWidth") <= 320


def test_a_key_is_asked_for_where_one_is_needed(make_url, open_page, tmp_path):
    (tmp_path / "keys").write_text("a-key")
    page = open_page(make_url(str(tmp_path / "keys")))
    page.get_by_label("正文").fill(TEXT)
    page.get_by_role("button", name="生成标题").click()
    expect(page.get_by_role("alert")).to_have_text("需要访问密钥。")
    page.get_by_label("访问密钥").fill("a-key")
    page.get_by_role("button", name="生成标题").click()
    expect(page.locator("#facts")).not_to_be_empty()
    expect(page.locator("#titles li")).to_have_count(4)  # as many as beams, though the model was unknown without a key
    # That it was refused before is what the browser itself complains of.
    assert all("401" in complaint for complaint in open_page.complaints)
    open_page.complaints.clear()


def test_the_page_allows_itself_nothing_from_elsewhere_and_its_samples_are_ours():
    policy = static._HEADERS["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    ours = {example.content for example in read_examples(DATA_DIR / "articles.jsonl")}
    samples = json.loads((Path(static.__file__).parent / "page" / "samples.json").read_text(encoding="utf-8"))
    assert len(samples) >= 3
    assert {sample["text"] for sample in samples} <= ours
