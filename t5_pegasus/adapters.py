"""LoRA adapters as files: `python -m t5_pegasus.adapters merge --model_dir … --adapter best_adapter --output_dir …`."""

import argparse
import dataclasses
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import safetensors.numpy

from . import cli
from .config import ModelConfig
from .errors import OptionError
from .files import atomic_folder, check_new_folder
from .locations import Weights, choose_model_dir, find_weights, pretrained_weights, weight_files, weights_hash
from .networks.adapter_files import check_base, read_adapter, read_record
from .networks.architectures import describe
from .networks.description import Description
from .networks.hugging_face import ARCHITECTURES, is_hugging_face, settle_head, with_our_names
from .networks.lora import Adapter, count_parameters
from .networks.tensor_files import INDEX_SUFFIX, READERS, open_tensors

_MOST_BYTES = 64 * 2**20  # of a file beside the weights that comes along, such as a vocabulary


def main(argv: Sequence[str] | None = None) -> int:
    """Do what the first word says."""
    parser = cli.make_parser("LoRA adapters: merge one into the weights of its model, or show what it is.")
    parser.add_argument(
        "action",
        choices=tuple(ACTIONS),
        help="merge writes a model with the adapter in its weights; show prints what it is made of",
    )
    parser.add_argument("--adapter", required=True, help="folder of the adapter")
    parser.add_argument("--model_dir", help="model that it was trained with; the base or the tiny model if not given")
    parser.add_argument("--weights", help="weights that it was trained with; the pretrained ones if not given")
    parser.add_argument("--output_dir", help="merge: model directory to write; must not hold anything")
    parser.add_argument("--ignore_base_hash", action="store_true", help="take an adapter of other weights")
    flags = parser.parse_args(argv)
    return ACTIONS[flags.action](flags)


def merge(flags: argparse.Namespace) -> int:
    """Write a model directory with the adapter in its weights."""
    if flags.output_dir is None:
        raise OptionError("merge needs --output_dir, the model directory to write, got None")
    output_dir = Path(flags.output_dir)
    check_new_folder(output_dir)
    model_dir = choose_model_dir(flags.model_dir)
    weights = find_weights(model_dir, flags.weights or Weights.PRETRAINED)
    if not flags.ignore_base_hash:
        check_base(flags.adapter, weights_hash(weights))

    adapter = read_adapter(flags.adapter, _description(model_dir, weights))
    with atomic_folder(output_dir) as folder:
        for path in model_dir.iterdir():
            if path.is_file() and path not in weight_files(weights) and path.stat().st_size < _MOST_BYTES:
                shutil.copyfile(path, folder / path.name)
        _write_merged(model_dir, weights, adapter, folder / "model.safetensors")
    print(f"merged {flags.adapter} into {weights}: {output_dir}/ is a model directory", file=sys.stderr)
    return 0


def _description(model_dir: Path, weights: Path) -> Description:
    return describe(settle_head(ModelConfig.load(model_dir), pretrained_weights(model_dir), weights))


def _write_merged(model_dir: Path, weights: Path, adapter: Adapter, path: Path) -> None:
    """Write the weights with the adapter in them, under the names that their file has."""
    if weights.name.endswith((INDEX_SUFFIX, *READERS)) and is_hugging_face(tensors := dict(open_tensors(weights))):
        config = ModelConfig.load(model_dir)
        names = dict(ARCHITECTURES[config.model_type].names(config))
        matrices = {each.weight for each in (*adapter.plan.targets, *adapter.plan.saved) if each.kind == "linear"}
        for name, value in adapter.merged(with_our_names(tensors, config)).items():
            # Hugging Face has matrices as [outputs, inputs].
            tensors[names[name]] = np.ascontiguousarray(value.T if name in matrices else value)
        path.write_bytes(safetensors.numpy.save(tensors, metadata={"format": "pt"}))
        return
    from .networks.checkpoints import save_weights  # late, since TensorFlow takes seconds
    from .networks.lora_layers import merge as add_to_weights
    from .networks.t5 import build_model

    t5 = build_model(model_dir, weights)
    add_to_weights(t5, adapter)
    save_weights(t5, path)


def show(flags: argparse.Namespace) -> int:
    """Print what an adapter is made of and where it comes from, as JSON."""
    model_dir = choose_model_dir(flags.model_dir)
    description = _description(model_dir, find_weights(model_dir, flags.weights or Weights.PRETRAINED))
    adapter, record = read_adapter(flags.adapter, description), read_record(flags.adapter)
    count = count_parameters(description, adapter.plan)
    values = {**dataclasses.asdict(adapter.plan.config), **dataclasses.asdict(record), **count._asdict()}
    print(json.dumps(values, indent=2, ensure_ascii=False))
    return 0


ACTIONS: dict[str, Callable[[argparse.Namespace], int]] = {"merge": merge, "show": show}

if __name__ == "__main__":
    cli.run(main)
