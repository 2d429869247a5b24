"""The options of loading a model: where it is, which weights are meant, and which engine runs it."""

import dataclasses
from pathlib import Path
from typing import Any

from ..config import GENERATION_FILE, check_choices, option
from ..locations import FINE_TUNED, PRETRAINED
from ..text.prompts import PROMPT_FILE
from .choice import ENGINES
from .exported import FILES


@dataclasses.dataclass(frozen=True)
class LoadConfig:
    """Which model writes titles: the arguments of `AutoTitle.load`."""

    model_dir: str | None = option(None, "config.json and vocab.txt; the base or the tiny model if not given")
    weights: str | None = option(None, "weights to use; found in run_dir or model_dir if not given")
    run_dir: str = option(
        ".",
        "folder that finetune.py wrote to (its --output_dir), where best_model.weights is looked for first",
        aliases=("output_dir",),
    )
    engine: str = option(
        "auto",
        "what runs the model: only speed differs, but an int8 export may change a title",
        choices=("auto", *ENGINES),
    )
    user_dict: str | None = option(None, "jieba user dictionary that the model was trained with")
    adapter: str | None = option(None, "folder of a LoRA adapter to write with, such as finetune.py's best_adapter")
    ignore_base_hash: bool = option(False, "take an adapter of other weights that has the model's shapes")

    def __post_init__(self) -> None:
        """Raise OptionError for an engine that there is not."""
        check_choices(self)

    def arguments(self, model_dir: str | Path) -> tuple[Any, ...]:
        """Return the arguments of `AutoTitle.load`, in its order, for the model directory that was chosen."""
        return (
            *(model_dir, self.weights, self.engine, self.user_dict, self.run_dir),
            *(self.adapter, self.ignore_base_hash),
        )

    def files(self, model_dir: str | Path) -> dict[str, str | list[Path] | None]:
        """Return what loading a model directory reads, by the names of options: none of it may be an output."""
        names = (*FILES, GENERATION_FILE, PROMPT_FILE, FINE_TUNED, *PRETRAINED)
        of_model = [Path(model_dir) / name for name in names]
        return {"model": of_model, "weights": self.weights, "user_dict": self.user_dict}
