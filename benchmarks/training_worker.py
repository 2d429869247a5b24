"""One side of `training.py` in a process of its own, so that memory is its own and peers need not share an environment.

Started as `python training_worker.py`, it reads a JSON object from standard input and prints another: the seconds of
training on the batches, target tokens, and memory in MB. What is imported is the side's own business: the peers'
environment has no TensorFlow.
"""

import importlib
import importlib.metadata
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

Arrays = tuple[np.ndarray, np.ndarray]
LEARNING_RATE, WEIGHT_DECAY = 1e-4, 0.01
LORA_RANK = 8


def random_batches(pairs: list[tuple[list[int], list[int]]], size: int) -> list[Arrays]:
    """Return the pairs in random order, each batch padded to its longest: what default collators do."""
    order = np.random.default_rng(0).permutation(len(pairs))
    batches = []
    for first in range(0, len(order), size):
        chosen = [pairs[row] for row in order[first : first + size]]
        arrays = []
        for side in (0, 1):
            rows = [pair[side] for pair in chosen]
            array = np.zeros((len(rows), max(map(len, rows))), np.int32)
            for target, row in zip(array, rows, strict=True):
                target[: len(row)] = row
            arrays.append(array)
        batches.append((arrays[0], arrays[1]))
    return batches


def megabytes() -> float:
    """Return the peak of this process's memory, as Linux tells it; `getrusage` begins with that of the parent."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def ours(spec: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return a function that takes two steps, and one that takes all, each returning the last loss.

    The side "lora" trains an adapter, "ours" all weights.
    """
    import functools

    from t5_pegasus.config import ModelConfig
    from t5_pegasus.networks.lora import LoraConfig
    from t5_pegasus.networks.lora_layers import attach
    from t5_pegasus.networks.t5 import build_from_config, initialize
    from t5_pegasus.training import EncodedPairs
    from t5_pegasus.training.finetuning import epoch_steps
    from t5_pegasus.training.optimizer import WarmupLinearDecay, make_optimizer
    from t5_pegasus.training.options import TrainingConfig
    from t5_pegasus.training.pairs import count_targets, load_part
    from t5_pegasus.training.step import TrainStep

    t5 = build_from_config(ModelConfig(**spec["model"]), with_lm="linear")
    initialize(t5)
    if spec["side"] == "lora":
        attach(t5, LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=("q", "v")))
    config = TrainingConfig(weight_decay=WEIGHT_DECAY, per_device_train_batch_size=spec["batch_size"])
    step = TrainStep(t5, make_optimizer(t5, config, WarmupLinearDecay(LEARNING_RATE, 1, 10_000)), config)
    pairs = EncodedPairs(spec["pairs"])
    steps = epoch_steps(pairs, config, 1, 1)

    def train(some: Sequence[Any]) -> float:
        loss = 0.0
        for number, batches in enumerate(some):
            loads = [functools.partial(load_part, pairs, batch) for batch in batches]
            loss = float(step(number, loads, count_targets(pairs, batches))[0])
        return loss

    return lambda: train(steps[:2]), lambda: train(steps)


def transformers(spec: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the same for Hugging Face's MT5 with torch's AdamW; the side "peft" trains PEFT's adapter."""
    import torch
    from transformers import MT5Config, MT5ForConditionalGeneration

    torch.set_num_threads(os.cpu_count() or 1)
    model = spec["model"]
    config = MT5Config(
        vocab_size=model["vocab_size"],
        d_model=model["hidden_size"],
        d_kv=64,
        d_ff=model["intermediate_size"],
        num_layers=model["num_hidden_layers"],
        num_decoder_layers=model["num_hidden_layers"],
        num_heads=model["num_attention_heads"],
        dropout_rate=0.1,
        pad_token_id=0,
        decoder_start_token_id=101,
        eos_token_id=102,
    )
    config.tie_word_embeddings = False  # transformers 5 sets it to True whatever is given
    network = MT5ForConditionalGeneration(config).train()
    if spec["side"] == "peft":
        import peft

        lora = peft.LoraConfig(r=LORA_RANK, lora_alpha=LORA_RANK, target_modules=["q", "v"], task_type="SEQ_2_SEQ_LM")
        network = peft.get_peft_model(network, lora)
    learned = [parameter for parameter in network.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(learned, lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    batches = random_batches(spec["pairs"], spec["batch_size"])

    def train(some: Sequence[Arrays]) -> float:
        loss = 0.0
        for sources, targets in some:
            ids, labels = torch.from_numpy(sources).long(), torch.from_numpy(targets[:, 1:]).long()
            result = network(
                input_ids=ids, attention_mask=(ids != 0).long(), labels=labels.masked_fill(labels == 0, -100)
            )
            result.loss.backward()
            torch.nn.utils.clip_grad_norm_(learned, 1.0)
            optimizer.step()
            optimizer.zero_grad()
            loss = float(result.loss)
        return loss

    return lambda: train(batches[:2]), lambda: train(batches)


def bert4keras(spec: dict[str, Any]) -> tuple[Callable[[], float], Callable[[], float]]:
    """Return the same for bert4keras's own network, loss layer and `fit`, with the AdamW of Keras.

    Its own optimizers do not run on tf-keras 2.21.
    """
    os.environ.update(TF_KERAS="1", TF_USE_LEGACY_KERAS="1")
    import tempfile

    import tf_keras as keras
    from bert4keras.backend import K
    from bert4keras.layers import Loss
    from bert4keras.models import build_transformer_model

    class CrossEntropy(Loss):  # type: ignore[misc]
        def compute_loss(self, inputs: list[Any], mask: Any = None) -> Any:
            targets, probabilities = inputs
            counts = K.cast(K.not_equal(targets[:, 1:], 0), K.floatx())
            losses = K.sparse_categorical_crossentropy(targets[:, 1:], probabilities[:, :-1])
            return K.sum(losses * counts) / K.sum(counts)

    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        settings = {"hidden_act": ["gelu", "linear"], "initializer_range": 0.02, "attention_head_size": 64}
        rates = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.1)
        json.dump({**settings, **rates, **spec["model"]}, file)
        file.flush()
        t5 = build_transformer_model(file.name, model="mt5.1.1", return_keras_model=False, name="T5")
    network = keras.Model(t5.model.inputs, CrossEntropy(1)([t5.model.inputs[1], t5.model.outputs[0]]))
    network.compile(keras.optimizers.AdamW(LEARNING_RATE, weight_decay=WEIGHT_DECAY, global_clipnorm=1.0))
    batches = random_batches(spec["pairs"], spec["batch_size"])

    def train(some: Sequence[Arrays]) -> float:
        data = ((dict(zip(network.input_names, batch, strict=True)),) for batch in some)
        return float(network.fit(data, steps_per_epoch=len(some), epochs=1, verbose=0).history["loss"][-1])

    return lambda: train(batches[:2]), lambda: train(batches)


SIDES = {
    "ours": ours,
    "lora": ours,
    "transformers": transformers,
    "peft": transformers,
    "bert4keras": bert4keras,
}
PACKAGES = {
    "ours": ("tensorflow", "tf-keras"),
    "lora": ("tensorflow", "tf-keras"),
    "transformers": ("torch", "transformers"),
    "peft": ("torch", "transformers", "peft"),
    "bert4keras": ("tensorflow", "tf-keras", "bert4keras"),
}


def main() -> None:
    """Train as standard input says."""
    spec = json.load(sys.stdin)
    with open(os.devnull, "w", encoding="utf-8") as quiet:
        output, sys.stdout = sys.stdout, quiet
        # Imports and one small product, so that what they take is not counted as the training's.
        if spec["side"] in ("transformers", "peft"):
            import torch

            importlib.import_module("transformers")
            torch.ones((64, 64)) @ torch.ones((64, 64))
        else:
            from t5_pegasus.networks.backend import tf

            tf.ones((64, 64)) @ tf.ones((64, 64))
        imported = megabytes()
        warm_up, train = SIDES[spec["side"]](spec)
        warm_up()
        start = time.perf_counter()
        loss = train()
        seconds = time.perf_counter() - start
        sys.stdout = output
    result = {
        "seconds": seconds,
        "loss": loss,
        "memory_mb": megabytes() - imported,
        "memory_with_imports_mb": megabytes(),
        "versions": {name: importlib.metadata.version(name) for name in PACKAGES[spec["side"]]},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
