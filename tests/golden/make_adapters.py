"""Make adapters of the models in hugging_face/ by PEFT, and adapters of our own, and what both answer: adapters/.

`adapters/NAME/peft/`, written by PEFT, and `ours/`, written by `networks.adapter_files`, are adapters of
`hugging_face/NAME/`; `logits.npz` has what transformers and PEFT compute without and with each: `base`, `peft`, `ours`,
for `source_ids` and `target_ids`. `ours` was loaded by PEFT.

Run where torch, transformers and peft are installed (made with torch 2.13.0, transformers 5.23.0 and peft 0.21.2):
`PYTHONPATH=. python tests/golden/make_adapters.py`. The test that reads the files needs none of them.
"""

import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
from transformers import AutoModelForSeq2SeqLM

from t5_pegasus.config import ModelConfig
from t5_pegasus.networks.adapter_files import Record, write_adapter
from t5_pegasus.networks.architectures import describe
from t5_pegasus.networks.hugging_face import settle_head
from t5_pegasus.networks.lora import Adapter, Factors, LoraConfig, plan

FOLDER = Path(__file__).resolve().parent / "adapters"
BASES = FOLDER.with_name("hugging_face")

# Of each model the settings of its two adapters.
PATTERNS = {"rank_pattern": {"wo": 2, r"EncDecAttention\.q": 1}, "alpha_pattern": {"v": 3, r"encoder\..*\.wo": 20}}
MODELS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "flan_t5": (
        {"r": 4, "lora_alpha": 8, "target_modules": ["q", "v"]},
        {"r": 3, "lora_alpha": 6, "target_modules": ("q", "wi_0", "head"), "modules_to_save": ("final_layer_norm",)},
    ),
    "mt5": (
        {
            **{"r": 4, "lora_alpha": 8, "target_modules": ["q", "v", "o", "wi_1", "wo"], "use_rslora": True},
            **{"modules_to_save": ["lm_head", "layer_norm"], **PATTERNS},
        },
        {"r": 2, "target_modules": "all-linear", "use_rslora": True, **PATTERNS},
    ),
    "uer_pegasus": (
        {
            **{"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj", "fc1"], "rank_pattern": {"fc1": 2}},
            **{"modules_to_save": ["self_attn_layer_norm", "out_proj"]},
        },
        {"r": 2, "target_modules": ("q", "v", "wo"), "alpha_pattern": {"q_proj": 5}},
    ),
}


def main() -> None:
    """Write everything anew."""
    warnings.simplefilter("ignore")
    shutil.rmtree(FOLDER, ignore_errors=True)
    for seed, (name, (settings, own_settings)) in enumerate(MODELS.items()):
        torch.manual_seed(seed)
        random = np.random.default_rng(seed)
        folder, model = FOLDER / name, AutoModelForSeq2SeqLM.from_pretrained(BASES / name, dtype=torch.float32).eval()
        source_ids, target_ids = (random.integers(3, model.config.vocab_size, size) for size in ((2, 14), (2, 9)))
        source_ids[1, 9:], target_ids[0, 7:] = 0, 0
        found = {"source_ids": source_ids, "target_ids": target_ids, "base": logits(model, source_ids, target_ids)}

        config = peft.LoraConfig(**settings, task_type="SEQ_2_SEQ_LM", init_lora_weights=False)
        adapted = peft.get_peft_model(model, config).eval()
        with torch.no_grad():
            for key, parameter in adapted.named_parameters():
                if "modules_to_save" in key:
                    parameter.add_(0.1 * torch.randn_like(parameter))
                elif "lora_" in key:
                    parameter.normal_(std=0.07)
        found["peft"] = logits(adapted, source_ids, target_ids)
        adapted.save_pretrained(folder / "peft")
        (folder / "peft" / "README.md").unlink()

        write_adapter(folder / "ours", our_adapter(BASES / name, own_settings, random), Record(name))
        base = AutoModelForSeq2SeqLM.from_pretrained(BASES / name, dtype=torch.float32)
        loaded = peft.PeftModel.from_pretrained(base, folder / "ours").eval()
        found["ours"] = logits(loaded, source_ids, target_ids)
        np.savez_compressed(folder / "logits.npz", **found)
        moved = {key: float(np.abs(found[key] - found["base"]).max()) for key in ("peft", "ours")}
        print(name, found["base"].std(), moved)


def our_adapter(folder: Path, settings: dict[str, Any], random: np.random.Generator) -> Adapter:
    """Return an adapter of our own making for a folder, with random values."""
    description = describe(settle_head(ModelConfig.load(folder), folder / "model.safetensors", None))
    planned, factors, saved = plan(description, LoraConfig(**settings)), {}, {}
    for module in planned.targets:
        rank = planned.config.rank(module.path)
        a, b = (
            random.normal(scale=0.05, size=size).astype(np.float32)
            for size in ((module.inputs, rank), (rank, module.outputs))
        )
        factors[module.weight] = Factors(a, b, planned.config.scale(module.path, rank))
    shapes = description.weight_shapes()
    for module in planned.saved:
        for weight in filter(None, (module.weight, module.bias)):
            saved[weight] = random.uniform(0.8, 1.2, shapes[weight]).astype(np.float32)
    return Adapter(planned, factors, saved)


def logits(model: Any, source_ids: np.ndarray, target_ids: np.ndarray) -> np.ndarray:
    """Return logits float32 [batch, target_len, vocab_size]."""
    with torch.no_grad():
        found = model(
            input_ids=torch.tensor(source_ids),
            attention_mask=torch.tensor(source_ids != 0),
            decoder_input_ids=torch.tensor(target_ids),
            decoder_attention_mask=torch.tensor(target_ids != 0),
        ).logits
    result: np.ndarray = found.numpy()
    return result


if __name__ == "__main__":
    main()
