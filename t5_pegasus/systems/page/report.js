"use strict";

const TEXTS = {
  zh: {
    page: "标题系统对比", heading: "标题系统对比", scores: "得分", pairs: "两两比较", plots: "图", slices: "分组得分", texts: "逐篇对照",
    signatures: "指标设置", score: "指标", search: "搜索", show: "显示", of: "系统", more: "再显示一些", language: "English",
    light: "浅色", dark: "深色", theme: "随系统", reference: "参考", system: "系统", pair: "一对系统", difference: "差",
    bootstrap: "p，自助法", randomization: "p，随机化", significant: "显著", detectable: "能测出的最小差", wins: "胜/平/负",
    by: "分组", value: "取值", number: "篇数", seconds: "秒/篇", memory: "内存 MiB", tokens: "词元 读/写", cost: "费用", missing: "空/拒",
    length: "均长", asked: "要求的长度", yes: "是", no: "否", all: "全部",
    scoresNote: "占比以百分数表示，小字是 95% 自助法区间。粗体是该项最好的系统，点下划线的与它没有显著差别（配对随机化检验，Holm 校正）。",
    "plot-intervals": "ROUGE-L 及其 95% 区间", "plot-speed": "质量与速度：横轴是每篇秒数（对数），竖轴是 ROUGE-L",
    "plot-by-length": "ROUGE-L 随正文{unit}数的变化：每点的篇数相同", "plot-lengths": "标题{unit}数的分布：横轴{unit}数，竖轴篇数，填充的是参考标题",
    "plot-wins": "每一对系统的胜（蓝）、平、负（橙）篇数，按 ROUGE-L；系统很多时只列最好的系统",
    filters: {
      all: "全部，按原来的顺序", worst: "得分最低的在前", best: "得分最高的在前", different: "各系统差别最大的在前",
      invented: "有正文里没有的数字、外文词或书名", empty: "没有写出标题",
    },
    slicesBy: { "source-length": "正文{unit}数", "title-length": "参考标题{unit}数", "copy-rate": "参考标题抄自正文的比例 %", numbers: "参考标题有数字", latin: "参考标题有拉丁字母" },
    about: (s) => `${s.data.name}，${s.texts} 篇，${s.systems.length} 个系统`,
    count: (n, all) => `${n} 篇${n === all ? "" : `，共 ${all} 篇`}；橙色是与参考标题不同的部分，红色带下划线的在正文里没有`,
    pairsNote: (s) => `${s.resamples.toLocaleString("zh")} 次重采样，种子 ${s.seed}，p 值经 Holm 校正；“能测出的最小差”是这个测试集五次中有四次能测出的真实差别。`,
  },
  en: {
    page: "Systems that write titles", heading: "Systems that write titles, compared", scores: "Scores", pairs: "Pairs", plots: "Plots", slices: "Slices",
    texts: "Texts", signatures: "Settings of the scores", score: "Score", search: "Search", show: "Show", of: "of", more: "Show more",
    language: "中文", light: "Light", dark: "Dark", theme: "System", reference: "reference", system: "system", pair: "pair",
    difference: "difference", bootstrap: "p, bootstrap", randomization: "p, randomization", significant: "significant",
    detectable: "smallest that shows", wins: "wins/ties/losses", by: "by", value: "value", number: "texts", seconds: "s a text",
    memory: "memory, MiB", tokens: "tokens read/written", cost: "cost", missing: "empty/refused", length: "mean length", asked: "length asked for", yes: "yes", no: "no",
    all: "all systems",
    scoresNote: "Shares are in percent; in small print the 95 % bootstrap interval. Bold is the best system of a score; what is underlined with dots does not differ from it significantly (paired randomization, Holm's correction).",
    "plot-intervals": "ROUGE-L with its 95 % interval", "plot-speed": "Quality against speed: seconds a text (log) and ROUGE-L",
    "plot-by-length": "ROUGE-L by the {unit} of the text: each point has as many texts", "plot-lengths": "Lengths of titles: {unit} and texts; the filled ones are the references",
    "plot-wins": "Texts that the first of each pair wins (blue), neither, and the second (orange), by ROUGE-L; of many systems, the best one's pairs",
    filters: {
      all: "all, in their order", worst: "lowest score first", best: "highest score first", different: "most different first",
      invented: "numbers, names and the like that the text has not", empty: "no title written",
    },
    slicesBy: { "source-length": "{unit} of the text", "title-length": "{unit} of the reference", "copy-rate": "% of the reference that is in the text", numbers: "reference has numbers", latin: "reference has Latin letters" },
    about: (s) => `${s.data.name}, ${s.texts} texts, ${s.systems.length} systems`,
    count: (n, all) => `${n} text${n === 1 ? "" : "s"}${n === all ? "" : ` of ${all}`}; orange differs from the reference, red and underlined is not in the text`,
    pairsNote: (s) => `${s.resamples.toLocaleString("en")} resamples, seed ${s.seed}, p-values after Holm's correction. "Smallest that shows" is the true difference that this test set finds four times in five.`,
  },
};
const THEMES = ["theme", "light", "dark"];
const AT_A_TIME = 20;
const SHOWN = ["rouge-1", "rouge-2", "rouge-l", "rouge-lsum", "bleu", "chrf", "bertscore", "exact", "length-ratio", "novel-2", "copied", "longest-copy", "repetition", "invented-numbers", "invented-latin", "invented-names", "corpus-bleu", "corpus-chrf"];

const data = JSON.parse(document.getElementById("data").textContent);
const { summary } = data;
const rows = new Map(summary.scores.map((row) => [row.name, row]));
const names = summary.systems.map((system) => system.name);
const mainScore = data.scores.indexOf(data.main);
let language = navigator.language.startsWith("zh") ? "zh" : "en";
let shown = AT_A_TIME;

const at = (id) => document.getElementById(id);
const say = () => TEXTS[language];
// What texts are counted and compared in, in the words of the page: by the language of the texts.
const UNITS = { zh: { zh: "字", en: "词" }, en: { zh: "characters", en: "words" } };
for (const [name, texts] of Object.entries(TEXTS)) {
  for (const part of [texts, texts.slicesBy]) {
    for (const [key, text] of Object.entries(part)) {
      if (typeof text === "string") part[key] = text.replaceAll("{unit}", UNITS[name][summary.language]);
    }
  }
}
function make(name, content = "", className = "") {
  const element = document.createElement(name);
  element.append(...(Array.isArray(content) ? content : [content]));
  if (className) element.className = className;
  return element;
}
const number = (value, row) => (value === null ? "–" : row.is_share ? (100 * value).toFixed(2) : value.toFixed(2));
const pValue = (value) => (value === null ? "–" : value < 0.0001 ? "< 0.0001" : value.toFixed(4));

function fill(table, head, body) {
  const cells = head.map((each, index) => make("th", each, index ? "" : "words"));
  cells.forEach((cell) => { cell.scope = "col"; });
  table.replaceChildren(make("thead", make("tr", cells)), make("tbody", body));
}

function rowOf(name, cells) {
  const header = make("th", name);
  header.scope = "row";
  return make("tr", [header, ...cells]);
}

// The best system of a score, and whether another differs from it significantly.
function bestOf(row) {
  if (!row.better) return null;
  return names.reduce((best, name) => (row.better * (row.systems[name][0] - row.systems[best][0]) > 0 ? name : best));
}
function differs(row, one, other) {
  const pair = row.pairs.find(({ first, second }) => [first, second].includes(one) && [first, second].includes(other));
  return pair.significant;
}

function drawScores() {
  const t = say();
  const isPaid = summary.systems.some((system) => system.input_tokens);
  const about = {
    [t.length]: (system) => system.mean_length.toFixed(1),
    [t.missing]: (system) => `${system.empty}/${system.refused}`,
    [t.seconds]: (system) => (system.seconds_per_text === null ? "–" : String(Number(system.seconds_per_text.toPrecision(3)))),
    [t.memory]: (system) => (system.peak_bytes === null ? "–" : (system.peak_bytes / 2 ** 20).toFixed(0)),
    ...(isPaid && {
      [t.tokens]: (system) => `${system.input_tokens}/${system.output_tokens}`,
      [t.asked]: (system) => (system.asked_length === null ? "–" : String(system.asked_length)),
      [t.cost]: (system) => (system.cost === null ? "–" : String(system.cost)),
    }),
  };
  fill(at("scores"), [t.score, ...names], [
    ...SHOWN.filter((name) => rows.has(name)).map((name) => scoreRow(rows.get(name))),
    ...Object.entries(about).map(([label, of]) => rowOf(label, summary.systems.map((system) => make("td", of(system))))),
  ]);
}

function scoreRow(row) {
  const best = bestOf(row);
  const kind = (name) => (best === null || names.length < 2 ? "" : name === best ? "best" : differs(row, name, best) ? "" : "near");
  return rowOf(row.name, names.map((name) => {
    const [score, low, high] = row.systems[name];
    return make("td", [make("span", number(score, row), kind(name)), make("small", `${number(low, row)}–${number(high, row)}`)]);
  }));
}

function drawPairs() {
  const row = rows.get(at("pairs-score").value);
  const t = say();
  const signed = (value) => (value > 0 ? "+" : "") + number(value, row);
  fill(at("pairs"), [t.pair, t.difference, t.wins, t.bootstrap, t.randomization, t.significant, t.detectable], row.pairs.map((pair, index) => {
    const [difference, low, high] = pair.difference;
    const { wins, ties, losses } = summary.differences[index];
    return rowOf(`${pair.first} − ${pair.second}`, [
      make("td", [signed(difference), make("small", `${signed(low)} … ${signed(high)}`)]),
      make("td", row.name === data.main ? `${wins}/${ties}/${losses}` : "–"),
      make("td", pValue(pair.bootstrap_holm)),
      make("td", pValue(pair.randomization_holm)),
      make("td", pair.significant ? t.yes : t.no, pair.significant ? "best" : ""),
      make("td", number(pair.detectable, row)),
    ]);
  }));
  at("pairs-note").textContent = t.pairsNote(summary.settings);
}

function drawSlices() {
  const row = rows.get(at("slices-score").value);
  const t = say();
  fill(at("slices"), [t.by, t.value, t.number, ...names], summary.slices.map((slice) => rowOf(t.slicesBy[slice.by] ?? slice.by, [
    make("td", t[slice.value] ?? slice.value),
    make("td", String(slice.count)),
    ...names.map((name) => make("td", number(slice.scores[row.name][name], row))),
  ])));
}

// A text in what is compared: its characters, or its words with what stands between them.
const unitsOf = (text) => (summary.language === "zh" ? [...text] : text.match(/[\p{L}\p{N}]+(?:['’][\p{L}\p{N}]+)*|[^\p{L}\p{N}]/gu) ?? []);

// Which units of a title are on a longest common subsequence with the reference.
function common(title, reference) {
  const width = reference.length + 1;
  const table = new Uint16Array((title.length + 1) * width);
  for (let i = title.length - 1; i >= 0; i--) {
    for (let j = reference.length - 1; j >= 0; j--) {
      table[i * width + j] = title[i] === reference[j]
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const found = new Array(title.length).fill(false);
  for (let i = 0, j = 0; i < title.length && j < reference.length;) {
    if (title[i] === reference[j]) { found[i] = true; i++; j++; }
    else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else j++;
  }
  return found;
}

function coloured(title, references, content) {
  const units = unitsOf(title);
  const lower = units.map((each) => each.toLowerCase());
  const source = new Set(unitsOf(content.toLowerCase()));
  const same = references
    .map((reference) => common(lower, unitsOf(reference.toLowerCase())))
    .reduce((best, each) => (each.filter(Boolean).length > best.filter(Boolean).length ? each : best));
  const kinds = lower.map((each, index) => (same[index] || !each.trim() ? "" : source.has(each) ? "other" : "invented"));
  const parts = [];
  for (let start = 0; start < units.length;) {
    let end = start;
    while (end < units.length && kinds[end] === kinds[start]) end++;
    const text = units.slice(start, end).join("");
    parts.push(kinds[start] ? make("mark", text, kinds[start]) : text);
    start = end;
  }
  return parts;
}

function chosenTexts() {
  const words = at("search").value.toLowerCase().split(/\s+/).filter(Boolean);
  const system = Number(at("system").value);
  const systems = system < 0 ? names.map((_, index) => index) : [system];
  const has = (text) => {
    const all = [text.content, text.group, ...text.references, ...text.titles].join("\n").toLowerCase();
    return words.every((word) => all.includes(word));
  };
  const scoreOf = (text) => systems.reduce((sum, index) => sum + text.scores[index][mainScore], 0);
  const spread = (text) => {
    const found = text.scores.map((scores) => scores[mainScore]);
    return system < 0 ? Math.max(...found) - Math.min(...found) : Math.max(...found.map((each) => Math.abs(each - found[system])));
  };
  const texts = data.texts.map((text, index) => ({ ...text, number: index + 1 })).filter(has);
  const by = (value) => texts.sort((one, other) => value(one) - value(other) || one.number - other.number);
  return {
    all: () => texts,
    worst: () => by(scoreOf),
    best: () => by((text) => -scoreOf(text)),
    different: () => by((text) => -spread(text)),
    invented: () => texts.filter((text) => systems.some((index) => text.invented[index].length)),
    empty: () => texts.filter((text) => systems.some((index) => !text.titles[index].trim())),
  }[at("filter").value]();
}

function drawTexts() {
  const texts = chosenTexts();
  const t = say();
  at("count").textContent = t.count(texts.length, data.texts.length);
  at("more").hidden = texts.length <= shown;
  at("texts").replaceChildren(...texts.slice(0, shown).map((text) => {
    const source = make("p", text.content, "source");
    source.addEventListener("click", () => source.classList.toggle("open"));
    const list = make("dl", text.references.flatMap((reference) => [make("dt", t.reference), make("dd", reference)]));
    names.forEach((name, index) => {
      const scores = make("data", `${data.main} ${(100 * text.scores[index][mainScore]).toFixed(1)}`);
      scores.value = text.scores[index][mainScore];
      const wrong = text.invented[index].length ? [make("data", `✗ ${text.invented[index].join(" ")}`)] : [];
      list.append(make("dt", name), make("dd", [...coloured(text.titles[index], text.references, text.content), scores, ...wrong]));
    });
    const head = make("p", `${text.number}${text.group ? ` · ${text.group}` : ""}`, "note");
    return make("li", [head, source, list]);
  }));
}

function options(id, pairs) {
  const select = at(id);
  const before = select.value;
  select.replaceChildren(...pairs.map(([value, text]) => Object.assign(make("option", text), { value })));
  if (pairs.some(([value]) => value === before)) select.value = before;
}

function theme() {
  return document.documentElement.dataset.theme ?? "theme";
}

function draw() {
  const t = say();
  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  document.title = `${t.page} · T5-PEGASUS`;
  document.querySelectorAll("[data-text]").forEach((element) => { element.textContent = t[element.dataset.text]; });
  at("language").textContent = t.language;
  at("language").lang = language === "zh" ? "en" : "zh-CN";
  at("theme").textContent = t[theme()];
  at("about").textContent = t.about(summary);
  options("filter", Object.entries(t.filters));
  options("system", [["-1", t.all], ...names.map((name, index) => [String(index), name])]);
  drawScores();
  if (names.length > 1) drawPairs();
  drawSlices();
  drawTexts();
}

options("pairs-score", summary.scores.map(({ name }) => [name, name]));
options("slices-score", Object.keys(summary.slices[0].scores).map((name) => [name, name]));
at("pairs-score").value = data.main;
at("slices-score").value = data.main;
at("pairs-box").hidden = names.length < 2;
at("signatures").append(...summary.signatures.map((each) => make("li", each)));
at("pairs-score").addEventListener("change", drawPairs);
at("slices-score").addEventListener("change", drawSlices);
["filter", "system", "search"].forEach((id) => at(id).addEventListener("input", () => { shown = AT_A_TIME; drawTexts(); }));
at("filters").addEventListener("submit", (event) => event.preventDefault());
at("more").addEventListener("click", () => { shown += AT_A_TIME; drawTexts(); });
at("language").addEventListener("click", () => { language = language === "zh" ? "en" : "zh"; draw(); });
at("theme").addEventListener("click", () => {
  const next = THEMES[(THEMES.indexOf(theme()) + 1) % THEMES.length];
  if (next === "theme") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = next;
  at("theme").textContent = say()[next];
});
draw();
document.documentElement.dataset.ready = "";
