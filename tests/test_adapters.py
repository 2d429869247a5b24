"""Adapters as users meet them: loaded beside a model, merged into its weights, by Python and by the commands."""

import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from starlette.testclient import TestClient

import finetune
from t5_pegasus import AutoTitle, adapters, build_model
from t5_pegasus.commands import title as title_command
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.onnx_export import export_model
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.locations import ROOT, weights_hash
from t5_pegasus.networks.adapter_files import Record, read_adapter, write_adapter
from t5_pegasus.networks.architectures import describe
from t5_pegasus.serving.app import App
from t5_pegasus.serving.options import Model, ServingConfig, make_service
from t5_pegasus.systems.protocol import Text
from t5_pegasus.systems.spec import parse_spec
from t5_pegasus.systems.table import make_system
from tests.engines.test_low_rank import make_adapter
from tests.serving.running import wait_for

TEXTS = ["".join(chr(0x4E00 + 7 * n % 90 + k) for k in range(4, 9 + n)) for n in range(5)]


@pytest.fixture(scope="module")
def folder(random_t5, random_model_dir, tmp_path_factory):
    """Return a folder of adapters, `news` and `law`, of the random model."""
    path = tmp_path_factory.mktemp("adapters")
    record = Record("random", weights_hash(random_model_dir / "model.safetensors"))
    for seed, name in enumerate(("news", "law"), 1):
        adapter = make_adapter(describe(random_t5.config), seed, 2, ("q", "v", "wo"), 0.3)
        write_adapter(path / name, adapter, record)
    return path


@pytest.fixture(scope="module")
def merged_dir(folder, random_model_dir, tmp_path_factory):
    path = tmp_path_factory.mktemp("merged") / "model"
    flags = ["--model_dir", random_model_dir, "--adapter", folder / "news", "--output_dir", path]
    assert adapters.main(["merge", *map(str, flags)]) == 0
    return path


@pytest.fixture(scope="module")
def exported(random_t5, random_model_dir, tmp_path_factory):
    """Return the random model, exported: what starts at once."""
    path = tmp_path_factory.mktemp("exported") / "model"
    export_model(random_t5, random_model_dir / "vocab.txt", path, weights=random_model_dir / "model.safetensors")
    return path


def test_each_text_has_the_adapter_that_is_asked_for(folder, exported):
    options = {"num_beams": 2, "max_new_tokens": 6}
    title = AutoTitle.load(exported, adapter=folder / "news")
    title.add_adapter("law", folder / "law")
    assert (title.adapters, title.default_adapter) == (("news", "law"), "news")
    news, law = (title.generate(TEXTS, adapter=name, **options) for name in ("news", "law"))
    assert title.generate(TEXTS, **options) == news
    mixed = title.generate(TEXTS, adapter=["news", "law", None, "law", "news"], **options)
    plain = AutoTitle.load(exported).generate(TEXTS, **options)
    assert mixed == [news[0], law[1], plain[2], law[3], news[4]]
    *_, last = title.stream(TEXTS[0], adapter="law", **options)
    assert last.text == law[0]
    title.remove_adapter("news")
    assert title.generate(TEXTS, **options) == plain
    assert len({*plain, *news, *law}) > 5
    with pytest.raises(OptionError, match="adapter must be one of law, got news"):
        title.generate(TEXTS[0], adapter="news")
    with pytest.raises(OptionError, match=r"adapter must be one name, or as many as texts \(5\), got 1"):
        title.generate(TEXTS, adapter=["law"])


def test_a_system_of_a_comparison_takes_an_adapter(folder, exported):
    options, texts = "num_beams=2&max_new_tokens=6", [Text(text, ("题",)) for text in TEXTS]
    system = make_system(parse_spec(f"title:{exported}?adapter={folder / 'news'}&{options}"))
    expected = AutoTitle.load(exported, adapter=folder / "news").generate(TEXTS, num_beams=2, max_new_tokens=6)
    assert [each.title for each in system.write(texts, 0)] == expected
    assert system.identity() != make_system(parse_spec(f"title:{exported}?{options}")).identity()


def test_another_base_is_refused_unless_asked_for(folder, exported, random_t5, random_model_dir, tmp_path):
    adapter = read_adapter(folder / "law", describe(random_t5.config))
    write_adapter(tmp_path / "other", adapter, Record("other", "0" * 64))
    with pytest.raises(CheckpointError, match="was trained on other weights, of other"):
        AutoTitle.load(exported, adapter=tmp_path / "other")
    assert AutoTitle.load(exported, adapter=tmp_path / "other", ignore_base_hash=True).adapters == ("other",)
    with pytest.raises(OptionError, match="merge needs --output_dir"):
        adapters.main(["merge", "--model_dir", str(random_model_dir), "--adapter", str(folder / "law")])


@pytest.mark.slow
def test_titles_with_an_adapter_are_those_of_its_merged_model(folder, merged_dir, random_model_dir):
    options = {"num_beams": 2, "max_new_tokens": 6}
    expected = AutoTitle.load(merged_dir, engine="reference").generate(TEXTS, **options)
    for engine in ("keras", "onnx"):
        title = AutoTitle.load(random_model_dir, engine=engine, adapter=folder / "news")
        assert title.generate(TEXTS, **options) == expected
    with pytest.raises(CheckpointError, match="was trained on other weights"):
        AutoTitle.load(merged_dir, engine="keras", adapter=folder / "law")
    with pytest.raises(OptionError, match="adapters are for engines keras and onnx"):
        AutoTitle.load(random_model_dir, engine="reference", adapter=folder / "law")


def test_merged_weights_are_sums_and_the_other_files_come_along(folder, merged_dir, random_t5, random_model_dir):
    adapter, merged = read_adapter(folder / "news", describe(random_t5.config)), build_model(merged_dir)
    for name, variable in random_t5.named_variables.items():
        expected = variable.numpy()
        if name in adapter.factors:
            a, b, scale = adapter.factors[name]
            expected = expected + scale * np.einsum("ir,ro->io", a, b)
        np.testing.assert_allclose(merged.named_variables[name].numpy(), expected, atol=1e-6, err_msg=name)
    for name in ("config.json", "vocab.txt"):
        assert (merged_dir / name).read_bytes() == (random_model_dir / name).read_bytes()


def test_an_adapter_is_shown(folder, random_model_dir, capsys):
    assert adapters.main(["show", "--model_dir", str(random_model_dir), "--adapter", str(folder / "law")]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["r"], shown["target_modules"], shown["base_model"]) == (2, ["q", "v", "wo"], "random")
    assert shown["trainable"] == 2 * (6 * 2 * (64 + 64) + 4 * (96 + 64))


@pytest.mark.parametrize("name", ["flan_t5", "uer_pegasus"])
def test_a_folder_of_hugging_face_is_merged_as_such(name, hugging_face, tmp_path):
    """Its tensors keep their names; those that the adapter names are the sums, all others and other files the same."""
    folder, adapter_dir = hugging_face / name, ROOT / "tests" / "golden" / "adapters" / name / "ours"
    flags = ["--model_dir", folder, "--adapter", adapter_dir, "--output_dir", tmp_path / "merged", "--ignore_base_hash"]
    assert adapters.main(["merge", *map(str, flags)]) == 0
    before, after = (safetensors.numpy.load_file(each / "model.safetensors") for each in (folder, tmp_path / "merged"))
    lora = safetensors.numpy.load_file(adapter_dir / "adapter_model.safetensors")
    settings = json.loads((adapter_dir / "adapter_config.json").read_text())
    assert before.keys() == after.keys()
    changed = 0
    for key, value in after.items():
        stem = f"base_model.model.{key.removesuffix('.weight')}"
        expected = before[key].astype(np.float32)
        if f"{stem}.lora_A.weight" in lora:
            alpha = next((v for k, v in settings["alpha_pattern"].items() if stem.endswith(k)), settings["lora_alpha"])
            a, b = lora[f"{stem}.lora_A.weight"], lora[f"{stem}.lora_B.weight"]
            expected, changed = expected + alpha / settings["r"] * b @ a, changed + 1
        expected = lora.get(f"base_model.model.{key}", expected)
        np.testing.assert_allclose(value, expected, atol=1e-6, err_msg=key)
    assert changed == sum(key.endswith("lora_A.weight") for key in lora)
    others = {path.name for path in folder.iterdir()} - {"model.safetensors"}
    assert {path.name for path in (tmp_path / "merged").iterdir()} - {"model.safetensors"} == others


@pytest.mark.slow
@pytest.mark.parametrize("targets", ["q_proj,v_proj", "fc1,fc2"])
def test_an_adapter_of_pegasus_by_its_own_names_goes_through_every_stage(targets, hugging_face, tmp_path, capsys):
    """Trained by the command, it writes the same title beside the weights, merged into them, and served."""
    base, names = tmp_path / "pegasus", targets.split(",")
    shutil.copytree(hugging_face / "uer_pegasus", base)
    words = [
        each for each in (base / "vocab.txt").read_text(encoding="utf-8").split() if "\u4e00" <= each[0] <= "\u9fa5"
    ]
    texts = ["".join(words[row + 5 * n] for n in range(12)) for row in range(5)]
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{text[:3]}\t{text}\n" for text in texts), encoding="utf-8")
    flags = ["--model_dir", base, "--train_file", pairs, "--valid_file", pairs, "--output_dir", tmp_path / "run"]
    sizes = "--epochs 4 --batch_size 2 --max_source_length 24 --max_target_length 6 --max_eval_samples 1 --lora_r 4"
    learning = ["--method", "lora", "--lora_target_modules", targets, "--learning_rate", "0.1"]
    assert finetune.main([*map(str, flags), *sizes.split(), *learning]) == 0
    best = tmp_path / "run" / "best_adapter"
    assert json.loads((best / "adapter_config.json").read_text())["target_modules"] == names
    keys = safetensors.numpy.load_file(best / "adapter_model.safetensors").keys()
    assert {key.split(".")[-3] for key in keys} == set(names)
    assert all(key.startswith("base_model.model.model.") for key in keys)

    def titles(folder, *more):
        capsys.readouterr()
        for text in texts:
            command = ["--model_dir", str(folder), "--min_new_tokens", "4", "--max_new_tokens", "6", *more, text]
            assert title_command.main(command) == 0
        return capsys.readouterr().out.splitlines()

    beside = titles(base, "--adapter", str(best))
    assert beside != titles(base)
    merged = tmp_path / "merged"
    merging = ["--model_dir", base, "--adapter", best, "--output_dir", merged]
    assert adapters.main(["merge", *map(str, merging)]) == 0
    assert titles(merged) == beside
    model = Model(base, None, "auto", None)._replace(adapter=str(best))
    generation = GenerationConfig.of_model(base, min_new_tokens=4, max_new_tokens=6)
    app = App(make_service(ServingConfig(), model, generation, DataConfig()))
    with TestClient(app.asgi) as client:
        wait_for(lambda: client.get("/ping").status_code == 200)
        served = []
        for text in texts:
            answer = client.post("/v1/titles", json={"text": text, "adapter": "best_adapter"})
            served.append(answer.json()["results"][0]["titles"][0]["title"])
    assert served == beside
