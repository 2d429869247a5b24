"""Make exported.npz: what transformers computes with the shipped model, written as a Hugging Face folder.

Write the folder, then run this where torch and transformers are installed (made with torch 2.13.0, transformers
5.23.0): `python -m t5_pegasus.conversion --to hugging_face --model_dir chinese_t5_pegasus_tiny --output_dir FOLDER`,
`python tests/golden/make_exported.py FOLDER`.
"""

import hashlib
import sys
from pathlib import Path

import numpy as np
import torch
from transformers import AutoModelForSeq2SeqLM

FOLDER = Path(__file__).resolve().parent
EVERY = 37  # of so many logits one is kept: all of them take megabytes


def main(folder: Path) -> None:
    """Load the folder by its classes' own code, run it, and write logits and the hashes of the files."""
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()
    rng = np.random.default_rng(0)
    sources, targets = rng.integers(106, 12000, (2, 150)), rng.integers(106, 12000, (2, 24))
    sources[1, 90:], targets[:, 0], targets[0, 19:] = 0, 101, 0
    with torch.no_grad():
        logits = model(
            input_ids=torch.tensor(sources),
            attention_mask=torch.tensor(sources != 0).long(),
            decoder_input_ids=torch.tensor(targets),
        ).logits.numpy()
    files = ("model.safetensors", "config.json", "generation_config.json")
    np.savez_compressed(
        FOLDER / "exported.npz",
        source_ids=sources.astype(np.int32),
        target_ids=targets.astype(np.int32),
        logits=logits[..., ::EVERY],
        every=EVERY,
        **{name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in files},
    )
    print(logits.shape, logits.std())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
