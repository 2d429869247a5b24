"""Train the shipped model's weights on a GPU in minutes: the network and the pairs are this project's, torch computes.

    python benchmarks/tiny_torch.py --compile --mix pretraining --minutes 6 --output_file pretrained.safetensors
    python benchmarks/tiny_torch.py --compile --mix fine_tuning --minutes 0.5 --weights pretrained.safetensors \
        --rate 2e-3 --dropout 0.1 --batch_tokens 16384 --output_file titles.safetensors

It needs torch with CUDA, numpy, safetensors, rjieba, protobuf and google-crc32c, not TensorFlow; `pretrain.py` trains
the same network on CPUs, with AdamW and shards of pairs, in days. Here pairs are drawn anew all the time, by
`tiny_pairs.Kinds` in processes of their own. The files have the names and shapes of this project's checkpoints:
`build_model` loads them, and `tests/scripts/test_tiny_torch.py` holds the network against the Keras model.

Matrices learn by Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), their updates scaled to the
size of Adam's (Liu et al. 2025, https://arxiv.org/abs/2502.16982); embedding, norms and position biases by Adam.
Gradients are clipped to a norm of 1. The rate rises for 3 % of the time and then falls linearly to 0. It goes by the
clock: GPUs are paid for by the minute.
"""

import contextlib
import dataclasses
import json
import math
import multiprocessing
import os
import queue
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from common import make_parser, report, require_public_data
from tiny_pairs import MIXES, READ, Kinds, Pair, held_out_sciences, lctt_articles, load_texts
from tiny_torch_network import COMPUTE, T5
from torch import Tensor, nn

from t5_pegasus import PegasusTokenizer, cli, read_examples
from t5_pegasus.config import ModelConfig, require_at_least, require_positive, require_share
from t5_pegasus.decoding.inputs import pad
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.files import atomic_path, check_target
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR
from t5_pegasus.metrics import score

# Widths of source and target that batches are padded to: few, since each is compiled.
SHAPES = ((128, 32), (128, 64), (256, 32), (256, 64))
# Rates of what Adam trains, in multiples of the matrices' rate: the embedding's values are of size 1, matrices' 1/16.
EMBEDDING, BIAS, NORM = 2.0, 1.0, 0.5
MUON_STEPS, MOMENTUM = 5, 0.95
WARM_UP = 0.03
PATIENCE = 300  # seconds to wait for pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes and write the weights."""
    parser = make_parser("Train the shipped model's weights with torch.", repeated=False)
    parser.add_argument("--mix", choices=tuple(MIXES), required=True, help="shares of the kinds of pairs")
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, help="holds config.json and vocab.txt")
    parser.add_argument("--weights", nargs="+", help="safetensors files whose mean to start from; random if not given")
    parser.add_argument("--output_file", required=True, help="safetensors file to write")
    parser.add_argument("--minutes", type=float, default=8.0, help="time to train, without compiling; 0 only scores")
    parser.add_argument("--batch_tokens", type=int, default=65_536, help="tokens of a step, with padding")
    parser.add_argument("--rate", type=float, default=1e-2, help="highest learning rate of the matrices")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of the matrices, times the rate")
    parser.add_argument(
        "--dropout", type=float, default=0.0, help="share set to 0 of what is embedded, of each layer and of each stack"
    )
    parser.add_argument("--label_smoothing", type=float, default=0.0, help="share of the loss over all tokens")
    parser.add_argument("--processes", type=int, default=6, help="that draw pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile the blocks: worth it on a GPU")
    flags = parser.parse_args(argv)
    require_at_least(flags, 0, "minutes", "decay")
    require_at_least(flags, 1, "processes", "batch_tokens")
    require_positive(flags, "rate")
    require_share(flags, "dropout", "label_smoothing")
    check_target(Path(flags.output_file))
    folder = require_public_data()
    torch.manual_seed(flags.seed)
    model = T5(ModelConfig.load(flags.model_dir), flags.dropout, flags.compile)
    if flags.weights:
        model.load(mean_of(flags.weights, model))
    context = multiprocessing.get_context("fork")
    batches, stop = context.Queue(maxsize=64), context.Event()
    # Forked before CUDA is touched: a process that has touched it cannot be forked.
    context.Process(target=draw_pairs, args=(flags, folder, batches, stop)).start()
    try:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        history = train(model.to(device), batches, flags, device)
    finally:
        stop.set()
    with atomic_path(flags.output_file) as file:
        safetensors.torch.save_file({name: value.half() for name, value in model.official().items()}, file)
    told = {name: value for name, value in vars(flags).items() if isinstance(value, int | float) or name == "mix"}
    result = {"benchmark": "tiny_torch", "flags": told, "history": history, "device": name_of(device)}
    report(result, ("torch", "numpy", "rjieba"), flags.output)
    return 0


def name_of(device: str) -> str:
    """Return what computes."""
    return str(torch.cuda.get_device_name()) if device == "cuda" else device


def draw_pairs(flags: Any, folder: Path, batches: Any, stop: Any) -> None:
    """Put the development sets and then batches of pairs into the queue, until told to stop."""
    tokenizer = PegasusTokenizer(Path(flags.model_dir) / "vocab.txt")
    batches.put(development_sets(tokenizer, folder, flags.batch_tokens))
    if flags.minutes:
        draw_batches(tokenizer, folder, flags, batches, stop)
    stop.wait()
    os._exit(0)  # without waiting for somebody to take what is in the queue


def draw_batches(tokenizer: PegasusTokenizer, folder: Path, flags: Any, batches: Any, stop: Any) -> None:
    """Put batches of pairs, drawn by several processes, into the queue until told to stop."""
    texts, _ = load_texts(folder)
    kinds = Kinds(tokenizer, texts, random.Random(flags.seed))
    context = multiprocessing.get_context("fork")
    arguments = (kinds, flags, batches, stop)
    workers = [context.Process(target=_draw, args=(number, *arguments)) for number in range(flags.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _draw(number: int, kinds: Kinds, flags: Any, batches: Any, stop: Any) -> None:
    kinds.random = random.Random(f"{flags.seed} {number}")
    waiting: dict[tuple[int, int], list[Pair]] = {shape: [] for shape in SHAPES}
    while not stop.is_set():
        source, target = kinds.draw(flags.mix)
        shape = next((w, n) for w, n in SHAPES if len(source) <= w and len(target) <= n + 1)
        waiting[shape].append((source, target))
        if len(waiting[shape]) == rows_of(flags.batch_tokens, *shape):
            batch = padded(waiting[shape], shape)
            waiting[shape] = []
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    batches.put(batch, timeout=1)
                    break
    os._exit(0)  # see above


def padded(pairs: Sequence[Pair], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids [pairs, width] of the sources and [pairs, length + 1] of the targets, padded with 0."""
    sources, targets = zip(*pairs, strict=True)
    return pad(sources, shape=(len(pairs), shape[0])), pad(targets, shape=(len(pairs), shape[1] + 1))


def development_sets(tokenizer: PegasusTokenizer, folder: Path, batch_tokens: int) -> dict[str, Any]:
    """Return ids of each development set, as many as a batch has rows (some twice where there are fewer) and titles."""
    shape = (256, 32)
    rows = rows_of(batch_tokens, *shape)
    sets = {
        "csl": list(read_examples(folder / "csl" / "dev.tsv")),
        "sciences": held_out_sciences(folder)[0],
        "lctt": lctt_articles(folder, "dev"),
        "news": list(read_examples(DATA_DIR / "valid.tsv")),
    }
    found = {}
    for name, whole in sets.items():
        examples = (whole * (rows // len(whole) + 1))[:rows]  # all sets have one shape
        sources = tokenizer.encode_batch([each.content[:READ] for each in examples], shape[0])
        targets = tokenizer.encode_batch([each.title for each in examples], shape[1])
        pairs = padded(list(zip(sources, targets, strict=True)), shape)
        found[name] = (*pairs, [each.title for each in whole[:rows]])
    return found


def train(model: T5, batches: Any, flags: Any, device: str) -> list[dict[str, float]]:
    """Train for the minutes asked for, from the first pairs on; return what was logged."""
    muon, adam = split(model)
    optimizer = torch.optim.Adam(adam, betas=(0.9, 0.98))
    development = await_development(flags, batches, device)
    if flags.compile:
        for width, length in SHAPES:
            rows = rows_of(flags.batch_tokens, width, length)
            ids = torch.randint(200, 400, (rows, width + length + 1), device=device)
            model.loss(ids[:, :width], ids[:, width:], 0.0, True).backward()
            model.zero_grad(set_to_none=True)
        development.losses(model)
    upcoming: Any = take(batches) if flags.minutes else None  # the clock starts when there are pairs
    start, step, tokens, history = time.perf_counter(), 0, 0, list[dict[str, float]]()
    logged = 0.0
    recent = list[Tensor]()
    while True:
        passed = (time.perf_counter() - start) / (60 * flags.minutes) if flags.minutes else 1.0
        if passed >= min(1, logged):
            logged += 0.05
            line = {"step": step, "minutes": round(passed * flags.minutes, 3), "tokens": tokens}
            line["loss"] = round(float(torch.stack(recent).mean()), 4) if recent else 0.0
            line |= development.losses(model)
            recent.clear()
            history.append(line)
            print(json.dumps(line), f"waiting {batches.qsize()}", flush=True)
            if passed >= 1:
                return [*history, development.scores(model)]
        rate = flags.rate * min(passed / WARM_UP, (1 - passed) / (1 - WARM_UP))
        source, target = (to_tensor(array, device) for array in upcoming)
        loss = model.loss(source, target, flags.label_smoothing, True)
        loss.backward()
        recent.append(loss.detach())
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["times"]
        optimizer.step()
        muon.step(rate, flags.decay)
        model.zero_grad(set_to_none=True)
        upcoming = take(batches)
        step += 1
        tokens += source.numel() + target.numel()


def await_development(flags: Any, batches: Any, device: str) -> "Development":
    """Return the development sets, the first thing in the queue."""
    sets = take(batches)
    arrays = {
        name: (to_tensor(source, device), to_tensor(target, device)) for name, (source, target, _) in sets.items()
    }
    titles = {name: references for name, (_, _, references) in sets.items()}
    return Development(PegasusTokenizer(Path(flags.model_dir) / "vocab.txt"), arrays, titles)


def take(batches: Any) -> Any:
    """Return what is next in the queue, or raise OptionError if nothing comes: its processes have ended."""
    try:
        return batches.get(timeout=PATIENCE)
    except queue.Empty:
        raise OptionError(
            f"no pairs came for {PATIENCE} s: the processes that draw them are slow, or ended for a reason told above"
        ) from None


def to_tensor(array: np.ndarray, device: str) -> Tensor:
    """Return ids as torch wants them."""
    return torch.from_numpy(array.astype(np.int64)).to(device)


def mean_of(paths: Sequence[str], model: T5) -> dict[str, Tensor]:
    """Return the mean of the weights in files. Raises CheckpointError for one that has not the model's."""
    several = []
    for path in paths:
        try:
            values = safetensors.torch.load_file(path)
        except (OSError, safetensors.SafetensorError) as error:
            raise CheckpointError(f"weights must be safetensors files, got {path}: {error}") from error
        for name, parameter in model.weights.items():
            if name not in values or values[name].shape != parameter.shape:
                raise CheckpointError(f"weights must fit config.json, got {path} without {name} {[*parameter.shape]}")
        several.append(values)
    return {name: torch.stack([each[name].float() for each in several]).mean(0) for name in several[0]}


def rows_of(batch_tokens: int, width: int, length: int) -> int:
    """Return the rows of a batch of sources of this width and targets of this length."""
    return max(1, batch_tokens // (width + length))


class Muon:
    """Trains matrices by orthogonal updates; those of one shape are stacked."""

    def __init__(self, shapes: dict[tuple[int, ...], list[nn.Parameter]]) -> None:
        self._shapes = shapes
        # Of each shape [matrices, rows, columns].
        self._momenta = [torch.stack([torch.zeros_like(each) for each in group]) for group in shapes.values()]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, rate: float, decay: float) -> None:
        """Change the matrices by their gradients."""
        for (shape, group), momentum in zip(self._shapes.items(), self._momenta, strict=True):
            gradient = torch.stack([each.grad for each in group])
            momentum.lerp_(gradient, 1 - MOMENTUM)
            update = orthogonal(gradient.lerp(momentum, MOMENTUM))
            update *= -0.2 * rate * math.sqrt(max(shape))
            torch._foreach_mul_(group, 1 - rate * decay)
            torch._foreach_add_(group, list(update.unbind()))


def orthogonal(matrices: Tensor) -> Tensor:
    """Return matrices [count, rows, columns] with singular values near 1, by Newton and Schulz's iteration."""
    a, b, c = 3.4445, -4.7750, 2.0315  # of Jordan et al.
    x = matrices.to(COMPUTE)
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(MUON_STEPS):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return (x.mT if tall else x).float()


def split(model: T5) -> tuple[Muon, list[dict[str, Any]]]:
    """Return what Muon trains, and the groups of what Adam trains, each with its multiple of the rate."""
    shapes = dict[tuple[int, ...], list[nn.Parameter]]()
    groups: dict[float, list[nn.Parameter]] = {EMBEDDING: [], BIAS: [], NORM: []}
    for name, parameter in model.weights.items():
        if name == model.table:
            groups[EMBEDDING].append(parameter)
        elif name.endswith("relative_attention_bias"):
            groups[BIAS].append(parameter)
        elif parameter.ndim == 1:
            groups[NORM].append(parameter)
        else:
            shapes.setdefault(tuple(parameter.shape), []).append(parameter)
    return Muon(shapes), [{"params": params, "times": times} for times, params in groups.items()]


@dataclasses.dataclass
class Development:
    """Development sets, and what a model makes of them."""

    tokenizer: PegasusTokenizer
    arrays: dict[str, tuple[Tensor, Tensor]]
    titles: dict[str, list[str]]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def losses(self, model: T5) -> dict[str, float]:
        """Return the loss of each set's titles."""
        return {name: round(float(model.loss(*pair)), 4) for name, pair in self.arrays.items()}

    def scores(self, model: T5) -> dict[str, float]:
        """Return ROUGE-L in percent of each set's greedy titles."""
        found = {}
        for name, (source, _) in self.arrays.items():
            rows = model.greedy(source, self.tokenizer.start_id, SHAPES[2][1]).tolist()[: len(self.titles[name])]
            end = self.tokenizer.end_id
            written = [self.tokenizer.decode(row[1 : row.index(end) if end in row else None]) for row in rows]
            found[f"{name} ROUGE-L"] = round(100 * score(written, self.titles[name])["rouge-l"], 2)
        return found


if __name__ == "__main__":
    cli.run(main)
