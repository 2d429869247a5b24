"""Adapters in and out of folders, as Hugging Face's PEFT has them.

`adapter_config.json` has the settings, `adapter_model.safetensors` the weights, each as [outputs, inputs] under the
path of its module. `t5_pegasus.json` beside them, which PEFT does not read, names the base model, the hash of its
weights and the scores of the run. Nothing here loads TensorFlow.
"""

import dataclasses
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, OptionError, PegasusError
from ..files import atomic_folder
from .description import Description
from .lora import Adapter, Factors, LoraConfig, Module, Plan, check_shapes, list_modules, plan

CONFIG, WEIGHTS, RECORD = "adapter_config.json", "adapter_model.safetensors", "t5_pegasus.json"

_PREFIX = "base_model.model."
_MOST_BYTES = 2**20  # of a JSON file

# Kinds of adapters that are no LoRA, by PEFT's name.
_OTHER_KINDS = {
    "ADALORA": "AdaLoRA",
    "IA3": "IA3",
    "LOHA": "LoHa",
    "LOKR": "LoKr",
    "OFT": "OFT",
    "P_TUNING": "p-tuning",
    "PREFIX_TUNING": "prefix tuning",
    "PROMPT_TUNING": "prompt tuning",
    "VERA": "VeRA",
}
# Settings that would change what an adapter computes, and the only values that change nothing.
_PLAIN: dict[str, tuple[Any, ...]] = {
    "use_dora": (False,),
    "bias": ("none",),
    "lora_bias": (False,),
    "fan_in_fan_out": (False,),
    "use_qalora": (False,),
    "use_bdlora": (None, False),
    "alora_invocation_tokens": (None,),
    "arrow_config": (None,),
    "kasa_config": (None,),
    "layer_replication": (None,),
    "monteclora_config": (None,),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, [], {}),
    "velora_config": (None,),
    # Others of these change the weights of the base.
    "init_lora_weights": (True, False, "gaussian", "orthogonal", "eva"),
}
_NAMES = {"use_dora": "DoRA"}


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of an adapter beside its weights.

    base_model: its name. base_sha256: of the file of its weights (see `locations.weights_hash`); None if unknown.
    scores: of the epoch whose weights these are.
    """

    base_model: str | None = None
    base_sha256: str | None = None
    scores: Mapping[str, float] = dataclasses.field(default_factory=dict)


def is_adapter(folder: str | Path) -> bool:
    """Return whether a folder has an adapter's settings."""
    return (Path(folder) / CONFIG).is_file()


def write_adapter(folder: str | Path, adapter: Adapter, record: Record) -> None:
    """Write an adapter's folder, whole or not at all, in place of one that was there.

    Raises CheckpointError if it cannot be written, OptionError for a folder that holds anything else.
    """
    _require_safetensors()
    import safetensors.numpy

    config, tensors = adapter.plan.config, {}
    for module in adapter.plan.targets:
        a, b, _ = adapter.factors[module.weight]
        stem = f"{_PREFIX}{module.path}.lora"
        if module.kind == "embedding":
            tensors[f"{stem}_embedding_A"], tensors[f"{stem}_embedding_B"] = a.T, b.T
        else:
            tensors[f"{stem}_A.weight"], tensors[f"{stem}_B.weight"] = a.T, b.T
    for module in adapter.plan.saved:
        for ending, weight in (("weight", module.weight), ("bias", module.bias)):
            if weight is not None:
                tensors[f"{_PREFIX}{module.path}.{ending}"] = _turned(adapter.saved[weight], module, ending)
    settings = {
        "peft_type": "LORA",
        "task_type": "SEQ_2_SEQ_LM",
        "base_model_name_or_path": record.base_model,
        "r": config.r,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": config.lora_dropout,
        "target_modules": config.target_modules if isinstance(config.target_modules, str) else [*config.target_modules],
        "modules_to_save": [*config.modules_to_save] or None,
        "use_rslora": config.use_rslora,
        "rank_pattern": dict(config.rank_pattern),
        "alpha_pattern": dict(config.alpha_pattern),
        "bias": "none",
        "use_dora": False,
        "init_lora_weights": "gaussian",
        "inference_mode": True,
    }
    files = {CONFIG: settings, RECORD: dataclasses.asdict(record)}
    with atomic_folder(folder, check=_check_replaceable) as temporary:
        for name, values in files.items():
            (temporary / name).write_text(f"{json.dumps(values, indent=2, ensure_ascii=False)}\n", encoding="utf-8")
        data = {name: np.ascontiguousarray(value, np.float32) for name, value in tensors.items()}
        (temporary / WEIGHTS).write_bytes(safetensors.numpy.save(data, metadata={"format": "pt"}))


def _check_replaceable(folder: Path) -> None:
    if folder.exists() and not is_adapter(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise OptionError(f"the folder of an adapter must be an adapter's, empty or not exist, got {folder}")


def _turned(value: np.ndarray, module: Module, ending: str) -> np.ndarray:
    """Return a weight as the other side has it: linears are [outputs, inputs] there, [inputs, outputs] here."""
    return value.T if module.kind == "linear" and ending == "weight" and not module.transposed else value


def read_adapter(folder: str | Path, description: Description) -> Adapter:
    """Return the adapter of a folder that this package or PEFT wrote, for a network.

    Raises CheckpointError for a folder that is no adapter or of another network, OptionError for a kind of adapter that
    is not supported, PegasusError if the package safetensors is missing.
    """
    folder = Path(folder)
    config, names = _read_config(folder)
    modules = {module.path: module for module in list_modules(description)}
    pairs: dict[str, dict[str, np.ndarray]] = {}
    saved: dict[str, np.ndarray] = {}
    saved_modules: dict[str, Module] = {}
    for key, value in _read_tensors(folder / WEIGHTS).items():
        path, ending = _split(key)
        if ending == "base_layer.weight":  # a copy of the base's, which PEFT writes beside a head's adapter
            continue
        module = modules.get(path)
        if module is None:
            raise CheckpointError(
                f"the adapter {folder} is of another network: {path or key} is none of this one's modules"
            )
        if not np.isfinite(value).all():
            raise CheckpointError(f"the adapter {folder} has values that are not finite in {key}")
        if ending in ("A", "B"):
            pairs.setdefault(path, {})[ending] = value.astype(np.float32).T
            continue
        weight = module.weight if ending == "weight" else module.bias
        if weight is None:
            raise CheckpointError(f"the adapter {folder} is of another network: {path} has no {ending} here")
        saved[weight] = _turned(value.astype(np.float32), module, ending)
        saved_modules[path] = module
    factors = {}
    for path, pair in pairs.items():
        if set(pair) != {"A", "B"}:
            raise CheckpointError(f"the adapter {folder} has half of {path}: it lacks lora_{'AB'['A' in pair]}")
        rank = pair["A"].shape[1]
        if rank != config.rank(path):
            raise CheckpointError(f"the adapter {folder} has r {rank} for {path}, {CONFIG} says {config.rank(path)}")
        factors[modules[path].weight] = Factors(pair["A"], pair["B"], config.scale(path, rank))
    if not factors:
        raise CheckpointError(f"the adapter {folder} has no LoRA in it")
    missing = [name for name in names if not any(_is_named(path, name) for path in saved_modules)]
    if missing:
        raise CheckpointError(f"the adapter {folder} lacks the weights of modules_to_save {', '.join(missing)}")
    head, embedding = description.head.linear.kernel, description.encoder.embedding.table
    if head == embedding and embedding in (*factors, *saved):
        raise CheckpointError(
            f"the adapter {folder} changes the head or the embedding alone, which are one matrix in this network"
        )
    targets = tuple(modules[path] for path in pairs)
    if not _means(description, config, set(pairs)):
        config = dataclasses.replace(config, target_modules=tuple(pairs))
    adapter = Adapter(Plan(config, targets, tuple(saved_modules.values())), factors, saved)
    check_shapes(description, adapter, str(folder))
    return adapter


def read_record(folder: str | Path) -> Record:
    """Return what is known of an adapter's base and scores: of one that PEFT wrote, the name of the base at most."""
    values = _read_json(Path(folder) / RECORD) if (Path(folder) / RECORD).is_file() else {}
    if not values:
        return Record(base_model=_read_json(Path(folder) / CONFIG).get("base_model_name_or_path"))
    return Record(values.get("base_model"), values.get("base_sha256"), values.get("scores") or {})


def check_base(folder: str | Path, sha256: str | None) -> None:
    """Raise CheckpointError if an adapter was trained on weights with another hash; None is unknown: not compared."""
    record = read_record(folder)
    if sha256 is not None and record.base_sha256 is not None and sha256 != record.base_sha256:
        raise CheckpointError(
            f"the adapter {folder} was trained on other weights, of {record.base_model} (SHA-256 "
            f"{record.base_sha256[:12]}…, not {sha256[:12]}…); give that model, or --ignore_base_hash"
        )


def _means(description: Description, config: LoraConfig, paths: set[str]) -> bool:
    """Return whether a config names just these modules here; PEFT has ways to name them that `LoraConfig` has not."""
    try:
        return {module.path for module in plan(description, config).targets} == paths
    except OptionError:
        return False


def _is_named(path: str, name: str) -> bool:
    return path == name or path.endswith(f".{name}")


def _split(key: str) -> tuple[str, str]:
    """Return the path of the module of a key, and which weight it is: "A", "B", "weight", "bias"."""
    name = key.removeprefix(_PREFIX)
    match = re.fullmatch(r"(.+?)\.(?:lora_(?:embedding_)?(A|B)(?:\.weight)?|(base_layer\.weight|weight|bias))", name)
    return (match[1], match[2] or match[3]) if match else ("", "")


def _read_config(folder: Path) -> tuple[LoraConfig, tuple[str, ...]]:
    """Return the settings of an adapter, and the names of the modules that it has whole."""
    values = _read_json(folder / CONFIG)
    kind = values.get("peft_type")
    if kind != "LORA":
        raise OptionError(f"adapters must be LoRA, got {_OTHER_KINDS.get(str(kind), kind)} in {folder}")
    for name, plain in _PLAIN.items():
        value = values.get(name, plain[0])
        if not any(value is each or (value == each and type(value) is type(each)) for each in plain):
            raise OptionError(f"{_NAMES.get(name, name)} is not supported, got {name} {value} in {folder}")
    fields = {field.name: values.get(field.name) for field in dataclasses.fields(LoraConfig)}
    given = {name: value for name, value in fields.items() if value is not None}
    for name in ("target_modules", "modules_to_save"):
        if isinstance(given.get(name), list):
            given[name] = tuple(map(str, given[name]))
    try:
        config = LoraConfig(**given)
    except (TypeError, AttributeError) as error:
        raise CheckpointError(f"{folder / CONFIG} is malformed: {error}") from error
    except OptionError as error:
        raise OptionError(f"{folder / CONFIG}: {error}") from error
    return config, config.modules_to_save


def _read_json(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            values = json.loads(file.read(_MOST_BYTES))
    except OSError as error:
        raise CheckpointError(
            f"cannot read {path}: {error.strerror}; an adapter's folder holds {CONFIG} and {WEIGHTS}"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not valid JSON: {error}") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} must hold a JSON object, got {type(values).__name__}")
    return values


def _read_tensors(path: Path) -> dict[str, np.ndarray]:
    _require_safetensors()
    import safetensors
    import safetensors.numpy

    if not path.is_file():
        hint = ""
        if path.with_suffix(".bin").is_file():
            hint = f"; {path.with_suffix('.bin').name} is a pickle, which is not read: save it with PEFT as safetensors"
        raise CheckpointError(f"no {path.name} in {path.parent}{hint}")
    try:
        tensors: dict[str, np.ndarray] = safetensors.numpy.load_file(path)
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read, it may be damaged or cut off: {error}") from error
    return tensors


def _require_safetensors() -> None:
    if importlib.util.find_spec("safetensors") is None:
        raise PegasusError("adapters need the package safetensors: install it with `pip install safetensors`")
