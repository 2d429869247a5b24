"""What names a system, and what is said of a name that cannot be."""

import pytest

from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.systems.spec import Spec, converted, parse_spec
from t5_pegasus.systems.table import SYSTEMS, make_system, parse_specs


def test_a_spec_has_parts():
    assert parse_spec("lead") == Spec("lead", "", {}, "lead")
    text = "title:models/base?num_beams=4&do_sample=false"
    assert parse_spec(text) == Spec("title", "models/base", {"num_beams": "4", "do_sample": "false"}, text)
    assert parse_spec("service:http://127.0.0.1:8080?name=我们%26他们").target == "http://127.0.0.1:8080"
    assert parse_spec("service:http://127.0.0.1:8080?name=我们%26他们").name == "我们&他们"


def test_a_spec_knows_the_language_of_the_texts():
    assert parse_spec("lead").language == "zh"
    assert [spec.language for spec in parse_specs(["lead", "oracle"], "en")] == ["en", "en"]
    with pytest.raises(OptionError, match="compress has rules for Chinese only: leave it out of --language en"):
        make_system(parse_spec("compress", "en"))


def test_values_are_of_the_fields_types():
    options = {"topk": "4", "length_penalty": "0.5", "early_stopping": "yes", "suppress_tokens": "1,2", "seed": "7"}
    assert converted(GenerationConfig, options) == {
        **{"num_beams": 4, "length_penalty": 0.5, "early_stopping": True, "suppress_tokens": (1, 2), "seed": 7}
    }
    assert converted(GenerationConfig, {"engine": "onnx"}) == {}
    assert converted(DataConfig, {"source_suffix": r"\nTL;DR"}) == {"source_suffix": "\nTL;DR"}


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "give at least one --system"),
        (["lead", "lead"], "two systems are called lead: give one of them another name"),
        (["lead?n=1&name=x", "oracle?name=x"], "two systems are called x"),
        (["lead?n"], "must be name=value, got n in lead[?]n"),
        (["lead?n=1&n=2"], "n is given twice in"),
        (["lead?name="], "must not be empty"),
    ],
)
def test_specs_that_cannot_be(texts, message):
    with pytest.raises(OptionError, match=message):
        parse_specs(texts)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lede", "must begin with one of title, lead, .*, got lede"),
        ("lead?n=two", "n must be a whole number, got two"),
        ("title:tiny?do_sample=maybe", "do_sample must be true or false, got maybe"),
        ("title:tiny?length_penalty=x", "length_penalty must be a number, got x"),
        ("title:tiny?num_beam=3", "options of this system are name, model_dir, .*, got num_beam"),
        ("title:tiny?model_dir=base", "model_dir is the target of a system: title:base"),
        ("title:nowhere", "model_dir must be a directory with config.json and vocab.txt, got nowhere"),
        ("predictions", "predictions need a file"),
        ("openai", "openai needs a model"),
        ("service:ftp://x", "url must look like http"),
    ],
)
def test_systems_that_cannot_be(text, message):
    with pytest.raises(OptionError, match=message):
        make_system(parse_spec(text))


def test_every_kind_is_a_row():
    assert list(SYSTEMS) == [
        *("title", "lead", "textrank", "lexrank", "oracle", "compress", "predictions", "service", "openai")
    ]
