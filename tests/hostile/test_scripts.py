"""Every script with input that cannot work: one line, exit code 2, nothing left behind. A row a case."""

import codecs
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.systems.http_client import over_http
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system
from tests.hostile.damage import ODD_FLAGS
from tests.hostile.outcomes import files_in, outcome, some_or_many
from tests.hostile.scripts import SCRIPTS, flags_of, main_of, scripts_that_exist

PAIRS = "题一\t正文第一篇。\n题二\t正文第二篇。\n".encode()
TEXTS = "正文第一篇。\n正文第二篇。\n".encode()
TITLES = "题一\n题二\n".encode()
CONFIG = json.dumps(
    {"vocab_size": 7, "hidden_size": 4, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 4}
).encode()
VOCABULARY = "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n正\n文\n".encode()
MODEL = {"model/config.json": CONFIG, "model/vocab.txt": VOCABULARY}
WEIGHTS = {**MODEL, "model/model.safetensors": (2).to_bytes(8, "little") + b"{}"}
GBK = "题一\t正文第一篇。\n".encode("gbk")
UTF16 = codecs.BOM_UTF16_LE + "题一\t正文第一篇。\n".encode("utf-16-le")
IN_GBK = "not UTF-8 but GB18030, convert it with `iconv -f GB18030 -t UTF-8 "
IN_UTF16 = "not UTF-8 but UTF-16, convert it with `iconv -f UTF-16 -t UTF-8 "

TITLE, SCORE, SERVE, COMPARE = (f"t5_pegasus.commands.{name}" for name in ("title", "score", "serve", "compare"))
TRAIN = ["--train_file", "a.tsv", "--validation_file", "a.tsv", "--model_dir", "model", "--output_dir", "out"]
PRETRAIN = ["--train_file", "a.tsv", "--model_dir", "model", "--output_dir", "out"]
SYSTEMS = ["--test_file", "a.tsv", "--output_dir", "out", "--system", "lead", "--system"]
PREDICTIONS = ["--references", "a.tsv", "--predictions"]

# What is wrong: the script, its flags, the files that there are, and what must be said (a regular expression).
CASES = {
    # texts
    "no text": (TITLE, [""], {}, "the text must not be empty, got ''"),
    "a blank text": (TITLE, [" \u3000\t"], {}, "the text must not be empty"),
    "a text in GBK": (TITLE, [os.fsdecode("正文".encode("gbk"))], {}, "the text is not UTF-8"),
    "a text and a file": (TITLE, ["正文", "--input_file", "a.txt"], {"a.txt": TEXTS}, "give a text or --input_file"),
    "texts in GBK": (TITLE, ["--input_file", "a.txt"], {"a.txt": GBK}, re.escape(f"a.txt:1: {IN_GBK}")),
    "texts in UTF-16": (TITLE, ["--input_file", "a.txt"], {"a.txt": UTF16}, re.escape(IN_UTF16)),
    "no texts": (TITLE, ["--input_file", "a.txt"], {"a.txt": b""}, "a.txt holds no text"),
    "texts with NUL": (TITLE, ["--input_file", "a.txt"], {"a.txt": b"a\0b\n"}, "a.txt:1: content has a NUL"),
    "a picture": (TITLE, ["--input_file", "a.png"], {"a.png": b"\x89PNG"}, "the name of a data file must end in"),
    "a folder of texts": (TITLE, ["--input_file", "folder.tsv"], {"folder.tsv/a": b""}, "folder.tsv: Is a directory"),
    "a name that is too long": (TITLE, ["--input_file", "x" * 300 + ".tsv"], {}, "File name too long"),
    "titles onto the vocabulary": (
        *(TITLE, ["正文", "--model_dir", "model", "--output_file", "model/vocab.txt"], MODEL),
        "output_file must not be the model or in it",
    ),
    "titles onto a user dictionary": (
        *(TITLE, ["正文", "--model_dir", "model", "--user_dict", "u.txt", "--output_file", "u.txt"]),
        *({**MODEL, "u.txt": b"a\n"}, "output_file must not be the user_dict"),
    ),
    "titles onto a device": (
        *(TITLE, ["正文", "--model_dir", "model", "--output_file", "/dev/null"], WEIGHTS),
        "must not be a directory or a device",
    ),
    # predictions
    "beams for titles that are written": (
        *(SCORE, [*PREDICTIONS, "b.txt", "--num_beams", "4"], {"a.tsv": PAIRS, "b.txt": TITLES}),
        "--num_beams would change no title of --predictions",
    ),
    "a model for titles that are written": (
        *(SCORE, [*PREDICTIONS, "b.txt", "--model_dir", "model", "--topk", "1"], {"a.tsv": PAIRS, "b.txt": TITLES}),
        "--model_dir and --num_beams would change no title",
    ),
    "a test file beside predictions": (
        *(SCORE, [*PREDICTIONS, "b.txt", "--test_file", "a.tsv"], {"a.tsv": PAIRS, "b.txt": TITLES}),
        "--test_file would change no title",
    ),
    "predictions in GBK": (SCORE, [*PREDICTIONS, "b.txt"], {"a.tsv": PAIRS, "b.txt": GBK}, re.escape(IN_GBK)),
    "predictions without a title": (
        *(SCORE, [*PREDICTIONS, "b.jsonl"], {"a.tsv": PAIRS, "b.jsonl": b'{"titles": ["x"], "id": 1}\n'}),
        "b.jsonl:1: column title is missing, got titles, id",
    ),
    "scores onto the references": (
        *(SCORE, [*PREDICTIONS, "b.txt", "--output_csv", "./a.tsv"], {"a.tsv": PAIRS, "b.txt": TITLES}),
        "output_csv must not be the references",
    ),
    "references in UTF-16": (SCORE, [*PREDICTIONS, "b.txt"], {"a.tsv": UTF16, "b.txt": TITLES}, re.escape(IN_UTF16)),
    "fewer predictions": (SCORE, [*PREDICTIONS, "b.txt"], {"a.tsv": PAIRS, "b.txt": b"x\n"}, "titles for 1 texts"),
    "fewer than no examples": (SCORE, ["--show", "-1"], {}, "show must be at least 0"),
    # models
    "a config in UTF-16": (
        *(TITLE, ["正文", "--model_dir", "model"]),
        *({**WEIGHTS, "model/config.json": CONFIG.decode().encode("utf-16")}, re.escape(f"config.json: {IN_UTF16}")),
    ),
    "half a config": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/config.json": CONFIG[:30]}),
        "config.json is not valid JSON",
    ),
    "a config beyond measure": (
        *(TITLE, ["正文", "--model_dir", "model"]),
        *({**WEIGHTS, "model/config.json": CONFIG.replace(b"4", b"9" * 30)}, "must be from 1 to"),
    ),
    "a vocabulary in GBK": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/vocab.txt": VOCABULARY.decode().encode("gbk")}),
        re.escape(f"vocab.txt:6: {IN_GBK}"),
    ),
    "another vocabulary": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/vocab.txt": b"[PAD]\n[UNK]\n"}),
        r"vocab.txt lacks the special tokens \[CLS\] \[SEP\]",
    ),
    "a user dictionary in GBK": (
        *(
            TITLE,
            ["正文", "--model_dir", "model", "--user_dict", "u.txt"],
            {**WEIGHTS, "u.txt": "模型 3\n".encode("gbk")},
        ),
        re.escape(f"u.txt:1: {IN_GBK}"),
    ),
    "no user dictionary": (TITLE, ["正文", "--model_dir", "model", "--user_dict", "u.txt"], WEIGHTS, "u.txt: No such"),
    "defaults that are no JSON": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/generation_config.json": b"[]"}),
        "generation_config.json must hold a JSON object, got list",
    ),
    "defaults that cannot be": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/generation_config.json": b'{"num_beams": 0}'}),
        "generation_config.json: num_beams must be at least 1, got 0",
    ),
    "weights of junk": (
        *(TITLE, ["正文", "--model_dir", "model"], {**WEIGHTS, "model/model.safetensors": b"junk"}),
        "model.safetensors is neither HDF5 nor safetensors nor a TensorFlow checkpoint",
    ),
    "weights cut off": (
        *(TITLE, ["正文", "--model_dir", "model"]),
        *({**WEIGHTS, "model/model.safetensors": (99).to_bytes(8, "little") + b"{}"}, "may be damaged or cut off"),
    ),
    "weights cut off, to serve": (
        *(SERVE, ["--model_dir", "model", "--weights", "w.h5"], {**MODEL, "w.h5": b"\x89HDF\r\n\x1a\n\0"}),
        "w.h5 cannot be read, it may be damaged or cut off",
    ),
    "weights cut off, to fine-tune": (
        *("finetune", TRAIN, {**MODEL, "a.tsv": PAIRS, "model/model.safetensors": b"12345678{"}),
        "may be damaged or cut off",
    ),
    "weights cut off, to pretrain": (
        *("pretrain", PRETRAIN, {**MODEL, "a.tsv": PAIRS, "model/model.ckpt.index": b"index"}),
        "model.ckpt cannot be read, it may be damaged or cut off",
    ),
    "weights cut off, to export": (
        *("t5_pegasus.export", ["--model_dir", "model", "--output_dir", "out"]),
        *({**MODEL, "model/model.safetensors": b"12345678{"}, "may be damaged or cut off"),
    ),
    "weights of mT5 cut off": (
        "t5_pegasus.conversion",
        ["--mt5_weights", "w.safetensors", "--mt5_vocab", "v", "--model_dir", "model", "--output_dir", "out"],
        {**MODEL, "w.safetensors": b"12345678{"},
        "may be damaged or cut off",
    ),
    "weights of mT5 cut off, to pretrain": (
        "pretrain",
        [*PRETRAIN, "--mt5_weights", "w.safetensors", "--mt5_vocab", "v"],
        {**MODEL, "a.tsv": PAIRS, "w.safetensors": b"12345678{"},
        "may be damaged or cut off",
    ),
    "weights of a system cut off, to compare": (
        *(COMPARE, [*SYSTEMS, "title:model"], {**MODEL, "a.tsv": PAIRS, "model/model.safetensors": b"12345678{"}),
        "^title:model: model/model.safetensors cannot be read, it may be damaged or cut off",
    ),
    "no weights of a system": (
        *(COMPARE, [*SYSTEMS, "title:model?weights=w.h5"], {**WEIGHTS, "a.tsv": PAIRS}),
        r"title:model\?weights=w.h5: no weights at w.h5",
    ),
    "an export without its files, to compare": (
        *(COMPARE, [*SYSTEMS, "title:model"], {**MODEL, "a.tsv": PAIRS, "model/decoder.onnx": b"x"}),
        "title:model: model was exported by another version of t5_pegasus",
    ),
    "weights beside an export, to compare": (
        *(COMPARE, [*SYSTEMS, "title:model?weights=w"], {**MODEL, "a.tsv": PAIRS, "model/decoder.onnx": b"x"}),
        "model is an exported model: give no weights",
    ),
    "an export without its files": (
        *(TITLE, ["正文", "--model_dir", "model"], {**MODEL, "model/decoder.onnx": b"x"}),
        "was exported by another version of t5_pegasus: export it again",
    ),
    # training
    "pairs in GBK": ("finetune", TRAIN, {**MODEL, "a.tsv": GBK}, re.escape(f"a.tsv:1: {IN_GBK}")),
    "pairs without a title": ("finetune", TRAIN, {**MODEL, "a.tsv": b"\tx\n"}, "a.tsv:1: title is empty"),
    "no pairs": ("finetune", TRAIN, {**MODEL, "a.tsv": b"title\tcontent\n"}, "a.tsv holds no example"),
    "from scratch and from weights": (
        *("finetune", [*TRAIN, "--from_scratch", "--weights", "w"], {**MODEL, "a.tsv": PAIRS}),
        "from_scratch and weights exclude each other",
    ),
    "a whole text as pairs": ("pretrain", PRETRAIN, {**MODEL, "a.tsv": b"x" * 100_000}, r"a.tsv:1: expected 2 fields"),
    "half of a start": ("pretrain", [*PRETRAIN, "--mt5_weights", "w"], {"a.tsv": PAIRS}, "mt5_weights and mt5_vocab"),
    "shards without an index": (
        *("pretrain", ["--train_file", "s", "--model_dir", "model"], {**MODEL, "s/manifest.json": b"{}"}),
        "cannot read shards in s|is damaged",
    ),
    # corpora
    "too many processes": ("pretrain_data", ["--workers", "100000"], {}, "workers must be from 1 to 1024, got 100000"),
    "too many processes to serve": (SERVE, ["--workers", "100000"], {}, "workers must be from 1 to 1024, got 100000"),
    "documents in GBK": (
        *("pretrain_data", ["--input_file", "a.txt", "--output_file", "o.jsonl", "--workers", "1"]),
        *({"a.txt": "正文第一篇。".encode("gbk") * 99}, re.escape(f"a.txt:1: {IN_GBK}")),
    ),
    "pairs onto the documents": (
        *("pretrain_data", ["--input_file", "a.jsonl", "--output_file", "a.jsonl"], {"a.jsonl": TEXTS}),
        "output_file must not be the input_file or in it",
    ),
    "pairs into the documents": (
        *("pretrain_data", ["--input_file", "folder", "--output_file", "folder/o.jsonl"], {"folder/a.txt": TEXTS}),
        "output_file must not be the input_file or in it",
    ),
    "documents too short": (
        *("pretrain_data", ["--input_file", "a.txt", "--output_file", "o.jsonl", "--workers", "1"], {"a.txt": TEXTS}),
        "no pair in a.txt: 2 documents read",
    ),
    "a pattern that is none": (
        *("pretrain_data", ["--boilerplate_pattern", "("], {}),
        "boilerplate_pattern must be a regular expression",
    ),
    "a vocabulary onto another": (
        *("t5_pegasus.vocabulary", ["--existing_vocab", "v.txt", "--output_file", "v.txt"], {"v.txt": VOCABULARY}),
        "output_file must not be the existing_vocab",
    ),
    "a vocabulary onto one to compare": (
        "t5_pegasus.vocabulary",
        ["--input_file", "a.txt", "--compare", "w.txt", "v.txt", "--output_file", "v.txt"],
        {"a.txt": TEXTS, "v.txt": VOCABULARY, "w.txt": VOCABULARY},
        "output_file must not be the compare",
    ),
    "a vocabulary too small": ("t5_pegasus.vocabulary", ["--size", "3"], {}, "size must be at least"),
    # folders
    "an export onto something": (
        *("t5_pegasus.export", ["--model_dir", "model", "--output_dir", "model"], WEIGHTS),
        "output_dir must be empty or not exist, got model",
    ),
    "a conversion onto something": (
        "t5_pegasus.conversion",
        ["--mt5_weights", "w", "--mt5_vocab", "v", "--model_dir", "model", "--output_dir", "model"],
        MODEL,
        "output_dir must be empty or not exist, got model",
    ),
}


# What no request could be sent to, to any of the scripts that ask a service.
ADDRESSES = ["x", "127.0.0.1:8080", "ftp://x", "http://", "http://[::1", "http://x:y", "http://x:99999", "http://x:0"]
ADDRESSES += [
    "http://文",
    "http://x/文",
    "http://a b",
    "http://x\n",
    "http://x\u2028",
    f"http://{'x' * 300}",
    "http://.x",
]


def place(folder: Path, files: dict[str, bytes]) -> None:
    """Write files by their paths in a folder."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


@pytest.mark.parametrize("name", CASES)
def test_what_cannot_work_is_told_in_one_line_and_leaves_nothing(tmp_path, monkeypatch, name):
    script, flags, files, says = CASES[name]
    place(tmp_path, files)
    monkeypatch.chdir(tmp_path)
    before = files_in(tmp_path)
    code, line = outcome(main_of(script), flags)
    assert code == 2
    assert re.search(says, line), line
    assert files_in(tmp_path) == before
    for path, content in files.items():
        assert (tmp_path / path).read_bytes() == content


def test_every_script_is_attacked():
    assert set(SCRIPTS) == scripts_that_exist()


@pytest.mark.parametrize("address", ADDRESSES, ids=ascii)
def test_an_address_that_is_none_is_told(monkeypatch, address):
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    told = f"url must look like http://127.0.0.1:8080, got {address}"
    spec = parse_spec(f"openai:m?base_url={quote(address)}")
    for ask in (lambda: make_system(spec), lambda: over_http(address, None, 5)):
        with pytest.raises(OptionError, match=f"^{re.escape(told)}$"):
            ask()


@pytest.fixture(autouse=True)
def without_aws(monkeypatch, tmp_path_factory):
    """Have no credentials of AWS, nor a machine that could give them."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path_factory.getbasetemp()))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")


@pytest.mark.parametrize("name", SCRIPTS)
@some_or_many(8, 40)
def test_flags_without_sense(name, examples):
    """Any flags with any values, before a flag that names an input that is missing: never anything but one line."""
    main = main_of(name)
    known = flags_of(main)

    @settings(max_examples=examples)
    @given(st.lists(st.tuples(st.sampled_from(sorted(known) or ["--x"]), st.sampled_from(ODD_FLAGS)), max_size=3))
    def attack(given_flags):
        argv = [part for flag, value in given_flags for part in ([flag, value] if known.get(flag) else [flag])]
        code, line = outcome(main, [*argv, *SCRIPTS[name]])
        assert (code, bool(line)) == (2, True)

    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        attack()
        assert files_in(Path(folder)) == set()


@pytest.mark.slow
@pytest.mark.parametrize("name", SCRIPTS)
def test_every_flag_with_every_value_without_sense(tmp_path, monkeypatch, name):
    main = main_of(name)
    monkeypatch.chdir(tmp_path)
    flags = [flag for flag, takes_value in flags_of(main).items() if takes_value]
    for flag, value in itertools.product(flags, ODD_FLAGS):
        code, line = outcome(main, [flag, value, *SCRIPTS[name]])
        assert (code, bool(line)) == (2, True), (flag, value)
    assert files_in(tmp_path) == set()


@pytest.mark.slow
@pytest.mark.parametrize("stream", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("name", SCRIPTS)
def test_closed_streams_hide_no_error(tmp_path, name, stream):
    """As a process, since streams are closed before Python starts: an error is one line, if it can be seen at all."""
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from t5_pegasus import cli; import {name} as script\n"
    code += f"cli.run(lambda _: script.main({SCRIPTS[name]!r}))"
    command = ["sh", "-c", f'exec "$0" -c "$1" {stream}', sys.executable, code]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (ran.returncode, ran.stdout) == (2, "")
    errors = [line for line in ran.stderr.splitlines() if not line.startswith("no weights in ")]
    assert len(errors) == (0 if "2>" in stream else 1), ran.stderr
    assert files_in(tmp_path) == set()
