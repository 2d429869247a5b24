"""Our own models: any directory, weights, engine and generation options that `AutoTitle.load` takes."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..config import GenerationConfig
from ..decoding.options import DataConfig
from ..decoding.rerank import RerankConfig
from ..engines.choice import check_model
from ..engines.exported import is_exported
from ..engines.options import LoadConfig
from ..errors import OptionError
from ..locations import ROOT, Weights, choose_model_dir, fine_tuned_weights
from ..text.prompts import PROMPT_FILE
from .protocol import LocalSystem, Text, Written
from .spec import Spec, check_known, converted

if TYPE_CHECKING:
    from ..title import AutoTitle

_NOT_OPTIONS = ("model_dir",)  # the target
_CHANGES_NO_TITLE = ("batch_tokens",)


class Ours(LocalSystem):
    """A model of ours; it is loaded when the first titles are asked for.

    Args:
        spec: its target is a model directory, or the name of one of this repository with or without
            "chinese_t5_pegasus_"; options are those of `test.py`.

    Raises OptionError for a directory that holds no model or an option that cannot be, CheckpointError for weights that
    are missing or damaged: before other systems have worked for an hour.
    """

    def __init__(self, spec: Spec) -> None:
        check_known(spec.options, LoadConfig, DataConfig, GenerationConfig, RerankConfig)
        for name in _NOT_OPTIONS:
            if name in spec.options:
                raise OptionError(f"{name} is the target of a system: title:{spec.options[name]}")
        self._model_dir = choose_model_dir(find_model_dir(spec.target) if spec.target else None)
        self._load = LoadConfig(**converted(LoadConfig, spec.options))
        self._data = DataConfig(**converted(DataConfig, spec.options))
        self._generation = GenerationConfig.of_model(self._model_dir, **converted(GenerationConfig, spec.options))
        self._reranking = RerankConfig(**converted(RerankConfig, spec.options))
        self._reranking.check(self._generation)
        # With an adapter the weights are the pretrained ones, unless others are named.
        usual = Weights.PRETRAINED if self._load.adapter and not is_exported(self._model_dir) else None
        check_model(self._model_dir, self._load.weights or usual, self._load.engine, self._load.run_dir)
        self._title: AutoTitle | None = None

    def identity(self) -> dict[str, Any]:
        """Return the hashes of all files that the titles depend on, and the options, defaults of the model included."""
        load = self._load
        weights = load.weights or (None if load.adapter else fine_tuned_weights(self._model_dir, load.run_dir))
        paths = [self._model_dir, *(Path(each) for each in (weights, load.user_dict, load.adapter) if each)]
        if weights and (prompt := Path(weights).parent / PROMPT_FILE).is_file():
            paths.append(prompt)
        generation = dataclasses.asdict(self._generation)
        return {
            "kind": "title",
            "files": [files_hash(path) for path in paths],
            "engine": load.engine,
            "data": dataclasses.asdict(self._data),
            "rerank": self._reranking.rerank,
            "generation": {name: value for name, value in generation.items() if name not in _CHANGES_NO_TITLE},
        }

    def write(self, texts: Sequence[Text], start: int) -> list[Written]:
        """Return the title that decoding finds for each text."""
        from ..title import AutoTitle, rerank_answers  # late: comparing files and rules needs no model

        if self._title is None:
            self._title = AutoTitle.load(*self._load.arguments(self._model_dir))
        answers = self._title.iterate([text.content for text in texts], self._generation, self._data)
        kept = rerank_answers(answers, self._reranking, self._generation)
        return [Written(answer.titles[0].text) for answer in kept]


def find_model_dir(target: str) -> Path:
    """Return the directory that a target names: a path, or a model of this repository by its name or its last part."""
    candidates = (Path(target), ROOT / target, ROOT / f"chinese_t5_pegasus_{target}")
    return next((path for path in candidates if path.is_dir()), Path(target))


def files_hash(path: Path) -> str:
    """Return a hash of a file, of the files with this prefix, or of the files of a folder and their names.

    Folders in a folder are left out, but for those of exported models: they hold what is made of the files.
    """
    digest = hashlib.sha256()
    for each in _files(path):
        digest.update(os.fsencode(each.name))
        with each.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        folders = [path, *(path / name for name in ("exported",) if (path / name).is_dir())]
        return sorted(each for folder in folders for each in folder.iterdir() if each.is_file())
    if path.is_file():
        return [path]
    return sorted(each for each in path.parent.glob(f"{path.name}.*") if each.is_file())  # a TensorFlow checkpoint
