"""The options of loading a model: where it is, which weights are meant, and which engine runs it."""

import dataclasses

from ..config import check_choices, option
from .choice import ENGINES


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

    def __post_init__(self) -> None:
        """Raise OptionError for an engine that there is not."""
        check_choices(self)
