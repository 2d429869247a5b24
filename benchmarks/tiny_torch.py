"""Train the shipped model's weights on a GPU in minutes: the network and the pairs are this project's, torch computes.

    python benchmarks/tiny_torch.py --mix pretraining --minutes 8 --output_file pretrained.safetensors
    python benchmarks/tiny_torch.py --mix fine_tuning --minutes 1 --weights pretrained.safetensors \
        --rate 2e-3 --dropout 0.1 --output_file titles.safetensors

It needs torch with CUDA, numpy, safetensors and rjieba, not TensorFlow; `pretrain.py` does the same on CPUs, in hours.
Pairs are drawn anew all the time, by `tiny_pairs.Kinds` in processes of their own, and none is written to disk. The
files have the names and shapes of this project's checkpoints: `build_model` loads them, and `--check` writes what
`tests/test_tiny_torch.py` compares with the Keras model.

Matrices learn by Muon (Jordan et al. 2024, https://kellerjordan.github.io/posts/muon/), their updates scaled to the
size of Adam's (Liu et al. 2025, https://arxiv.org/abs/2502.16982); embedding, norms and position biases by Adam. The
rate rises for 3 % of the time and then falls linearly to 0. It goes by the clock: GPUs are paid for by the minute.
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
from tiny_pairs import MAX_SOURCE, MAX_TARGET, MIXES, READ, Kinds, held_out_sciences, lctt_articles, load_texts
from torch import Tensor, nn
from torch.nn import functional

from t5_pegasus import PegasusTokenizer, cli, read_examples
from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.files import atomic_path
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR
from t5_pegasus.metrics import score
from t5_pegasus.networks.description import DecoderBlock, EncoderBlock, RelativeBias, Stack
from t5_pegasus.networks.t5_description import describe_t5

# Widths of source and target that batches are padded to: few, since each is compiled.
SHAPES = ((128, 32), (128, 64), (256, 32), (256, 64))
COMPUTE = torch.bfloat16  # type of the products; weights, norms and softmax are float32
EPSILON, FAR_BELOW = 1e-6, -1e9
# Rates of what Adam trains, in multiples of the matrices' rate: the embedding's values are of size 1, matrices' 1/16.
EMBEDDING, BIAS, NORM = 2.0, 1.0, 0.5
MUON_STEPS, MOMENTUM = 5, 0.95
WARM_UP = 0.03
PATIENCE = 90  # seconds to wait for pairs


def main(argv: Sequence[str] | None = None) -> int:
    """Train for some minutes and write the weights."""
    parser = make_parser("Train the shipped model's weights with torch.", repeated=False)
    parser.add_argument("--mix", choices=tuple(MIXES), required=True, help="shares of the kinds of pairs")
    parser.add_argument("--model_dir", default=TINY_MODEL_DIR, help="holds config.json and vocab.txt")
    parser.add_argument(
        "--weights", nargs="+", help="files whose mean to start from, awaited if not there; random if not given"
    )
    parser.add_argument("--output_file", required=True, help="safetensors file to write")
    parser.add_argument("--minutes", type=float, default=8.0, help="time to train, without compiling; 0 only scores")
    parser.add_argument("--batch_tokens", type=int, default=65_536, help="tokens of a step, with padding")
    parser.add_argument("--rate", type=float, default=1e-2, help="highest learning rate of the matrices")
    parser.add_argument("--decay", type=float, default=0.05, help="weight decay of the matrices, times the rate")
    parser.add_argument("--dropout", type=float, default=0.0, help="share of each block's outputs set to 0")
    parser.add_argument("--label_smoothing", type=float, default=0.0, help="share of the loss over all tokens")
    parser.add_argument("--processes", type=int, default=6, help="that draw pairs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--compile", action="store_true", help="compile the blocks: worth it on a GPU")
    flags = parser.parse_args(argv)
    folder = require_public_data()
    context = multiprocessing.get_context("fork")
    batches, stop = context.Queue(maxsize=64), context.Event()
    # Forked before CUDA is touched: a process that has touched it cannot be forked.
    context.Process(target=draw_pairs, args=(flags, folder, batches, stop)).start()
    torch.manual_seed(flags.seed)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = ModelConfig.load(flags.model_dir)
    model = T5(config, flags.dropout, flags.compile).to(device)
    try:
        history = train(model, batches, flags, device)
    finally:
        stop.set()
        batches.cancel_join_thread()
    path = Path(flags.output_file)
    with atomic_path(path) as file:
        safetensors.torch.save_file({name: value.half() for name, value in model.official().items()}, file)
    told = {name: value if isinstance(value, int | float) else str(value) for name, value in vars(flags).items()}
    report({"benchmark": "tiny_torch", "flags": told, "history": history, "device": name_of(device)}, (), flags.output)
    return 0


def name_of(device: str) -> str:
    """Return what computes, and torch's version."""
    return f"{torch.cuda.get_device_name() if device == 'cuda' else device}, torch {torch.__version__}"


def draw_pairs(flags: Any, folder: Path, batches: Any, stop: Any) -> None:
    """Put the development sets and then batches of pairs, drawn by several processes, into the queue."""
    tokenizer = PegasusTokenizer(Path(flags.model_dir) / "vocab.txt")
    batches.put(development_sets(tokenizer, folder, flags.batch_tokens))
    if not flags.minutes:
        return
    texts, _ = load_texts(folder)
    kinds = Kinds(tokenizer, texts, random.Random(flags.seed))
    context = multiprocessing.get_context("fork")
    arguments = (kinds, tokenizer, flags, batches, stop)
    workers = [context.Process(target=_draw, args=(number, *arguments)) for number in range(flags.processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()


def _draw(number: int, kinds: Kinds, tokenizer: PegasusTokenizer, flags: Any, batches: Any, stop: Any) -> None:
    kinds.random = random.Random(f"{flags.seed} {number}")
    shares = MIXES[flags.mix]
    waiting: dict[tuple[int, int], list[tuple[list[int], list[int]]]] = {shape: [] for shape in SHAPES}
    while not stop.is_set():
        (kind,) = kinds.random.choices(list(shares), list(shares.values()))
        source, target = (
            [tokenizer.start_id, *ids[:limit], tokenizer.end_id]
            for ids, limit in zip(kinds.table[kind](), (MAX_SOURCE, MAX_TARGET), strict=True)
        )
        shape = next((w, n) for w, n in SHAPES if len(source) <= w and len(target) <= n + 1)
        waiting[shape].append((source, target))
        if len(waiting[shape]) == rows_of(flags.batch_tokens, *shape):
            batch = padded(waiting[shape], shape)
            waiting[shape] = []
            while not stop.is_set():
                with contextlib.suppress(queue.Full):
                    batches.put(batch, timeout=1)
                    break
    batches.cancel_join_thread()


def padded(pairs: Sequence[tuple[list[int], list[int]]], shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Return ids [pairs, width] of the sources and [pairs, length + 1] of the targets, padded with 0."""
    arrays = [np.zeros((len(pairs), width), np.uint16) for width in (shape[0], shape[1] + 1)]
    for row, pair in enumerate(pairs):
        for array, ids in zip(arrays, pair, strict=True):
            array[row, : len(ids)] = ids
    return arrays[0], arrays[1]


def development_sets(tokenizer: PegasusTokenizer, folder: Path, batch_tokens: int) -> dict[str, Any]:
    """Return the titles of each development set, as many as a batch has rows, as ids."""
    shape = (256, 32)
    rows = rows_of(batch_tokens, *shape)
    sets = {
        "csl": list(read_examples(folder / "csl" / "dev.tsv")),
        "sciences": held_out_sciences(folder)[0],
        "lctt": lctt_articles(folder, "dev"),
        "news": list(read_examples(DATA_DIR / "valid.tsv")),
    }
    found = {}
    for name, examples in sets.items():
        examples = (examples * (rows // len(examples) + 1))[:rows]  # all sets have one shape
        sources = tokenizer.encode_batch([each.content[:READ] for each in examples], shape[0])
        targets = tokenizer.encode_batch([each.title for each in examples], shape[1])
        pairs = padded(list(zip(sources, targets, strict=True)), shape)
        found[name] = (*pairs, [each.title for each in examples[: min(rows, len(set(examples)))]])
    return found


def train(model: "T5", batches: Any, flags: Any, device: str) -> list[dict[str, float]]:
    """Train for the minutes asked for, from the first pairs on; return what was logged."""
    muon, adam = split(model)
    optimizer = torch.optim.Adam(adam, betas=(0.9, 0.98))
    momenta = [torch.zeros_like(group) for group in muon.stacked()]
    development = await_development(flags, batches, device)
    if flags.compile:
        for width, length in SHAPES:
            rows = rows_of(flags.batch_tokens, width, length)
            ids = torch.randint(200, 400, (rows, width + length + 1), device=device)
            model.loss(ids[:, :width], ids[:, width:], 0.0, True).backward()
            model.zero_grad(set_to_none=True)
        development.losses(model)
    if flags.weights:
        model.load(mean_of(flags.weights))
    upcoming: Any = take(batches) if flags.minutes else None  # the clock starts when there are pairs
    start, step, tokens, history = time.perf_counter(), 0, 0, list[dict[str, float]]()
    logged = 0.0
    recent = list[Tensor]()
    while True:
        passed = (time.perf_counter() - start) / (60 * flags.minutes) if flags.minutes else 1.0
        if passed >= 1 or passed >= logged:
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
        muon.step(momenta, rate, flags.decay)
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
        raise OptionError(f"no pairs came for {PATIENCE} s: see above why no process draws them") from None


def to_tensor(array: np.ndarray, device: str) -> Tensor:
    """Return ids as torch wants them."""
    return torch.from_numpy(array.astype(np.int64)).to(device)


def mean_of(paths: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean of the weights in files, waiting for those that are still to be written."""
    while not all(map(os.path.exists, paths)):
        time.sleep(0.1)
    several = [safetensors.torch.load_file(path) for path in paths]
    return {name: torch.stack([each[name].float() for each in several]).mean(0) for name in several[0]}


def rows_of(batch_tokens: int, width: int, length: int) -> int:
    """Return the rows of a batch of sources of this width and targets of this length."""
    return max(1, batch_tokens // (width + length))


class Muon:
    """Matrices of one shape, stacked, that learn by orthogonal updates."""

    def __init__(self, shapes: dict[tuple[int, ...], list[nn.Parameter]]) -> None:
        self._shapes = shapes

    def stacked(self) -> list[Tensor]:
        """Return the values of all matrices, those of one shape in a tensor [matrices, rows, columns]."""
        return [torch.stack([each.detach() for each in group]) for group in self._shapes.values()]

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def step(self, momenta: list[Tensor], rate: float, decay: float) -> None:
        """Change the matrices by their gradients."""
        for (shape, group), momentum in zip(self._shapes.items(), momenta, strict=True):
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


def split(model: "T5") -> tuple[Muon, list[dict[str, Any]]]:
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


def normalize(x: Tensor, scale: Tensor) -> Tensor:
    """T5's norm with float32 statistics, [..., hidden], in the type to compute in."""
    return (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + EPSILON) * scale).to(COMPUTE)


def attend(
    x: Tensor,
    context: Tensor | None,
    bias: Tensor | None,
    mask: Tensor,
    dropout: float,
    heads: int,
    weights: Sequence[Tensor],
) -> Tensor:
    """Return x, float32 [batch, queries, hidden], with attention added.

    Args:
        x: see above.
        context: the encoder's output [batch, keys, hidden]; None attends to x itself.
        bias: float32 [heads, queries, keys], or None.
        mask: float32 [batch, 1, 1, keys], 0 or far below any score.
        dropout: share of the output that is set to 0.
        heads: attention heads.
        weights: norm [hidden], and of q, k, v, o; q is that of scores divided by the square root of the head's size.
    """
    scale, *kernels = weights
    h = normalize(x, scale)
    wq, wk, wv, wo = (kernel.to(COMPUTE) for kernel in kernels)
    keys = h if context is None else context
    query, key, value = (
        (inputs @ kernel).unflatten(-1, (heads, -1)).transpose(1, 2)
        for inputs, kernel in ((h, wq), (keys, wk), (keys, wv))
    )
    scores = (query @ key.mT).float() * query.shape[-1] ** -0.5 + mask
    if bias is not None:
        scores = scores + bias
    out = (torch.softmax(scores, -1).to(COMPUTE) @ value).transpose(1, 2).flatten(2) @ wo
    return x + functional.dropout(out, dropout, dropout > 0).float()


def feed_forward(x: Tensor, dropout: float, weights: Sequence[Tensor]) -> Tensor:
    """Return x, float32 [batch, length, hidden], with the gated layer added; weights: norm, wi_0, wi_1, wo."""
    scale, *kernels = weights
    h = normalize(x, scale)
    wi, gate, wo = (kernel.to(COMPUTE) for kernel in kernels)
    out = (functional.gelu(h @ wi) * (h @ gate)) @ wo
    return x + functional.dropout(out, dropout, dropout > 0).float()


def encoder_block(
    x: Tensor, bias: Tensor, mask: Tensor, dropout: float, heads: int, own: Sequence[Tensor], forward: Sequence[Tensor]
) -> Tensor:
    """A layer of the encoder; see `attend`."""
    return feed_forward(attend(x, None, bias, mask, dropout, heads, own), dropout, forward)


def decoder_block(
    x: Tensor,
    context: Tensor,
    bias: Tensor,
    mask: Tensor,
    dropout: float,
    heads: int,
    own: Sequence[Tensor],
    cross: Sequence[Tensor],
    forward: Sequence[Tensor],
) -> Tensor:
    """A layer of the decoder; `bias` also hides what comes after, `mask` is the context's."""
    x = attend(x, None, bias, torch.zeros((), device=x.device), dropout, heads, own)
    return feed_forward(attend(x, context, None, mask, dropout, heads, cross), dropout, forward)


class T5(nn.Module):  # type: ignore[misc]
    """The network of a config, its weights by their official names; queries are kept times sqrt(head_size)."""

    def __init__(self, config: ModelConfig, dropout: float, compiled: bool = False) -> None:
        super().__init__()
        self.description, self.config, self.dropout = describe_t5(config), config, dropout
        self.table = self.description.encoder.embedding.table
        inner, hidden = config.num_attention_heads * config.attention_head_size, config.hidden_size
        self.weights = nn.ParameterDict()
        add = self._add
        add(self.table, (config.vocab_size, hidden), 1.0)
        for stack in (self.description.encoder, self.description.decoder):
            for block in stack.blocks:
                for attention in block.attentions:
                    add(attention.norm.scale, (hidden,))
                    for kernel in (attention.query.kernel, attention.key.kernel, attention.value.kernel):
                        add(kernel, (hidden, inner), hidden**-0.5)
                    add(attention.output.kernel, (inner, hidden), inner**-0.5)
                    if attention.position_bias is not None and attention.position_bias.table not in self.weights:
                        bias = attention.position_bias
                        add(bias.table, (config.num_attention_heads, bias.num_buckets), hidden**-0.5)
                add(block.feed_forward.norm.scale, (hidden,))
                for branch in block.feed_forward.branches:
                    add(branch.linear.kernel, (hidden, config.intermediate_size), hidden**-0.5)
                wo = block.feed_forward.output.kernel
                add(wo, (config.intermediate_size, hidden), config.intermediate_size**-0.5)
            add(stack.norm.scale, (hidden,))
        torch._dynamo.config.recompile_limit = 64  # blocks are compiled for each shape
        self._encode = torch.compile(encoder_block, dynamic=False) if compiled else encoder_block
        self._decode = torch.compile(decoder_block, dynamic=False) if compiled else decoder_block

    def _add(self, name: str, shape: tuple[int, ...], deviation: float | None = None) -> None:
        values = torch.ones(shape) if deviation is None else torch.randn(shape) * deviation
        self.weights[name] = nn.Parameter(values)

    def _factor(self, name: str) -> float:
        return self.config.attention_head_size**0.5 if name.endswith("Attention/q") else 1.0

    def official(self) -> dict[str, Tensor]:
        """Return the weights as checkpoints have them."""
        return {name: (value.detach() / self._factor(name)).cpu() for name, value in self.weights.items()}

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def load(self, values: dict[str, Tensor]) -> None:
        """Take weights as checkpoints have them."""
        for name, parameter in self.weights.items():
            parameter.copy_(values[name].float() * self._factor(name))

    def _bias(self, stack: Stack[Any], length: int) -> Tensor:
        """Return the position bias of a stack for offsets within `length` tokens, float32 [heads, length, length]."""
        bias: RelativeBias = stack.blocks[0].self_attention.position_bias
        table = self.weights[bias.table]
        buckets = torch.from_numpy(bias.buckets()).long().to(table.device)
        positions = torch.arange(length, device=table.device)
        offsets = (positions[None] - positions[:, None]).clamp(-bias.max_distance, bias.max_distance)
        values = table[:, buckets[offsets + bias.max_distance]]
        return values if bias.bidirectional else values.masked_fill(offsets > 0, FAR_BELOW)

    def _block_weights(self, block: EncoderBlock | DecoderBlock) -> list[list[Tensor]]:
        names = [
            [each.norm.scale, *(linear.kernel for linear in (each.query, each.key, each.value, each.output))]
            for each in block.attentions
        ]
        forward = block.feed_forward
        names.append([forward.norm.scale, *(each.linear.kernel for each in forward.branches), forward.output.kernel])
        return [[self.weights[name] for name in each] for each in names]

    def encode(self, source: Tensor, training: bool = False) -> tuple[Tensor, Tensor]:
        """Token ids [batch, source_len] to the context [batch, source_len, hidden] and its mask; see `attend`."""
        dropout, heads = self.dropout if training else 0.0, self.config.num_attention_heads
        encoder = self.description.encoder
        mask = (source == 0)[:, None, None].float() * FAR_BELOW
        bias = self._bias(encoder, source.shape[1])
        x = functional.dropout(functional.embedding(source, self.weights[self.table]), dropout, training)
        for block in encoder.blocks:
            x = self._encode(x, bias, mask, dropout, heads, *self._block_weights(block))
        return functional.dropout(normalize(x, self.weights[encoder.norm.scale]), dropout, training), mask

    def decode(self, target: Tensor, context: Tensor, mask: Tensor, training: bool = False) -> Tensor:
        """Token ids [batch, target_len] to logits [batch, target_len, vocab_size]."""
        dropout, heads = self.dropout if training else 0.0, self.config.num_attention_heads
        decoder, table = self.description.decoder, self.weights[self.table]
        bias = self._bias(decoder, target.shape[1])
        x = functional.dropout(functional.embedding(target, table), dropout, training)
        for block in decoder.blocks:
            x = self._decode(x, context, bias, mask, dropout, heads, *self._block_weights(block))
        x = functional.dropout(normalize(x, self.weights[decoder.norm.scale]), dropout, training)
        return x * self.config.hidden_size**-0.5 @ table.to(COMPUTE).T

    def loss(self, source: Tensor, target: Tensor, smoothing: float = 0.0, training: bool = False) -> Tensor:
        """Return the mean cross-entropy of the target's tokens but the first, in nats."""
        logits = self.decode(target[:, :-1], *self.encode(source, training), training).flatten(0, 1).float()
        return functional.cross_entropy(logits, target[:, 1:].flatten(), ignore_index=0, label_smoothing=smoothing)

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def greedy(self, source: Tensor, start: int, length: int) -> Tensor:
        """Return the likeliest token at each step, ids [batch, length], the first `start`; nothing ends them."""
        context, mask = self.encode(source)
        ids = source.new_zeros((len(source), length))
        ids[:, 0] = start
        for step in range(length - 1):
            ids[:, step + 1] = self.decode(ids, context, mask)[:, step].argmax(-1)
        return ids


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
