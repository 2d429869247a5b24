"""Make tiny_torch.safetensors: weights, and the logits of `benchmarks/tiny_torch_network.py` with them in float32.

Run this where torch is installed (made with torch 2.13.0):
`PYTHONPATH=.:benchmarks python tests/golden/make_tiny_torch.py`.
"""

import json
from pathlib import Path

import numpy as np
import safetensors.numpy
import tiny_torch_network
import torch

from t5_pegasus.config import ModelConfig

FOLDER = Path(__file__).resolve().parent
CONFIG = {
    "vocab_size": 40,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_attention_heads": 2,
    "attention_head_size": 8,
    "num_hidden_layers": 3,
    "num_decoder_layers": 2,
    "cross_position_bias": False,
    "tie_word_embeddings": True,
}


def main() -> None:
    """Draw weights, run the network, write both."""
    torch.manual_seed(0)
    tiny_torch_network.COMPUTE = torch.float32
    model = tiny_torch_network.T5(ModelConfig(**CONFIG), dropout=0.0)
    for weight in model.weights.values():
        weight.data += 0.1 * torch.randn_like(weight)  # norms, too, are to count
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(4, 40, (2, 150)), rng.integers(4, 40, (2, 24))
    sources[1, 90:], targets[0, 19:] = 0, 0
    with torch.no_grad():
        logits = model.decode(torch.tensor(targets), *model.encode(torch.tensor(sources))).numpy()
    arrays = {name: value.numpy() for name, value in model.official().items()}
    arrays |= {"source_ids": sources.astype(np.int32), "target_ids": targets.astype(np.int32), "logits": logits}
    file = FOLDER / "tiny_torch.safetensors"
    safetensors.numpy.save_file(arrays, file, metadata={"config": json.dumps(CONFIG)})
    print(logits.shape, logits.std())


if __name__ == "__main__":
    main()
