"use strict";

const TEXTS = {
  zh: {
    page: "起个标题", heading: "给文章起个标题", lead: "贴上一段正文，模型边写边改，候选标题按得分排列。", text: "正文",
    placeholder: "在这里写或粘贴正文……", samples: "示例文章", options: "生成选项", beams: "候选宽度",
    beamsAbout: "同时保留几种写法；越宽越仔细，也越慢", length: "最长词数", lengthAbout: "标题最多写多少个词",
    key: "访问密钥", go: "生成标题", stop: "停止", result: "标题", history: "本次记录", clear: "清空",
    language: "English", theme: (name) => `主题：${name}`, light: "浅色", dark: "深色", system: "随系统",
    copy: "复制", copied: "已复制", notCopied: "请手动复制",
    count: (n, most) => (most ? `${n} / ${most} 字` : `${n} 字`), waiting: "正在读……", score: "得分",
    facts: (n, s, cut) => `读了 ${n} 个词，用时 ${s} 秒${cut ? "；正文较长，只读了前面的部分" : ""}`,
    stopped: "已停止",
    model: (name, n) => `模型 ${name}，一次读 ${n} 个词`,
    problems: {
      empty_text: "请先写一段正文。", text_too_long: "正文太长了。", unauthorized: "需要访问密钥。",
      queue_full: "现在人多，请稍后再试。", loading: "模型正在加载，请稍后再试。", draining: "服务正在停止。",
      deadline_exceeded: "没能在时限内写完。", network: "连不上服务。", body_too_large: "正文太长了。",
      body_timeout: "正文上传太慢，请再试一次。", invalid_options: "模型不接受这些选项。", stuck: "模型没有反应，请稍后再试。",
      internal: "服务出错了，原因见服务的日志。", other: "服务没有接受请求，答复是：",
    },
  },
  en: {
    page: "Find a title", heading: "Find a title for a text", lead: "Paste a Chinese text. The model writes and rewrites; titles come by score.",
    text: "Text", placeholder: "Write or paste a Chinese text here…", samples: "Sample articles", options: "Options",
    beams: "Beams", beamsAbout: "Drafts kept at once; more are more thorough, and slower", length: "Longest title",
    lengthAbout: "Words a title may have at most", key: "API key", go: "Find titles", stop: "Stop", result: "Titles",
    history: "This session", clear: "Clear", language: "中文",
    theme: (name) => `Theme: ${name}`, light: "light", dark: "dark", system: "system",
    copy: "Copy", copied: "Copied", notCopied: "Please copy it by hand",
    count: (n, most) => (most ? `${n} of ${most} characters` : `${n} character${n === 1 ? "" : "s"}`), waiting: "Reading…", score: "score",
    facts: (n, s, cut) => `${n} words read in ${s} s${cut ? "; the text is long and only its beginning was read" : ""}`,
    stopped: "Stopped",
    model: (name, n) => `Model ${name}, reads ${n} words at once`,
    problems: {
      empty_text: "Please write a text first.", text_too_long: "The text is too long.", unauthorized: "An API key is needed.",
      queue_full: "Many are waiting; please try again soon.", loading: "The model is being loaded; please try again soon.",
      draining: "The service is being stopped.", deadline_exceeded: "It was not done in time.",
      network: "The service cannot be reached.", body_too_large: "The text is too long.",
      body_timeout: "The text came too slowly; please try again.", invalid_options: "The model does not take these options.",
      stuck: "The model does not answer; please try again later.",
      internal: "The service failed; its log says why.", other: "The service did not take the request, and said: ",
    },
  },
};
const THEMES = ["system", "light", "dark"];
const MOST_REMEMBERED = 20;

const at = (id) => document.getElementById(id);
const make = (name, content) => Object.assign(document.createElement(name), { textContent: content });
const language = () => (document.documentElement.lang.startsWith("zh") ? "zh" : "en");
const say = () => TEXTS[language()];

// A page may be denied its storage (private windows, policies): it then forgets, and works.
function recall(storage, name) {
  try { return window[storage].getItem(`t5-pegasus.${name}`); } catch { return null; }
}
function keep(storage, name, value) {
  try { window[storage].setItem(`t5-pegasus.${name}`, value); } catch { /* forgotten */ }
}

let model = null;
let samples = [];
let history = [];
try { history = JSON.parse(recall("sessionStorage", "history")) || []; } catch { /* not ours: begin anew */ }
let running = null;

// What stands in these places, as functions of a language's texts, to be said again in another language.
const told = {};
function tell(id, phrase) {
  told[id] = phrase;
  at(id).textContent = phrase(say());
}

function setLanguage(name) {
  document.documentElement.lang = name === "zh" ? "zh-CN" : "en";
  const texts = say();
  document.title = `${texts.page} · T5-PEGASUS`;
  for (const each of document.querySelectorAll("[data-text]")) each.textContent = texts[each.dataset.text];
  for (const each of document.querySelectorAll("[data-label]")) each.setAttribute("aria-label", texts[each.dataset.label]);
  at("text").placeholder = texts.placeholder;
  at("language").textContent = texts.language;
  at("language").lang = name === "zh" ? "en" : "zh-CN";
  showTheme();
  for (const id in told) tell(id, told[id]);
  for (const each of document.querySelectorAll("#titles data")) each.title = texts.score;
  showSamples();
  showModel();
  showHistory();
  count();
}

function setTheme(name) {
  keep("localStorage", "theme", name);
  if (name === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = name;
  showTheme();
}

function showTheme() {
  const texts = say();
  at("theme").textContent = texts.theme(texts[recall("localStorage", "theme") || "system"]);
}

// Characters as the service counts them.
const characters = () => [...at("text").value].length;
const isTooLong = () => Boolean(model) && characters() > model.max_chars;

function count() {
  at("count").textContent = say().count(characters(), model?.max_chars);
  at("count").classList.toggle("over", isTooLong());
}

function showSamples() {
  at("samples").replaceChildren(...samples.map((sample) => {
    const button = Object.assign(make("button", sample[language()]), { type: "button", className: "quiet" });
    button.addEventListener("click", () => {
      at("text").value = sample.text;
      at("text").scrollTop = 0;
      at("problem").hidden = true;
      count();
      at("text").focus();
      at("text").setSelectionRange(0, 0);
    });
    return button;
  }));
}

function showModel() {
  if (model) at("model").textContent = say().model(model.model, model.max_source_length);
}

function setUpSlider(id, bounds, least, value) {
  const slider = at(id);
  slider.min = Math.min(least, bounds.maximum);
  slider.max = bounds.maximum;
  if (!slider.dataset.chosen) slider.value = value;
  at(`${id}-value`).textContent = slider.value;
}

async function loadModel() {
  model = await load("/v1/model");
  if (!model) return;
  const { num_beams: beams, max_new_tokens: length } = model.parameters;
  setUpSlider("beams", beams, 1, beams.default > 1 ? beams.default : 4);
  setUpSlider("length", length, 4, length.default);
  showModel();
  count();
}

function fail(code, message) {
  tell("problem", ({ problems }) => problems[code] || problems.other + message);
  at("problem").hidden = false;
  if (code === "unauthorized") {
    at("key-box").hidden = false;
    at("key").focus();
  } else if (code === "empty_text" || code === "text_too_long") {
    at("text").focus();
  }
}

function showTitles(titles) {
  tell("best", () => titles[0].title || "—");
  const best = titles[0].score;
  at("titles").replaceChildren(...titles.map((each) => {
    const row = make("li", "");
    const score = make("data", each.score === null ? "–" : each.score.toFixed(2));
    score.value = String(each.score);
    score.title = say().score;
    const bar = make("i", "");
    bar.style.setProperty("--share", each.score === null ? "0%" : `${100 * Math.exp(each.score - best)}%`);
    row.append(make("span", each.title || "—"), score, bar);
    return row;
  }));
}

// Moves the page only as far as is needed, if at all.
function reveal(id) {
  const calm = matchMedia("(prefers-reduced-motion: reduce)").matches;
  at(id).scrollIntoView({ block: "nearest", behavior: calm ? "instant" : "smooth" });
}

function offerCopy() {
  tell("copy", (texts) => texts.copy);
  at("copy").hidden = false;
}

async function copyBest() {
  const title = at("best").textContent;
  let done = true;
  try {
    await navigator.clipboard.writeText(title);
  } catch {  // over plain HTTP a browser has no clipboard for scripts, but for what is selected
    getSelection().selectAllChildren(at("best"));
    done = document.execCommand("copy");
  }
  tell("copy", (texts) => (done ? texts.copied : texts.notCopied));
}

function showFacts(result, seconds) {
  tell("facts", (texts) => texts.facts(result.source_tokens, seconds.toFixed(2), result.truncated));
}

// Makes a request the running one, or none; what still comes of another is not shown.
function setRunning(request) {
  running = request;
  at("go").disabled = Boolean(request);
  at("stop").hidden = !request;
  at("result").setAttribute("aria-busy", String(Boolean(request)));
}

// Yields [event, data] of a stream of server-sent events.
async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value;
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const fields = Object.fromEntries(block.split("\n").map((line) => line.split(/: (.*)/s, 2)));
      if (fields.event) yield [fields.event, JSON.parse(fields.data)];
    }
  }
}

async function generate() {
  const text = at("text").value;
  at("problem").hidden = true;
  if (!text.trim()) return fail("empty_text");
  if (isTooLong()) return fail("text_too_long");
  const request = new AbortController();
  setRunning(request);
  at("result").hidden = false;
  at("titles").replaceChildren();
  tell("best", (texts) => texts.waiting);
  tell("facts", () => "");
  at("copy").hidden = true;
  reveal("result");
  try {
    if (!model) await loadModel();
    const beams = Number(at("beams").value);
    const parameters = {
      num_beams: beams,
      num_return_sequences: Math.min(beams, model?.parameters.num_return_sequences.maximum ?? 1),
      max_new_tokens: Number(at("length").value),
    };
    const answer = await fetch("/v1/titles", {
      method: "POST", headers: { "Content-Type": "application/json", ...authorization() }, signal: request.signal,
      body: JSON.stringify({ text, parameters, stream: true }),
    });
    if (!answer.ok) {
      const { error } = await answer.json();
      return fail(error.code, error.message);
    }
    if (at("key").value) keep("sessionStorage", "key", at("key").value);
    for await (const [name, data] of readEvents(answer.body)) {
      if (running !== request) return;
      if (name === "title") showTitles([data]);
      if (name === "error") return fail(data.error.code, data.error.message);
      if (name === "done") {
        showAnswer(data);
        remember(text, data);
        return;
      }
    }
    fail("network");
  } catch (error) {
    if (running !== request) return;
    if (error.name !== "AbortError") return fail("network");
    tell("facts", (texts) => texts.stopped);
    offerCopy();
  } finally {
    if (running === request) {
      setRunning(null);
      at("result").hidden = !at("titles").children.length;
    }
  }
}

function showAnswer(answer) {
  at("result").hidden = false;
  showTitles(answer.results[0].titles);
  showFacts(answer.results[0], answer.seconds);
  offerCopy();
  reveal("result");
}

function remember(text, answer) {
  history = [{ text, answer }, ...history.filter((each) => each.text !== text)].slice(0, MOST_REMEMBERED);
  keep("sessionStorage", "history", JSON.stringify(history));
  showHistory();
}

function showHistory() {
  at("history-box").hidden = !history.length;
  at("history").replaceChildren(...history.map(({ text, answer }) => {
    const button = Object.assign(make("button", ""), { type: "button" });
    button.append(make("b", answer.results[0].titles[0].title || "—"), make("small", text.trim().slice(0, 80)));
    button.addEventListener("click", () => {
      running?.abort();
      setRunning(null);
      at("text").value = text;
      at("problem").hidden = true;
      count();
      showAnswer(answer);
    });
    const row = make("li", "");
    row.append(button);
    return row;
  }));
}

const authorization = () => (at("key").value ? { Authorization: `Bearer ${at("key").value}` } : {});

async function load(path) {
  try {
    const answer = await fetch(path, { headers: authorization() });
    return answer.ok ? await answer.json() : null;
  } catch {
    return null;
  }
}

async function start() {
  at("key").value = recall("sessionStorage", "key") || "";
  setLanguage(recall("localStorage", "language") || (navigator.language.startsWith("zh") ? "zh" : "en"));
  setTheme(recall("localStorage", "theme") || "system");
  at("modifier").textContent = navigator.platform.startsWith("Mac") ? "⌘" : "Ctrl";
  at("language").addEventListener("click", () => {
    const name = language() === "zh" ? "en" : "zh";
    keep("localStorage", "language", name);
    setLanguage(name);
  });
  at("theme").addEventListener("click", () => {
    setTheme(THEMES[(THEMES.indexOf(recall("localStorage", "theme") || "system") + 1) % THEMES.length]);
  });
  at("text").addEventListener("input", () => { at("problem").hidden = true; count(); });
  at("form").addEventListener("submit", (event) => {
    event.preventDefault();
    if (!running) generate();
  });
  at("stop").addEventListener("click", () => running?.abort());
  at("copy").addEventListener("click", copyBest);
  at("clear").addEventListener("click", () => { history = []; keep("sessionStorage", "history", "[]"); showHistory(); });
  document.addEventListener("keydown", (event) => {
    if (event.isComposing) return;  // the key is the input method's
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !running) { event.preventDefault(); generate(); }
    if (event.key === "Escape") running?.abort();
  });
  for (const id of ["beams", "length"]) {
    at(id).addEventListener("input", () => {
      at(id).dataset.chosen = "true";
      at(`${id}-value`).textContent = at(id).value;
    });
  }
  [samples] = await Promise.all([load("/samples.json").then((found) => found || []), loadModel()]);
  showSamples();
  document.documentElement.dataset.ready = "true";
}

start();
