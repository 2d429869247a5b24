"""The options of a comparison."""

import dataclasses

from ..config import MOST_SEED, option, require_at_least, require_between, require_only_with

MOST_RESAMPLES = 1_000_000


@dataclasses.dataclass(frozen=True)
class CompareConfig:
    """How systems are compared, and where the report goes."""

    output_dir: str = option("report", "folder of the report; titles are kept in its folder titles/")
    group_by: str | None = option(None, "column of the data, such as a topic, for scores of each of its values")
    resamples: int = option(10_000, "resamples of each statistical test")
    comparison_seed: int = option(12345, "of the tests; the same seed gives the same numbers")

    encoder_dir: str | None = option(
        None, "a BERT in Google's format, for BERTScore: bert_config.json, bert_model.ckpt, vocab.txt"
    )
    encoder_layer: int | None = option(None, "its layer that is compared; two thirds of the way up if not given")

    def __post_init__(self) -> None:
        """Raise OptionError for a number out of range."""
        require_between(self, 100, MOST_RESAMPLES, "resamples")
        require_at_least(self, 0, "comparison_seed")
        require_between(self, 0, MOST_SEED, "comparison_seed")
        require_only_with(self, self.encoder_dir is not None, "encoder_dir", "encoder_layer")
