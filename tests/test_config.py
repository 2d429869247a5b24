"""Options check themselves: what is accepted, and what is refused in which words."""

import dataclasses
import json
import math

import pytest

from t5_pegasus import cli
from t5_pegasus.config import GenerationConfig, ModelConfig
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import BASE_MODEL_DIR, ROOT
from t5_pegasus.text.tokenizer import read_vocabulary
from t5_pegasus.training.options import TrainingConfig
from tests.paths import UNTRAINED_MODEL_DIR

TINY = json.loads((UNTRAINED_MODEL_DIR / "config.json").read_text(encoding="utf-8"))
NAN, INF = math.nan, math.inf


def write_config(folder, values):
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "config.json").write_text(text, encoding="utf-8")
    return folder


# config.json


def test_the_published_shapes():
    base = ModelConfig.load(BASE_MODEL_DIR)
    assert (base.vocab_size, base.hidden_size, base.num_hidden_layers) == (50000, 768, 12)
    assert (base.num_attention_heads, base.attention_head_size, base.intermediate_size) == (12, 64, 2048)
    small = ModelConfig.load(ROOT / "chinese_t5_pegasus_small")
    assert (small.vocab_size, small.hidden_size, small.num_hidden_layers) == (50000, 512, 8)
    assert (small.num_attention_heads, small.attention_head_size, small.intermediate_size) == (6, 64, 1024)
    for config in (base, small, ModelConfig.load(str(UNTRAINED_MODEL_DIR))):
        assert config.hidden_act == ("gelu", "linear")
        assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.1
        assert (config.relative_attention_num_buckets, config.relative_attention_max_distance) == (32, 128)
        assert config.cross_position_bias
    assert ModelConfig.load(UNTRAINED_MODEL_DIR).vocab_size == len(read_vocabulary(UNTRAINED_MODEL_DIR / "vocab.txt"))


def test_what_is_written_is_read_again(tmp_path):
    config = ModelConfig(11, 22, 3, 4, 55, 6, ("relu", "tanh"), 0.25, 0, 8, 99, False)
    assert ModelConfig.load(write_config(tmp_path, config.to_dict())) == config


def test_keys_of_other_tools_are_ignored_and_overrides_replace(tmp_path):
    write_config(tmp_path, {**TINY, "initializer_range": 0.02, "notes": [1]})
    config = ModelConfig.load(tmp_path, hidden_dropout_prob=0, hidden_size=8)
    assert (config.hidden_dropout_prob, config.hidden_size, config.vocab_size) == (0, 8, 7000)
    with pytest.raises(OptionError, match=r"^config overrides must be among vocab_size, .*, got hidden_dims$"):
        ModelConfig.load(tmp_path, hidden_dims=8)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ("{", DataError, "config.json is not valid JSON: "),
        ("[1]", DataError, "config.json must hold a JSON object, got list"),
        ({"vocab_size": 10}, DataError, "config.json lacks 'hidden_size'"),
        ({**TINY, "hidden_size": "256"}, OptionError, "hidden_size in .* must be int, got '256'"),
        ({**TINY, "hidden_size": 256.0}, OptionError, "hidden_size in .* must be int, got 256.0"),
        ({**TINY, "num_hidden_layers": True}, OptionError, "num_hidden_layers in .* must be int, got True"),
        ({**TINY, "hidden_dropout_prob": True}, OptionError, "hidden_dropout_prob in .* must be a number, got True"),
        ({**TINY, "hidden_dropout_prob": None}, OptionError, "hidden_dropout_prob in .* must be a number, got None"),
        ({**TINY, "cross_position_bias": 1}, OptionError, "cross_position_bias in .* must be bool, got 1"),
        ({**TINY, "hidden_act": 5}, OptionError, "hidden_act in .* must be a list of names, got 5"),
        ({**TINY, "hidden_act": "gelu"}, OptionError, "hidden_act in .* must be a list of names, got 'gelu'"),
        ({**TINY, "hidden_act": ["gelu"]}, OptionError, r"hidden_act must be two activations, got \['gelu'\]"),
        ({**TINY, "hidden_act": [1]}, OptionError, r"hidden_act in .* must be a list of names, got \[1\]"),
        ({**TINY, "hidden_size": 0}, OptionError, "hidden_size must be at least 1, got 0"),
        ({**TINY, "attention_head_size": 0}, OptionError, "attention_head_size must be at least 1, got 0"),
        ({**TINY, "hidden_dropout_prob": 1}, OptionError, "hidden_dropout_prob must be at least 0 and below 1, got 1"),
        ({**TINY, "attention_probs_dropout_prob": NAN}, OptionError, "attention_probs_dropout_prob must be .* got nan"),
        ({**TINY, "relative_attention_num_buckets": 3}, OptionError, "buckets must be at least 4, got 3"),
        ({**TINY, "relative_attention_max_distance": 16}, OptionError, r"num_buckets \(16\), got 16"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused(tmp_path, values, error, message):
    with pytest.raises(error, match=message) as caught:
        ModelConfig.load(write_config(tmp_path, values))
    assert "\n" not in str(caught.value)


def test_a_directory_without_config_is_refused(tmp_path):
    message = r"cannot read .*config.json: No such file or directory; a model directory holds config.json"
    with pytest.raises(DataError, match=message):
        ModelConfig.load(tmp_path)


# Generation options by keyword


def test_generation_options_have_several_names():
    assert GenerationConfig.make() == GenerationConfig()
    assert GenerationConfig.make(topk=3, maxlen=50, minlen=2) == GenerationConfig(3, 50, 2)
    assert GenerationConfig.make(num_beams=3, length_penalty=1) == GenerationConfig(3, length_penalty=1.0)
    assert GenerationConfig.make(suppress_tokens=[3, 4]).suppress_tokens == (3, 4)
    assert GenerationConfig.make(do_sample=True, num_return_sequences=4, seed=None).num_rows == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beams": 3}, "options are num_beams, topk, max_new_tokens, maxlen, .*, got beams"),
        ({"num_beams": 3, "topk": 3}, "num_beams is given twice, also as topk, got 3"),
        ({"maxlen": 3, "max_new_tokens": 4}, "max_new_tokens is given twice, also as max_new_tokens, got 4"),
        ({"topk": True}, "topk must be a whole number, got True"),
        ({"num_beams": "3"}, "num_beams must be a whole number, got '3'"),
        ({"maxlen": 3.0}, "maxlen must be a whole number, got 3.0"),
        ({"minlen": None}, "minlen must be a whole number, got None"),
        ({"length_penalty": "1"}, "length_penalty must be a number, got '1'"),
        ({"length_penalty": False}, "length_penalty must be a number, got False"),
        ({"topk": 0}, "num_beams must be at least 1, got 0"),
        ({"topk": 2, "num_return_sequences": 3}, r"num_return_sequences must be at most num_beams \(2\), got 3"),
        ({"maxlen": 4, "minlen": 5}, r"min_new_tokens must be at most max_new_tokens \(4\), got 5"),
        ({"length_penalty": NAN}, "length_penalty must be a finite number, got nan"),
        ({"early_stopping": 1}, "early_stopping must be True or False, got 1"),
        ({"title_prefix": 1}, "title_prefix must be a text, got 1"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"suppress_tokens": 4}, "suppress_tokens must be a list, got 4"),
        ({"suppress_tokens": "4"}, "suppress_tokens must be a list, got '4'"),
        ({"suppress_tokens": [4, "5"]}, "suppress_tokens must be a whole number, got '5'"),
        ({"suppress_tokens": [-1]}, r"suppress_tokens must be ids, got \(-1,\)"),
        ({"do_sample": True, "num_beams": 2}, "num_beams must be 1 with do_sample, got 2"),
        ({"do_sample": True, "num_return_sequences": 129}, "num_return_sequences must be at most 128, got 129"),
        ({"temperature": 0.5}, "temperature is only for do_sample, got 0.5"),
        ({"top_k": 5}, "top_k is only for do_sample, got 5"),
        ({"top_p": 0.5}, "top_p is only for do_sample, got 0.5"),
        ({"seed": 0}, "seed is only for do_sample, got 0"),
        ({"early_stopping": True}, "early_stopping is only for num_beams above 1, got True"),
        ({"num_beam_groups": 2}, "num_beam_groups is only for num_beams above 1, got 2"),
        ({"num_beams": 2, "diversity_penalty": 1}, "diversity_penalty is only for num_beam_groups above 1, got 1.0"),
        (
            {"num_beams": 3, "num_beam_groups": 2, "diversity_penalty": 1},
            r"num_beams must be a multiple of num_beam_groups \(2\), got 3",
        ),
        ({"num_beams": 2, "num_beam_groups": 2}, "diversity_penalty must be above 0 with num_beam_groups, got 0"),
    ],
)
def test_generation_options_that_cannot_be_used_are_refused(options, message):
    with pytest.raises(OptionError, match=f"^{message}$"):
        GenerationConfig.make(**options)


# Ranges


@pytest.mark.parametrize(
    ("config", "name", "wrong", "right"),
    [
        (DataConfig, "max_source_length", (2, 0, -1), (3,)),
        (DataConfig, "max_target_length", (2, 0, -1), (3,)),
        (GenerationConfig, "num_beams", (0, -1), (1,)),
        (GenerationConfig, "max_new_tokens", (0, -1), (1,)),
        (GenerationConfig, "min_new_tokens", (-1, 33), (0, 32)),
        (GenerationConfig, "length_penalty", (NAN, INF, -INF, 11.0, -300.0), (-2.0, 0, 1.5)),
        (GenerationConfig, "no_repeat_ngram_size", (-1,), (0,)),
        (GenerationConfig, "num_return_sequences", (0, 2), (1,)),
        (GenerationConfig, "batch_tokens", (0,), (1,)),
        (GenerationConfig, "repetition_penalty", (0, -1, NAN, INF), (0.5, 2)),
        (GenerationConfig, "diversity_penalty", (-1, NAN, INF), (0,)),
        (GenerationConfig, "temperature", (0, -1, NAN, INF), (1,)),
        (GenerationConfig, "top_k", (-1,), (50,)),
        (GenerationConfig, "top_p", (0, 1.1, NAN), (1,)),
        (GenerationConfig, "seed", (-1,), (None,)),
        (GenerationConfig, "num_beam_groups", (0,), (1,)),
        (DataConfig, "long_text", ("", "windows"), ("window", "head_tail")),
        (TrainingConfig, "num_train_epochs", (0,), (1,)),
        (TrainingConfig, "per_device_train_batch_size", (0,), (1,)),
        (TrainingConfig, "learning_rate", (0, -1e-4, NAN, INF), (1e-9,)),
        (TrainingConfig, "weight_decay", (-0.1, NAN, INF), (0,)),
        (TrainingConfig, "warmup_ratio", (-0.1, 1.1, NAN, INF), (0, 1)),
        (TrainingConfig, "max_grad_norm", (-1, NAN, INF), (0,)),
        (TrainingConfig, "label_smoothing_factor", (-0.1, 1, NAN), (0, 0.9)),
        (TrainingConfig, "mixed_precision", ("fp16", "", "FLOAT16"), ("float16", "bfloat16")),
        (TrainingConfig, "max_eval_samples", (0,), (None, 1)),
        (TrainingConfig, "eval_num_beams", (0,), (1,)),
        (TrainingConfig, "early_stopping_patience", (-1,), (0,)),
        (TrainingConfig, "dropout_rate", (-0.1, 1.0, NAN), (None, 0.0)),
        (TrainingConfig, "seed", (-1,), (0,)),
    ],
)
def test_a_value_out_of_range_is_refused_by_name(config, name, wrong, right):
    for value in right:
        assert getattr(config(**{name: value}), name) == value
    for value in wrong:
        with pytest.raises(OptionError, match=rf"^{name} must be .*, got {value}$"):
            config(**{name: value})


@pytest.mark.parametrize("config", [DataConfig(), GenerationConfig(), TrainingConfig(), ModelConfig(1, 1, 1, 1, 1)])
def test_what_was_checked_cannot_be_changed(config):
    name = dataclasses.fields(config)[0].name
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, name, None)


def test_options_go_over_the_models_own_and_those_over_the_fields(tmp_path):
    assert GenerationConfig.of_model(tmp_path) == GenerationConfig()
    values = {"num_beams": 4, "early_stopping": True, "length_penalty": 1, "no_repeat_ngram_size": 3, "pad_token_id": 0}
    (tmp_path / "generation_config.json").write_text(json.dumps(values), encoding="utf-8")
    own = GenerationConfig(num_beams=4, early_stopping=True, length_penalty=1.0, no_repeat_ngram_size=3)
    assert GenerationConfig.of_model(tmp_path) == own
    assert GenerationConfig.of_model(tmp_path, topk=2, maxlen=8) == dataclasses.replace(
        own, num_beams=2, max_new_tokens=8
    )
    greedy = GenerationConfig(length_penalty=1.0, no_repeat_ngram_size=3)
    assert GenerationConfig.of_model(tmp_path, num_beams=1) == greedy
    assert GenerationConfig.of_model(tmp_path, do_sample=True) == dataclasses.replace(greedy, do_sample=True)


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("{", DataError, "generation_config.json is not valid JSON: "),
        ("[]", DataError, "generation_config.json must hold a JSON object, got list"),
        ('{"num_beams": "4"}', OptionError, "num_beams must be a whole number, got '4'"),
        ('{"num_beams": 0}', OptionError, "num_beams must be at least 1, got 0"),
    ],
)
def test_defaults_that_cannot_be_used_are_refused(tmp_path, text, error, message):
    (tmp_path / "generation_config.json").write_text(text, encoding="utf-8")
    with pytest.raises(error, match=message):
        GenerationConfig.of_model(tmp_path)


@pytest.mark.parametrize(
    ("defaults", "given", "expected"),
    [
        ({"do_sample": True, "temperature": 0.7}, {"num_beams": 4}, {"num_beams": 4}),
        ({"do_sample": True, "temperature": 0.7}, {"do_sample": False}, {}),
        (
            {"do_sample": True, "temperature": 0.7},
            {"top_p": 0.9},
            {"do_sample": True, "temperature": 0.7, "top_p": 0.9},
        ),
        ({"num_beams": 4, "num_return_sequences": 4}, {"num_beams": 2}, {"num_beams": 2}),
        ({"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}, {"num_beams": 3}, {"num_beams": 3}),
        ({"min_new_tokens": 20}, {"max_new_tokens": 8}, {"max_new_tokens": 8}),
    ],
)
def test_defaults_that_do_not_go_with_what_is_given_are_left_out(defaults, given, expected):
    assert GenerationConfig.over(defaults, **given) == GenerationConfig(**expected)


def test_no_groups_are_told_over_any_defaults():
    for defaults in ({}, {"num_beams": 4, "num_beam_groups": 2, "diversity_penalty": 0.5}):
        with pytest.raises(OptionError, match="num_beam_groups must be at least 1, got 0"):
            GenerationConfig.over(defaults, num_beam_groups=0)


def test_a_flag_overrides_a_default_in_either_direction():
    parser = cli.make_parser("A script.")
    cli.add_flags(parser, GenerationConfig, of_model=True)
    flags = parser.parse_args(["--no-do_sample", "--maxlen", "8"])
    assert cli.given(flags, GenerationConfig) == {"do_sample": False, "max_new_tokens": 8}
