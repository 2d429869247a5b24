"""Make a small random MT5 of Hugging Face and what it answers, mt5_logits.npz.

mt5.safetensors has its weights under T5's own names, mt5_hugging_face.safetensors as Hugging Face writes them.

Run where torch and transformers are installed (made with torch 2.13.0 and transformers 5.23.0):
`python tests/golden/make_mt5.py`. The test that reads the files needs neither.
"""

import re
import shutil
import tempfile
from pathlib import Path

import numpy as np
import safetensors.numpy
import torch
from transformers import MT5Config, MT5ForConditionalGeneration

FOLDER = Path(__file__).resolve().parent

# Buckets and distance differ from T5's 32 and 128, so that 48 positions meet all three kinds of bucket: exact,
# logarithmic and beyond the last.
CONFIG = {
    "vocab_size": 300,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 96,
    "num_layers": 3,
    "num_heads": 4,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 40,
}

WEIGHTS, LOGITS, HUGGING_FACE = "mt5.safetensors", "mt5_logits.npz", "mt5_hugging_face.safetensors"


def main() -> None:
    """Build the model, write its weights under T5's own names, run it and write the logits."""
    torch.manual_seed(0)
    config = MT5Config(**CONFIG)
    # T5-PEGASUS has the exact gelu and an untied head; transformers has neither for MT5 unless told so here.
    config.dense_act_fn = "gelu"
    config.tie_word_embeddings = False
    model = MT5ForConditionalGeneration(config).eval()
    model.set_input_embeddings(model.shared)  # untied above, both stacks have come to have tables of their own
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "layer_norm" in name:
                parameter.uniform_(0.5, 1.5)
            elif "relative_attention_bias" in name:
                parameter.normal_()
            elif name == "lm_head.weight":
                parameter.mul_(config.d_model**-0.5)  # logits of standard deviation 1
        # Rounded to what the file holds.
        model.half().float()
    assert model.encoder.embed_tokens.weight is model.decoder.embed_tokens.weight is model.shared.weight
    assert not torch.equal(model.lm_head.weight, model.shared.weight)
    x = torch.linspace(-3, 3, 7)
    assert torch.equal(model.encoder.block[0].layer[1].DenseReluDense.act(x), torch.nn.functional.gelu(x))

    weights = {}
    for name, parameter in model.state_dict().items():
        if name not in ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight"):  # both are shared.weight
            weights[t5_name(name)] = on_disk(name, parameter).numpy().astype(np.float16)
    safetensors.numpy.save_file(
        {name: np.ascontiguousarray(value) for name, value in weights.items()}, FOLDER / WEIGHTS
    )

    rng = np.random.default_rng(0)
    source_ids = rng.integers(1, 300, (2, 48))
    source_ids[1, 31:] = 0
    target_ids = rng.integers(1, 300, (2, 21))
    target_ids[0, 17:] = 0
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(source_ids),
            attention_mask=torch.tensor(source_ids != 0),
            decoder_input_ids=torch.tensor(target_ids),
            decoder_attention_mask=torch.tensor(target_ids != 0),
        ).logits.numpy()
    np.savez_compressed(
        FOLDER / LOGITS,
        source_ids=source_ids.astype(np.int32),
        target_ids=target_ids.astype(np.int32),
        logits=logits.astype(np.float32),
    )
    with tempfile.TemporaryDirectory() as folder:
        model.half().save_pretrained(folder)
        shutil.copyfile(Path(folder, "model.safetensors"), FOLDER / HUGGING_FACE)
    print(f"{len(weights)} weights, logits {logits.shape} of standard deviation {logits.std():.2f}")


def t5_name(name: str) -> str:
    """Return T5's own name of a weight: `encoder.block.0.layer.1.DenseReluDense.wi_0.weight` and so on."""
    if name == "shared.weight":
        return "shared/embedding"
    if name == "lm_head.weight":
        return "decoder/logits/kernel"
    if name.endswith("final_layer_norm.weight"):
        return f"{name.split('.')[0]}/rms_norm/scale"
    stack, block, layer, rest = re.fullmatch(r"(\w+)\.block\.(\d+)\.layer\.(\d+)\.(.+)\.weight", name).groups()
    rest = {"layer_norm": "rms_norm/scale"}.get(rest, rest.replace(".", "/"))
    return f"{stack}/block_{int(block):03}/layer_{int(layer):03}/{rest}" + ("/kernel" if "/w" in rest else "")


def on_disk(name: str, parameter: torch.Tensor) -> torch.Tensor:
    """Return a weight as T5's checkpoints have it: matrices [in, out], position biases [heads, buckets]."""
    if name == "lm_head.weight":
        # bert4keras multiplies the decoder's output by hidden_size ** -0.5 first; 8 here, which rounds nothing.
        return parameter.T * CONFIG["d_model"] ** 0.5
    return parameter if name == "shared.weight" or parameter.ndim == 1 else parameter.T


if __name__ == "__main__":
    main()
