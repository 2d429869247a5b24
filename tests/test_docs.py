"""The READMEs and docs/: the two languages agree, links and flags exist, and commands and code run on the tiny model.

A page is run in a folder laid out as a reader would have it: every command in its order, each script in this process,
so that TensorFlow is loaded once. `QUICK` is what is added to make a command take seconds, `NOT_RUN` what is left out.
"""

import contextlib
import functools
import gzip
import importlib
import importlib.util
import io
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import NamedTuple

import pytest

from t5_pegasus.locations import ROOT

PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAIRS = [("README.md", "README.zh-CN.md"), *((page, page.replace("docs/", "docs/zh/")) for page in PAGES)]
EVERY_PAGE = [*(page for pair in PAIRS for page in pair), "CONTRIBUTING.md"]

# Added to a command: of two equal flags the last one counts.
QUICK = {
    "finetune.py": "--epochs 1 --max_eval_samples 1 --max_source_length 24 --max_target_length 8",
    "pretrain.py": "--max_steps 2 --warmup_steps 1 --logging_steps 1 --save_steps 2 --batch_tokens 512",
    "pretrain_data.py": "--workers 1",
    "test.py": "--max_new_tokens 4",
    "evaluation.py": "--max_new_tokens 4",
    "compare.py": "--resamples 100",
    "t5_pegasus.vocabulary": "--size 3000",
    "serve.py": "--host 127.0.0.1",
}

# How a command begins that is not run, and why.
NOT_RUN = {
    "make ": "installs packages, or is this very test; tests/test_environment.py has the lock",
    "docker ": "needs a daemon; tests/scripts/test_deploy.py checks the Dockerfile",
    "OPENAI_API_KEY=": "asks an endpoint of someone else; tests/systems/test_openai_chat.py has one",
    "PYSPARK_PYTHON=": "needs a cluster; tests/data/test_runners.py runs Spark on this machine",
    **{
        f"python benchmarks/{name}.py": "takes minutes to hours"
        for name in [
            "adapters",
            "comparison",
            "cross_position_bias",
            "decoding",
            "serving",
            "tiny_few_shot",
            "training",
        ]
    },
    "python benchmarks/tables.py": "writes the page itself; test_tables_are_up_to_date has it",
}

# Pages that train more than once, or load several models.
SLOW = {
    *("docs/adapters.md", "docs/english.md", "docs/fine-tuning.md", "docs/hugging-face.md", "docs/pretraining.md"),
    "docs/results.md",
}

# Flags of other programs.
FOREIGN_FLAGS = {"--extra"}

# Files that are named in the text and made by a command or a reader.
MADE = {
    *(
        "index.html",
        "scores.json",
        "report.md",
        "titles/",
        "csl_train.tsv",
        "decoding.json",
        "index.bin",
        "manifest.json",
        "model.safetensors",
        "scores.csv",
    ),
    *(
        "adapter_config.json",
        "t5_pegasus.json",
        "best_adapter/",
        "news/best_adapter/",
        "training_log.csv",
        "pretraining_log.csv",
        "generation_config.json",
        "exported/",
        "vocab.txt",
        "config.json",
        "encoder.onnx",
        "decoder.onnx",
    ),
    *(
        "gather.onnx",
        "train.jsonl.gz",
        "spiece.model",
        "tokenizer.json",
        "tokenizer_config.json",
        "titles.jsonl",
        "prompt.json",
        "tensorboard/",
        "training_state/",
    ),
}

DIALOGUE = {
    "dialogue": "Ann: Are you free for lunch?\nBob: Yes, at one.\nAnn: See you then!",
    "summary": "Ann and Bob will have lunch at one.",
}

SCRIPT = re.compile(r"(?:python (?:-m )?|(?:^|(?<= )))((?:deploy/|benchmarks/)?\w+\.(?:py|sh)|t5_pegasus\.\w+)(?= |$)")


class Block(NamedTuple):
    """A fenced block."""

    language: str
    text: str
    line: int


def read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text: str) -> list[Block]:
    found = re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(match[1], match[2], text.count("\n", 0, match.start()) + 2) for match in found]


def prose(text: str) -> str:
    """Return the text without fenced blocks and without what a script made."""
    text = re.sub(r"^<!-- made by .*?^<!-- end of .*?$", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)


def headings(text: str) -> list[tuple[int, str]]:
    return [(len(marks), title) for marks, title in re.findall(r"^(#+) (.+)$", prose(text), re.MULTILINE)]


def tables(text: str) -> list[list[list[str]]]:
    """Return the tables: rows of cells, header first, without the line below it."""
    found = re.findall(r"(?:^\|.*\n)+", prose(text), re.MULTILINE)
    return [
        [[cell.strip() for cell in row[1:-1].split("|")] for row in table.splitlines() if not row.startswith("|---")]
        for table in found
    ]


def in_code(text: str) -> list[str]:
    """Return what the prose has in backticks."""
    return re.findall(r"`([^`\n]+)`", prose(text))


def commands_of(block: Block) -> list[str]:
    """Return the commands of a block, without comments, a line each."""
    lines = block.text.replace("\\\n", " ").splitlines()
    without_comments = (re.sub(r"(^|\s)#.*$", "", line) for line in lines)
    return [" ".join(line.split()) for line in without_comments if line.strip()]


def steps(text: str) -> list[tuple[str, str]]:
    """Return ("bash", command) and ("python", code) in their order: of fenced blocks, and commands in tables."""
    found = [
        (block.line, language, each)
        for block in blocks(text)
        for language, each in (
            [("bash", command) for command in commands_of(block)]
            if block.language == "bash"
            else [("python", block.text)] * (block.language == "python")
        )
    ]
    for number, line in enumerate(text.splitlines(), 1):
        if line.startswith("|"):
            found += [(number, "bash", command) for command in re.findall(r"`((?:python|docker) [^`]+)`", line)]
    return [(language, each) for _, language, each in sorted(found, key=lambda each: each[0])]


def without_comments(code: str) -> str:
    return "\n".join(re.sub(r"\s*#.*$", "", line) for line in code.splitlines())


# What the pages say


@pytest.mark.parametrize("pair", PAIRS, ids=lambda pair: pair[0])
def test_both_languages_have_the_same_headings_commands_and_tables(pair):
    english, chinese = map(read, pair)
    assert [level for level, _ in headings(english)] == [level for level, _ in headings(chinese)]
    assert [(language, without_comments(each)) for language, each in steps(english)] == [
        (language, without_comments(each)) for language, each in steps(chinese)
    ]
    both = list(zip(tables(english), tables(chinese), strict=True))
    for ours, theirs in both:
        assert [len(row) for row in ours] == [len(row) for row in theirs], theirs[0]
        for cell, same in zip(itertools.chain(*ours), itertools.chain(*theirs), strict=True):
            assert cell == same or not re.fullmatch(r"[\d.,–% e-]+", cell)


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_short(page):
    assert len(read(page).splitlines()) <= 180


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_lines_and_paragraphs_are_short(page):
    paragraph = ""
    for line in [*prose(read(page)).splitlines(), ""]:
        if line.startswith("|"):
            continue
        assert len(line) <= 100, line
        starts = not line.strip() or re.match(r"\s*(?:[-*>]|#+|\d+\.) ", line)
        if starts:
            words, chinese = re.subn(r"[\u4e00-\u9fff]", " ", paragraph)
            assert len(words.split()) + chinese // 2 <= 80, paragraph  # a Chinese word has about two characters
            paragraph = ""
        paragraph += line + " "


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_relative_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if re.match(r"https?://", target):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / page).parent / path if path else ROOT / page
        assert file.exists(), target
        if anchor:
            titles = [title.lower() for _, title in headings(file.read_text(encoding="utf-8"))]
            assert anchor in [re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles], target


@functools.cache
def load_script(name: str):
    """Return a script or module of commands, without the import system taking `test` for the standard library's."""
    if name.startswith("t5_pegasus."):
        return importlib.import_module(name)
    if name.startswith("benchmarks/") and str(ROOT / "benchmarks") not in sys.path:
        sys.path.insert(0, str(ROOT / "benchmarks"))
    spec = importlib.util.spec_from_file_location(f"script_{Path(name).stem}", ROOT / name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def flags_of(script: str) -> frozenset[str]:
    if script.endswith(".sh"):
        text = subprocess.run([ROOT / script, "--help"], capture_output=True, text=True, check=True).stdout
    else:
        output = io.StringIO()
        with contextlib.redirect_stdout(output), contextlib.suppress(SystemExit):
            load_script(script).main(["--help"])
        text = output.getvalue()
    return frozenset(re.findall(r"(?<![\w-])--\w+", text))


def scripts() -> list[str]:
    names = [*("finetune", "test", "evaluation", "compare", "pretrain_data", "pretrain", "serve")]
    modules = [f"t5_pegasus.{name}" for name in ("vocabulary", "conversion", "export", "adapters", "check")]
    return [*(f"{name}.py" for name in names), *modules, "deploy/client.py", "deploy/create_endpoint.py"]


@pytest.mark.parametrize("page", [*EVERY_PAGE, "deploy/README.md"])
def test_flags_of_commands_exist(page):
    """Those of a command in the script that it calls; a flag that is named alone, in one of the scripts."""
    text = read(page)
    indented = (
        re.findall(r"^ {4,}(\S.*)$", text.replace("\\\n", " "), re.MULTILINE) if page.startswith("deploy") else []
    )
    commands = [each for language, each in steps(text) if language == "bash"]
    for command in [*commands, *indented, *in_code(text)]:
        names = SCRIPT.findall(command)
        if not names:
            continue
        _, _, arguments = command.partition(names[-1])
        arguments = re.split(r" (?:--|[<>|]) ", re.sub(r"'[^']*'", "", arguments))[0]
        for flag in re.findall(r"(?<![\w-])--\w+", arguments):
            assert flag in flags_of(names[-1]), command
    known = frozenset().union(*map(flags_of, [*scripts(), "deploy/build_and_push.sh"])) | FOREIGN_FLAGS
    if not page.startswith("deploy"):
        for flag in (match[0] for each in in_code(text) if (match := re.match(r"--\w+", each))):
            assert flag in known, flag


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_files_and_modules_that_are_named_exist(page):
    for each in in_code(read(page)):
        module = re.fullmatch(r"(?:python -m )?(t5_pegasus(?:\.\w+)+).*", each)
        if module:
            assert importlib.util.find_spec(module[1]) or importlib.util.find_spec(module[1].rpartition(".")[0]), each
        elif re.fullmatch(r"[\w./-]+\.(?:py|md|toml|cfg|txt|sh|json|csv|png)|[a-z_./]+/", each):
            exists = any(
                (folder / each).exists()
                for folder in (ROOT, ROOT / "t5_pegasus", ROOT / "tests", ROOT / "benchmarks", (ROOT / page).parent)
            )
            # `x` is a name to choose, capitals are to be filled in, and build/ and the like are made.
            is_example = re.search(r"(?:^|/)(?:test_)?x\.(?:py|md)$|[A-Z]{3}|^build/|^lctt/|^new/", each)
            assert exists or is_example or each in MADE or each.endswith(".onnx/"), each


@pytest.mark.parametrize("script", ["tables", "comparison", "adapters", "cross_position_bias", "tiny_few_shot"])
def test_tables_are_up_to_date(script):
    assert load_script(f"benchmarks/{script}.py").main(["--check"]) == 0


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_the_table_of_speed_is_the_measured_one(page):
    number = load_script("benchmarks/tables.py").number
    result = json.loads((ROOT / "benchmarks" / "results" / "decoding_base.json").read_text(encoding="utf-8"))
    (table,) = (table for table in tables(read(page)) if "CTranslate2 int8" in table[0])
    for row, (batch, beams) in zip(table[1:], ((1, 1), (1, 4), (32, 1)), strict=True):
        (cell,) = (
            cell
            for cell in result["summary"]["cells"]
            if (cell["source_length"], cell["new_tokens"], cell["batch"], cell["beams"]) == (256, 32, batch, beams)
        )
        sides = ("bert4keras", "Hugging Face", "CTranslate2 int8", "onnx float32", "onnx int8")
        found = [cell["sides"].get(side) for side in sides]
        assert row[1:] == [number(batch / side["call_ms"] * 1e3) if side else "–" for side in found]


@pytest.mark.parametrize("page", ["docs/data-formats.md", "docs/zh/data-formats.md"])
def test_the_usual_names_of_columns_are_those_of_the_table(page):
    from t5_pegasus.data.records import PAIRS

    found = re.findall(r"([a-z正文]+)/([a-z摘要标题]+)(?=[,.、。])", prose(read(page)))
    assert tuple(found) == PAIRS


# What the commands and the code do


@pytest.fixture(scope="module")
def desk(tmp_path_factory) -> Path:
    """Return a folder as a reader would have it.

    In place of the official weights there are random ones of the tiny model, with one layer, which is built in a third
    of the time.
    """
    from t5_pegasus import AutoTitle, build_model
    from t5_pegasus.networks.checkpoints import save_weights

    desk = tmp_path_factory.mktemp("desk")
    tiny, base = desk / "chinese_t5_pegasus_tiny", desk / "chinese_t5_pegasus_base"
    for model in (tiny, base, desk / "tests" / "untrained_tiny"):
        model.mkdir(parents=True)
        shutil.copyfile(ROOT / tiny.name / "vocab.txt", model / "vocab.txt")
        config = json.loads((ROOT / tiny.name / "config.json").read_text(encoding="utf-8"))
        (model / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 1}), encoding="utf-8")
    t5 = build_model(tiny)
    for weights in (base / "model.safetensors", desk / "best_model.weights"):
        save_weights(t5, weights)
    AutoTitle.load(
        base, weights=desk / "best_model.weights"
    )  # which leaves the export beside the weights, for all pages

    pairs = (ROOT / "data" / "train.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    articles = (ROOT / "data" / "articles.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    texts = [json.loads(line)["content"] + "\n" for line in articles]
    few = {"train.tsv": pairs[:4], "valid.tsv": pairs[4:6], "test.tsv": pairs[6:8], "articles.jsonl": articles[:4]}
    few |= {"texts.txt": texts[:2], "data/train.tsv": pairs[:4], "data/valid.tsv": pairs[4:6]}
    for name in ("train", "valid"):
        text = (ROOT / "data" / f"dialogues_{name}.jsonl").read_text(encoding="utf-8")
        few[f"data/dialogues_{name}.jsonl"] = text.splitlines(keepends=True)[:2]
    few["dialogues.jsonl"] = [f"{json.dumps({'id': name, **DIALOGUE})}\n" for name in ("one", "two")]
    few["summaries.txt"] = ["Ann asks Bob to lunch.\n", "Lunch is at one.\n"]
    few["news.csv"] = ["内容,主题\n", *(f"{content.strip()},新闻\n" for content in texts[:2])]
    few |= {f"csl/{name}.tsv": pairs[:3] for name in ("train", "dev", "test", "extra")}
    for name, lines in few.items():
        (desk / name).parent.mkdir(exist_ok=True)
        (desk / name).write_text("".join(lines), encoding="utf-8")
    for name in ("corpus.jsonl.gz", "lctt/train.jsonl.gz", "corpus/train.jsonl.gz"):
        (desk / name).parent.mkdir(exist_ok=True)
        with gzip.open(desk / name, "wt", encoding="utf-8") as file:
            file.writelines(articles[:8])
    _put_mt5(desk)
    _put_hugging_face(desk)
    return desk


def _put_hugging_face(desk: Path) -> None:
    """Put down folders of Hugging Face's models, those of tests/golden, under the names of the hub."""
    golden = ROOT / "tests" / "golden" / "hugging_face"
    names = {"flan-t5-base": "flan_t5", "t5-small": "t5", "mT5_multilingual_XLSum": "mt5", "uer_pegasus": "uer_pegasus"}
    for name, source in names.items():
        shutil.copytree(golden / source, desk / name)
        if not (desk / name / "vocab.txt").exists():
            shutil.copyfile(golden / "spiece.model", desk / name / "spiece.model")


def _put_mt5(desk: Path) -> None:
    """Put down mT5's weights and vocabulary, those of tests/golden, and the model directory that is to take them."""
    sentencepiece = pytest.importorskip("sentencepiece")
    shutil.copyfile(ROOT / "tests" / "golden" / "mt5_hugging_face.safetensors", desk / "model.safetensors")
    alphabet = "".join(chr(0x4E00 + index) for index in range(296))
    with (desk / "spiece.model").open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([alphabet] * 3),
            model_writer=file,
            vocab_size=300,
            model_type="char",
            character_coverage=1.0,
            **{"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "minloglevel": 2},
        )
    size = {"num_hidden_layers": 3, "hidden_size": 64, "intermediate_size": 96}
    size |= {"num_attention_heads": 4, "attention_head_size": 16, "tie_word_embeddings": False}
    tiny = json.loads((ROOT / "chinese_t5_pegasus_tiny" / "config.json").read_text(encoding="utf-8"))
    (desk / "new").mkdir()
    (desk / "new" / "config.json").write_text(
        json.dumps({**tiny, **size, "relative_attention_num_buckets": 16, "relative_attention_max_distance": 40})
    )
    shutil.copyfile(ROOT / "chinese_t5_pegasus_tiny" / "vocab.txt", desk / "new" / "vocab.txt")


class Reader:
    """Runs the steps of a page in the current folder."""

    def __init__(self, monkeypatch) -> None:
        self.monkeypatch = monkeypatch
        self.names: dict[str, object] = {}
        self.service: subprocess.Popen[bytes] | None = None
        self.port = _free_port()

    def run(self, language: str, step: str) -> None:
        step = step.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        if language == "python":
            exec(compile(step, step, "exec"), self.names)
        elif SCRIPT.search(step):
            self.run_script(step)
        else:
            step = step.replace("curl ", "curl --fail --silent ")
            subprocess.run(["bash", "-euo", "pipefail", "-c", step], check=True, timeout=60)

    def run_script(self, command: str) -> None:
        words = shlex.split(command)
        with contextlib.ExitStack() as stack:
            if "<" in words:
                at = words.index("<")
                self.monkeypatch.setattr(sys, "stdin", stack.enter_context(open(words[at + 1], encoding="utf-8")))
                del words[at:]
            words.remove("python")
            if words[0] == "-m":
                del words[0]
            name, *arguments = words
            if "--predictions" not in arguments:  # these are scored as they are
                arguments += QUICK.get(name, "").split()
            if name == "serve.py":
                self.serve([*arguments, "--port", str(self.port)])
            else:
                assert load_script(name).main(arguments) == 0

    def serve(self, arguments: list[str]) -> None:
        """Start the service, and wait until it has its model."""
        self.service = subprocess.Popen([sys.executable, str(ROOT / "serve.py"), *arguments])
        for _ in range(600):
            assert self.service.poll() is None, "the service has ended"
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5).close()
                return
            time.sleep(0.1)
        raise AssertionError("the service has no model after a minute")

    def close(self) -> None:
        if self.service is not None:
            self.service.send_signal(signal.SIGTERM)
            assert self.service.wait(30) == 0


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def is_run(step: str) -> bool:
    return not step.startswith(tuple(NOT_RUN))


@pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal")
@pytest.mark.parametrize(
    "page", [pytest.param(page, marks=pytest.mark.slow if page in SLOW else ()) for page in ("README.md", *PAGES)]
)
def test_commands_and_code_run(page, desk, tmp_path, monkeypatch, capfd):
    folder = shutil.copytree(desk, tmp_path / "desk")
    monkeypatch.chdir(folder)
    if page == "docs/hugging-face.md":  # of several models, before whose own weights these would go
        shutil.move(folder / "best_model.weights", folder / "chinese_t5_pegasus_tiny")
    # What the scripts take by default is what is in the reader's folder.
    monkeypatch.setattr("t5_pegasus.locations.BASE_MODEL_DIR", folder / "chinese_t5_pegasus_base")
    monkeypatch.setattr("t5_pegasus.locations.TINY_MODEL_DIR", folder / "chinese_t5_pegasus_tiny")
    reader = Reader(monkeypatch)
    try:
        for language, step in steps(read(page)):
            if is_run(step):
                reader.run(language, step)
    finally:
        reader.close()


def test_what_is_not_run_is_there():
    commands = [step for page in EVERY_PAGE for language, step in steps(read(page)) if language == "bash"]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)] == []


@pytest.mark.slow
def test_the_reference_has_a_page_for_each_module():
    pytest.importorskip("pdoc")
    subprocess.run(
        [sys.executable, "docs/reference.py"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=True
    )
    package = ROOT / "t5_pegasus"
    modules = {
        path.relative_to(ROOT).with_suffix("") for path in package.rglob("*.py") if not path.stem.startswith("__")
    }
    pages = {
        path.relative_to(ROOT / "build" / "docs").with_suffix("") for path in (ROOT / "build" / "docs").rglob("*.html")
    }
    assert modules <= pages
    assert "AutoTitle" in (ROOT / "build" / "docs" / "t5_pegasus.html").read_text(encoding="utf-8")
