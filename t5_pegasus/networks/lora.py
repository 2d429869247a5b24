"""LoRA (https://arxiv.org/abs/2106.09685) over the description of a network: which projections learn, and what of them.

A projection `x @ kernel` becomes `x @ kernel + scale * (x @ a) @ b` with small `a` [inputs, r] and `b` [r, outputs];
the kernel itself is frozen. Modules have the paths that Hugging Face's PEFT knows them by, so that its files are ours.
Nothing here loads TensorFlow.
"""

import dataclasses
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from ..config import require, require_at_least, require_finite, require_positive, require_share
from ..errors import CheckpointError, OptionError
from .description import Attention, Description, FeedForward, Linear, Norm, Stack

ALL_LINEAR = "all-linear"  # every projection but the head


class Module(NamedTuple):
    """A module of a network by its path in Hugging Face's model, with the names of its weights in the description.

    kind: "linear", "embedding", "norm" or "table" (of position biases). inputs, outputs: of a linear or an embedding.
    transposed: the weight of a linear is [outputs, inputs]. factor: what an engine multiplies the product by.
    """

    path: str
    kind: str
    weight: str
    bias: str | None = None
    inputs: int = 0
    outputs: int = 0
    transposed: bool = False
    factor: float = 1.0

    @property
    def name(self) -> str:
        """Return the last part of the path, by which adapters target modules."""
        return self.path.rpartition(".")[2]


@dataclasses.dataclass(frozen=True)
class _Paths:
    """How a family of networks is spelled in Hugging Face's models; `{}` is the number of a block."""

    shared: str
    positions: str
    blocks: Mapping[str, str]  # of the encoder and the decoder
    self_attention: str
    cross_attention: str
    projections: tuple[str, str, str, str]  # of attention: query, key, value, output
    norms: Mapping[str, tuple[str, ...]]  # of the layers of an encoder's and a decoder's block, the last feed-forward's
    feed_forward: Mapping[str, str]
    branches: Mapping[int, tuple[str, ...]]  # by their number
    output: str
    last_norm: Mapping[str, str]


_T5 = _Paths(
    shared="shared",
    positions="",
    blocks={"encoder": "encoder.block.{}", "decoder": "decoder.block.{}"},
    self_attention="layer.0.SelfAttention",
    cross_attention="layer.1.EncDecAttention",
    projections=("q", "k", "v", "o"),
    norms={
        "encoder": ("layer.0.layer_norm", "layer.1.layer_norm"),
        "decoder": ("layer.0.layer_norm", "layer.1.layer_norm", "layer.2.layer_norm"),
    },
    feed_forward={"encoder": "layer.1.DenseReluDense.", "decoder": "layer.2.DenseReluDense."},
    branches={1: ("wi",), 2: ("wi_0", "wi_1")},
    output="wo",
    last_norm={"encoder": "encoder.final_layer_norm", "decoder": "decoder.final_layer_norm"},
)
_PEGASUS = _Paths(
    shared="model.shared",
    positions="model.{}.embed_positions",
    blocks={"encoder": "model.encoder.layers.{}", "decoder": "model.decoder.layers.{}"},
    self_attention="self_attn",
    cross_attention="encoder_attn",
    projections=("q_proj", "k_proj", "v_proj", "out_proj"),
    norms={
        "encoder": ("self_attn_layer_norm", "final_layer_norm"),
        "decoder": ("self_attn_layer_norm", "encoder_attn_layer_norm", "final_layer_norm"),
    },
    feed_forward={"encoder": "", "decoder": ""},
    branches={1: ("fc1",)},
    output="fc2",
    last_norm={"encoder": "model.encoder.layer_norm", "decoder": "model.decoder.layer_norm"},
)
HEAD = "lm_head"

# Names of targets that every network understands, in its own.
_COMMON_NAMES = {
    _T5.shared: {"embedding": "shared", "head": HEAD},
    _PEGASUS.shared: {
        **{"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "out_proj", "wi": "fc1", "wo": "fc2"},
        **{"embedding": "shared", "head": HEAD},
    },
}


def _paths_of(description: Description) -> _Paths:
    return _PEGASUS if description.encoder.norm.centered else _T5


def list_modules(description: Description) -> list[Module]:
    """Return the modules of a network that have weights, those that are one weight in several places once."""
    found: dict[str, Module] = {}
    for module in _modules(description, _paths_of(description)):
        found.setdefault(module.path, module)
    return list(found.values())


def _modules(description: Description, paths: _Paths) -> Iterator[Module]:
    hidden, inner = description.hidden_size, description.num_heads * description.head_size

    def norm(path: str, norm: Norm) -> Module:
        return Module(path, "norm", norm.scale, norm.bias)

    def linear(path: str, linear: Linear, inputs: int, outputs: int, factor: float = 1.0) -> Module:
        return Module(path, "linear", linear.kernel, linear.bias, inputs, outputs, linear.transposed, factor)

    def attention_modules(path: str, attention: Attention) -> Iterator[Module]:
        query, key, value, output = (f"{path}.{name}" for name in paths.projections)
        yield linear(query, attention.query, hidden, inner, attention.scale)
        yield linear(key, attention.key, hidden, inner)
        yield linear(value, attention.value, hidden, inner)
        yield linear(output, attention.output, inner, hidden)

    def feed_forward_modules(path: str, layer: FeedForward) -> Iterator[Module]:
        for name, branch in zip(paths.branches[len(layer.branches)], layer.branches, strict=True):
            yield linear(path + name, branch.linear, hidden, description.intermediate_size)
        yield linear(path + paths.output, layer.output, description.intermediate_size, hidden)

    table = description.encoder.embedding.table
    yield Module(paths.shared, "embedding", table, None, description.vocab_size, hidden)
    for kind in ("encoder", "decoder"):
        stack: Stack[Any] = description.encoder if kind == "encoder" else description.decoder
        if stack.embedding.positions is not None:
            yield Module(paths.positions.format(kind), "table", stack.embedding.positions)
        for number, block in enumerate(stack.blocks):
            prefix = paths.blocks[kind].format(number)
            layers = [*block.attentions, block.feed_forward]
            for name, layer in zip(paths.norms[kind], layers, strict=True):
                yield norm(f"{prefix}.{name}", layer.norm)
            for name, attention in zip((paths.self_attention, paths.cross_attention), block.attentions, strict=False):
                yield from attention_modules(f"{prefix}.{name}", attention)
            bias = block.self_attention.position_bias
            if bias is not None and number == 0:
                yield Module(f"{prefix}.{paths.self_attention}.relative_attention_bias", "table", bias.table)
            yield from feed_forward_modules(f"{prefix}.{paths.feed_forward[kind]}", block.feed_forward)
        yield norm(paths.last_norm[kind], stack.norm)
    head = description.head.linear
    # Its bias is no weight of a module in Hugging Face's models, but a constant.
    yield Module(HEAD, "linear", head.kernel, None, hidden, description.vocab_size, head.transposed)


@dataclasses.dataclass(frozen=True)
class LoraConfig:
    """What an adapter is made of, under PEFT's names: adapter_config.json has these fields.

    target_modules: names that end the paths of modules, or one regular expression of whole paths, or "all-linear".
    modules_to_save: names of modules that are trained whole.
    rank_pattern, alpha_pattern: other values for modules whose path ends in what the regular expression matches.
    """

    r: int = 8
    lora_alpha: float = 8
    lora_dropout: float = 0.0
    target_modules: tuple[str, ...] | str = ("q", "v")
    modules_to_save: tuple[str, ...] = ()
    use_rslora: bool = False
    rank_pattern: Mapping[str, int] = dataclasses.field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raise OptionError for a value that no adapter can have."""
        require_at_least(self, 1, "r")
        require_finite(self, "lora_alpha")
        require_positive(self, "lora_alpha")
        require_share(self, "lora_dropout")
        require(all(rank >= 1 for rank in self.rank_pattern.values()), "rank_pattern must have ranks", "one below 1")
        for name in (*self.rank_pattern, *self.alpha_pattern):
            _compile(name)
        if isinstance(self.target_modules, str) and self.target_modules != ALL_LINEAR:
            _compile(self.target_modules)

    def rank(self, path: str) -> int:
        """Return r of a module."""
        return self.rank_pattern.get(_matching(self.rank_pattern, path), self.r)

    def scale(self, path: str, rank: int) -> float:
        """Return the factor of a module's product: alpha / r, or alpha / √r (https://arxiv.org/abs/2312.03732)."""
        alpha = self.alpha_pattern.get(_matching(self.alpha_pattern, path), self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


def _compile(pattern: str) -> None:
    try:
        re.compile(pattern)
    except re.error as error:
        raise OptionError(f"patterns of modules must be regular expressions, got {pattern}: {error}") from error


def _matching(patterns: Mapping[str, object], path: str) -> str:
    return next((pattern for pattern in patterns if re.match(rf"(.*\.)?({pattern})$", path)), "")


@dataclasses.dataclass(frozen=True)
class Plan:
    """Which modules of a network an adapter changes: by a product of low rank, and whole."""

    config: LoraConfig
    targets: tuple[Module, ...]
    saved: tuple[Module, ...]


def plan(description: Description, config: LoraConfig) -> Plan:
    """Return which modules of a network a config means; the plan's config has the network's own names of them.

    Raises OptionError for a name that no module has, for a head or embedding that is the other one's matrix, and if
    nothing would learn.
    """
    modules = list_modules(description)
    names = _COMMON_NAMES[_paths_of(description).shared]
    wanted = config.target_modules
    if not isinstance(wanted, str):
        wanted = tuple(names.get(name, name) for name in wanted)
    saved_names = tuple(names.get(name, name) for name in config.modules_to_save)
    saved = tuple(module for module in modules if _ends_in(module.path, saved_names))
    learnable = [module for module in modules if module.kind in ("linear", "embedding") and module not in saved]
    if wanted == ALL_LINEAR:
        targets = [module for module in learnable if module.kind == "linear" and module.path != HEAD]
        wanted = tuple(dict.fromkeys(module.name for module in targets))
    elif isinstance(wanted, str):
        targets = [module for module in learnable if re.fullmatch(wanted, module.path)]
    else:
        targets = [module for module in learnable if _ends_in(module.path, wanted)]
        for name in wanted:
            require(
                any(_ends_in(module.path, (name,)) for module in targets),
                f"lora_target_modules must be among {', '.join(_target_names(modules, names))}, {ALL_LINEAR}",
                name,
            )
    for name in saved_names:
        known = ", ".join(dict.fromkeys(module.name for module in modules))
        require(any(_ends_in(module.path, (name,)) for module in saved), f"modules_to_save must be among {known}", name)
    require(targets, "lora_target_modules must name a projection", config.target_modules)
    if description.head.linear.kernel == description.encoder.embedding.table:
        tied = [module.path for module in (*targets, *saved) if module.path == HEAD or module.kind == "embedding"]
        require(not tied, "the head of this network is its embedding: neither can change alone", ", ".join(tied))
    config = dataclasses.replace(config, target_modules=wanted, modules_to_save=saved_names)
    return Plan(config, tuple(targets), saved)


def _ends_in(path: str, names: tuple[str, ...]) -> bool:
    return any(path == name or path.endswith(f".{name}") for name in names)


def _target_names(modules: list[Module], names: Mapping[str, str]) -> list[str]:
    own = (module.name for module in modules if module.kind in ("linear", "embedding"))
    return list(dict.fromkeys((*own, *names)))


class Count(NamedTuple):
    """The numbers of weights that are trained, and of all with the adapter's: PEFT's arithmetic."""

    trainable: int
    total: int

    def __str__(self) -> str:
        """Return the line that a training prints."""
        share = 100 * self.trainable / self.total
        return f"trainable parameters: {self.trainable:,} || all: {self.total:,} || {share:.4f} %"


def count_parameters(description: Description, plan: Plan) -> Count:
    """Return how many weights an adapter trains; no weights are needed. Modules that are saved count as copies."""
    shapes = description.weight_shapes()
    trainable = sum(plan.config.rank(module.path) * (module.inputs + module.outputs) for module in plan.targets)
    for module in plan.saved:
        trainable += sum(math.prod(shapes[name]) for name in (module.weight, module.bias) if name is not None)
    return Count(trainable, trainable + sum(map(math.prod, shapes.values())))


class Factors(NamedTuple):
    """What a module's product of low rank is made of: `scale * (x @ a) @ b`.

    a: float32 [inputs, r]; rows of an embedding by token. b: float32 [r, outputs]. Both are arrays, or TensorFlow's
    variables in a model that is trained.
    """

    a: Any
    b: Any
    scale: float


@dataclasses.dataclass(frozen=True)
class Adapter:
    """A trained adapter.

    plan: of the network that it belongs to.
    factors: by the names of weights in the description.
    saved: the weights that were trained whole, by the same names, as the description has them.
    """

    plan: Plan
    factors: Mapping[str, Factors]
    saved: Mapping[str, np.ndarray]

    def merged(self, weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Return the weights that the adapter changes, float32, as they are with it; `weights` are the base's."""
        changed = {}
        for module in self.plan.targets:
            a, b, scale = self.factors[module.weight]
            delta = (a @ b) * np.float32(scale)
            changed[module.weight] = weights[module.weight] + (delta.T if module.transposed else delta)
        return {**changed, **self.saved}


def check_shapes(description: Description, adapter: Adapter, name: str) -> None:
    """Raise CheckpointError if an adapter is of another network; `name` is the adapter's, for the error."""
    shapes = description.weight_shapes()
    for module in adapter.plan.targets:
        a, b, _ = adapter.factors[module.weight]
        if a.shape[0] != module.inputs or b.shape[1] != module.outputs or a.shape[1] != b.shape[0]:
            raise CheckpointError(
                f"the adapter {name} is of another network: {module.path} is {module.inputs} to {module.outputs} wide "
                f"here, {a.shape[0]} to {b.shape[1]} there"
            )
    for weight, value in adapter.saved.items():
        if value.shape != shapes[weight]:
            raise CheckpointError(
                f"the adapter {name} is of another network: {weight} is {shapes[weight]} here, {value.shape} there"
            )
