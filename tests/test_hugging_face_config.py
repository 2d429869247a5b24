"""config.json of Hugging Face's models, as the folders of the hub have it, under our names."""

import json

import pytest

from t5_pegasus.config import GenerationConfig, ModelConfig, read_generation_defaults

# What decides the network in the files of t5-small, flan-t5-base and mT5_multilingual_XLSum.
T5_SMALL = {
    "d_ff": 2048,
    "d_kv": 64,
    "d_model": 512,
    "dropout_rate": 0.1,
    "layer_norm_epsilon": 1e-06,
    "model_type": "t5",
    "num_heads": 8,
    "num_layers": 6,
    "pad_token_id": 0,
    "relative_attention_num_buckets": 32,
    "vocab_size": 32128,
}
FLAN_BASE = {
    **T5_SMALL,
    "d_model": 768,
    "num_heads": 12,
    "num_layers": 12,
    "num_decoder_layers": 12,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
    "relative_attention_max_distance": 128,
}
MT5 = {**FLAN_BASE, "model_type": "mt5", "vocab_size": 250112}


def load(values, folder):
    (folder / "config.json").write_text(json.dumps(values))
    return ModelConfig.load(folder)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (T5_SMALL, {"hidden_act": ("relu",), "tie_word_embeddings": True, "scale_output": True, "decoder_layers": 6}),
        (
            FLAN_BASE,
            {"hidden_act": ("gelu_tanh", "linear"), "tie_word_embeddings": False, "scale_output": False},
        ),
        (MT5, {"hidden_act": ("gelu_tanh", "linear"), "tie_word_embeddings": False, "scale_output": False}),
        # As transformers 5 writes a Flan-T5: it is not scaled though its head is said to be tied.
        (
            {**FLAN_BASE, "tie_word_embeddings": True, "scale_decoder_outputs": False},
            {"tie_word_embeddings": True, "scale_output": False},
        ),
        ({**MT5, "tie_word_embeddings": True}, {"scale_output": False}),
        ({**T5_SMALL, "num_decoder_layers": None}, {"num_hidden_layers": 6, "decoder_layers": 6}),
        ({**T5_SMALL, "num_decoder_layers": 2}, {"num_hidden_layers": 6, "decoder_layers": 2}),
        ({**T5_SMALL, "feed_forward_proj": "gated-silu"}, {"hidden_act": ("swish", "linear")}),
        ({**T5_SMALL, "feed_forward_proj": "gelu"}, {"hidden_act": ("gelu",)}),
        ({**T5_SMALL, "feed_forward_proj": "gated-gelu_python"}, {"hidden_act": ("gelu", "linear")}),
    ],
)
def test_files_of_the_hub(values, expected, tmp_path):
    config = load(values, tmp_path)
    assert {name: getattr(config, name) for name in expected} == expected
    assert config.hidden_size == values["d_model"]
    assert not config.cross_position_bias


def test_overrides_go_before_the_file(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(FLAN_BASE))
    assert ModelConfig.load(tmp_path, num_decoder_layers=3, hidden_dropout_prob=0.5).decoder_layers == 3


def test_what_is_loaded_can_be_written_in_our_own_names(tmp_path):
    config = load(FLAN_BASE, tmp_path)
    assert load(config.to_dict(), tmp_path) == config


# Options of generation

XLSUM = {**MT5, "length_penalty": 0.6, "max_length": 84, "num_beams": 4, "no_repeat_ngram_size": 2, "eos_token_id": 1}


@pytest.mark.parametrize(
    ("model", "generation", "expected"),
    [
        # A folder of before 2023 has its options in config.json; what it leaves out is as in transformers.
        (
            XLSUM,
            None,
            {"length_penalty": 0.6, "max_new_tokens": 83, "num_beams": 4, "no_repeat_ngram_size": 2},
        ),
        (FLAN_BASE, {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0}, {"length_penalty": 1.0}),
        (
            XLSUM,
            {"num_beams": 2, "early_stopping": True},
            {"num_beams": 2, "early_stopping": True, "length_penalty": 1.0},
        ),
        (FLAN_BASE, {"early_stopping": "never", "min_length": 5}, {"length_penalty": 1.0, "min_new_tokens": 4}),
        (FLAN_BASE, {"max_length": 20, "max_new_tokens": 9}, {"length_penalty": 1.0, "max_new_tokens": 9}),
        (FLAN_BASE, {"forced_eos_token_id": [1, 2]}, {"length_penalty": 1.0, "forced_eos_token_id": 1}),
    ],
)
def test_options_of_generation_mean_what_they_mean_to_transformers(model, generation, expected, tmp_path):
    load(model, tmp_path)
    if generation is not None:
        (tmp_path / "generation_config.json").write_text(json.dumps(generation))
    assert read_generation_defaults(tmp_path) == {"refill_beams": True, **expected}


def test_flags_go_before_the_folders_options(tmp_path):
    load(XLSUM, tmp_path)
    config = GenerationConfig.of_model(tmp_path, num_beams=1, max_new_tokens=50)
    assert (config.num_beams, config.max_new_tokens, config.no_repeat_ngram_size) == (1, 50, 2)
    assert not config.refills
    groups = GenerationConfig.of_model(tmp_path, num_beams=4, num_beam_groups=2, diversity_penalty=1.0)
    assert not groups.refill_beams
