"""A prompt on its way: given to finetune.py, kept beside the weights, then known to scripts, export and service."""

import contextlib
import json
import shutil
import time
import types
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import finetune
import serve
import test as write_titles
from t5_pegasus import AutoTitle, PegasusTokenizer, export, training
from t5_pegasus.config import GenerationConfig
from t5_pegasus.data.examples import Example
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.serving.app import App
from t5_pegasus.text.prompts import Prompt, read_prompt, write_prompt
from t5_pegasus.training import Trainer, encode_pairs
from t5_pegasus.training.options import TrainingConfig

PROMPT = Prompt("丁七\n", "万丈")
FLAGS = ["--source_prefix", r"丁七\n", "--source_suffix", "万丈"]
TEXTS = ["".join(chr(0x4E00 + 110 + (number * 37 + place * 11) % 180) for place in range(12)) for number in range(6)]
SHORT = ["--max_source_length", "30", "--max_new_tokens", "6"]


def framed(text):
    return PROMPT.source_prefix + text + PROMPT.source_suffix


@pytest.fixture(scope="module")
def model_dir(random_model_dir, tmp_path_factory) -> Path:
    """Return a model directory, and beside it some pairs whose columns are those of dialogues."""
    folder = shutil.copytree(random_model_dir, tmp_path_factory.mktemp("prompts") / "model")
    rows = [{"id": text[0], "dialogue": text, "summary": text[:3]} for text in TEXTS]
    (folder.parent / "pairs.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def run_dir(model_dir) -> Path:
    """Return what finetune.py leaves of a run with the prompt, with the weights it started from."""
    folder = model_dir.parent / "run"
    folder.mkdir()
    shutil.copyfile(model_dir / "model.safetensors", folder / "best_model.weights")
    write_prompt(folder, PROMPT)
    return folder


@pytest.fixture(scope="module")
def exported(model_dir, run_dir, random_t5) -> Path:
    """Return the export of the run."""
    folder = model_dir.parent / "exported"
    flags = ["--weights", str(run_dir / "best_model.weights"), "--output_dir", str(folder)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("t5_pegasus.networks.t5.build_model", lambda *_: random_t5)
        assert export.main(["--model_dir", str(model_dir), *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def title(exported) -> AutoTitle:
    return AutoTitle.load(exported)


def scores_of(title, texts, **options):
    """Return the scores of titles, which depend on the source where the titles of a random model do not."""
    found = title.generate_n_best(texts, max_source_length=30, max_new_tokens=6, **options)
    return pytest.approx([best[0].score for best in found], rel=0, abs=1e-4)


NO_PROMPT = {"source_prefix": "", "source_suffix": ""}


def test_a_model_reads_its_prompt_around_every_text(title, exported):
    assert read_prompt(exported) == title.prompt == PROMPT
    wanted = scores_of(title, list(map(framed, TEXTS)), **NO_PROMPT)
    assert scores_of(title, TEXTS).expected == wanted
    for other in (NO_PROMPT, {"source_prefix": ""}, {"source_suffix": ""}):
        assert scores_of(title, TEXTS, **other).expected != wanted
    *_, last = title.stream(TEXTS[0], max_source_length=30, max_new_tokens=6)
    assert [last.score] == scores_of(title, TEXTS[:1])
    *_, last = title.stream(TEXTS[0], max_source_length=30, max_new_tokens=6, **NO_PROMPT)
    assert [last.score] == scores_of(title, TEXTS[:1], **NO_PROMPT)
    assert title.generate(["", " "]) == ["", ""]


def test_a_model_in_memory_has_no_prompt_of_its_own(title):
    bare = AutoTitle.__new__(AutoTitle)
    bare.__dict__ |= title.__dict__ | {"prompt": Prompt()}
    assert scores_of(bare, TEXTS[:2], **vars(PROMPT)).expected == scores_of(title, TEXTS[:2])
    assert scores_of(bare, TEXTS[:2]).expected == scores_of(title, TEXTS[:2], **NO_PROMPT)


def test_training_reads_the_prompt_around_every_content(model_dir):
    tokenizer = PegasusTokenizer(model_dir / "vocab.txt")
    data = DataConfig(max_source_length=30, max_target_length=6, **vars(PROMPT))
    pairs = encode_pairs(tokenizer, [Example(text, text[:3]) for text in TEXTS], data)
    for text, (source, target) in zip(TEXTS, map(pairs.__getitem__, range(6)), strict=True):
        assert source.tolist() == tokenizer.encode(framed(text))
        assert target.tolist() == tokenizer.encode(text[:3])


def test_only_the_text_is_cut(title):
    (answer,) = title.iterate([TEXTS[0]], GenerationConfig(max_new_tokens=2), DataConfig(max_source_length=12))
    assert (answer.source_tokens, answer.truncated) == (12, True)
    source = title.encode(TEXTS[0], DataConfig(max_source_length=12))
    assert title.tokenizer.decode(source.ids) == framed(TEXTS[0][:6]).replace("\n", "")
    with pytest.raises(OptionError, match="max_source_length must be at least 7, for the 6 tokens of the prompt"):
        title.encode(TEXTS[0], DataConfig(max_source_length=6))


def test_flags_override_what_is_kept(title, exported, capsys, monkeypatch):
    monkeypatch.setattr("t5_pegasus.title.load_decoder", lambda *_: title.decoder)
    for flags, text in {(): framed(TEXTS[1]), ("--source_prefix", r"\n"): f"{TEXTS[1]}万丈"}.items():
        given = [TEXTS[1], "--model_dir", str(exported), "--output_format", "jsonl", *SHORT, *flags]
        assert write_titles.main(given) == 0
        score = json.loads(capsys.readouterr().out)["score"]
        assert [score] == scores_of(title, [text], **NO_PROMPT)


def test_the_prompt_beside_the_weights_goes_before_that_of_the_model_directory(tmp_path, model_dir, monkeypatch):
    monkeypatch.setattr("t5_pegasus.title.load_decoder", lambda *_: None)
    model = shutil.copytree(model_dir, tmp_path / "model")
    run = tmp_path / "run"
    run.mkdir()
    (run / "best_model.weights").write_bytes(b"\2\0\0\0\0\0\0\0{}")  # safetensors without a tensor
    assert AutoTitle.load(model, output_dir=run).prompt == Prompt()
    write_prompt(model, Prompt("甲"))
    assert AutoTitle.load(model, output_dir=run).prompt == Prompt("甲")
    assert AutoTitle.load(model).prompt == Prompt("甲")
    write_prompt(run, Prompt())
    assert AutoTitle.load(model, output_dir=run).prompt == Prompt()
    assert AutoTitle.load(model, run / "best_model.weights").prompt == Prompt()


def test_the_service_of_an_export_knows_its_prompt(title, exported, monkeypatch):
    services = []
    monkeypatch.setattr("t5_pegasus.serving.supervisor.serve", lambda service: services.append(service) or 0)
    for flags in ([], ["--source_suffix", ""]):
        assert serve.main(["--model_dir", str(exported), *SHORT, *flags]) == 0
    for service, suffix in zip(services, (None, ""), strict=True):
        with TestClient(App(service).asgi) as client:
            while client.get("/ping").status_code != 200:
                time.sleep(0.02)
            answer = client.post("/v1/titles", json={"text": TEXTS[0]}).json()["results"][0]
            told = client.get("/v1/model").json()
        assert Prompt(told["source_prefix"], told["source_suffix"]) == PROMPT.over(None, suffix)
        assert [answer["titles"][0]["score"]] == scores_of(title, TEXTS[:1], source_suffix=suffix)
        assert answer["source_tokens"] == 12 + 2 + (4 if suffix is None else 2)


def test_an_export_can_be_given_another_prompt(model_dir, run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("t5_pegasus.networks.t5.build_model", lambda *_: None)
    prompts = []
    monkeypatch.setattr("t5_pegasus.engines.onnx_export.export_model", lambda *given: prompts.append(given[-1]))
    weights = ["--model_dir", str(model_dir), "--weights", str(run_dir / "best_model.weights")]
    for flags in ([], ["--source_prefix", r"a\tb"], ["--source_prefix", "", "--source_suffix", ""]):
        assert export.main([*weights, "--output_dir", str(tmp_path / "exported"), *flags]) == 0
    assert prompts == [PROMPT, Prompt("a\tb", "万丈"), Prompt()]


def test_fine_tuning_goes_on_with_the_prompt_of_its_weights(model_dir, run_dir, tmp_path, monkeypatch):
    """And a model whose prompt is taken away by a flag says so beside its weights."""
    pairs, options = str(model_dir.parent / "pairs.jsonl"), []
    t5 = types.SimpleNamespace(lora=None)
    monkeypatch.setattr(training, "build_for_training", lambda *_: t5, raising=False)
    monkeypatch.setattr(training, "distributed", contextlib.nullcontext, raising=False)

    class Recorder:
        def __init__(self, t5, tokenizer, config, data, output_dir, *base):
            options.append((data.source_prefix, data.source_suffix))

        def fit(self, train, valid, resume):
            assert [example.title for example in train] == [text[:3] for text in TEXTS]

    monkeypatch.setattr(training, "Trainer", Recorder, raising=False)
    flags = ["--model_dir", str(model_dir), "--train_file", pairs, "--valid_file", pairs, "--output_dir", str(tmp_path)]
    start = ["--weights", str(run_dir / "best_model.weights")]
    for more in ([], FLAGS, start, [*start, "--source_prefix", ""], [*start, "--source_suffix", r"\n"]):
        assert finetune.main([*flags, *more]) == 0
    assert options == [(None, None), ("丁七\n", "万丈"), ("丁七\n", "万丈"), ("", "万丈"), ("丁七\n", "\n")]


def test_a_run_keeps_its_prompt_and_that_of_the_run_before(tmp_path):
    def trainer(**options):
        made = Trainer.__new__(Trainer)
        made.data, made.output_dir, made.config = DataConfig(**options), tmp_path, TrainingConfig()
        made.t5 = types.SimpleNamespace(lora=None)
        return made

    trainer(**vars(PROMPT))._save_prompt()
    assert read_prompt(tmp_path) == PROMPT
    (tmp_path / "best_model.weights").touch()
    trainer()._keep_previous()
    assert read_prompt(tmp_path) is None
    assert json.loads((tmp_path / "prompt.json.previous").read_text(encoding="utf-8")) == vars(PROMPT)
    trainer(source_prefix="")._save_prompt()
    assert read_prompt(tmp_path) == Prompt()
    trainer()._save_prompt()
    assert read_prompt(tmp_path) is None


@pytest.mark.slow
def test_a_real_run_leaves_its_prompt_beside_its_weights(model_dir, tmp_path):
    pairs = str(model_dir.parent / "pairs.jsonl")
    flags = ["--train_file", pairs, "--valid_file", pairs, "--epochs", "1", "--batch_size", "6"]
    flags += ["--model_dir", str(model_dir), "--output_dir", str(tmp_path), "--max_source_length", "30", *FLAGS]
    assert finetune.main([*flags, "--max_target_length", "6", "--max_eval_samples", "2"]) == 0
    title = AutoTitle.load(model_dir, output_dir=tmp_path, engine="keras")
    assert title.prompt == PROMPT
    assert scores_of(title, TEXTS).expected == scores_of(title, list(map(framed, TEXTS)), **NO_PROMPT)
