"""The size of a model that several test files build."""

# In place of that in the config.json of `paths.UNTRAINED_MODEL_DIR`: what is trained in no time.
SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 1,
    "intermediate_size": 48,
    "num_attention_heads": 2,
    "attention_head_size": 16,
}
