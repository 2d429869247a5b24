"""AutoTitle: texts in, titles out. The one object most users hold."""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import tqdm

from .batching import budget_batches
from .config import DataConfig, GenerationConfig
from .errors import OptionError
from .locations import find_weights, is_exported
from .search import BatchDecoder
from .tokenizer import PegasusTokenizer


class Hypothesis(NamedTuple):
    """A title, its score (see GenerationConfig) and its token ids, without [CLS], with [SEP] if it came to an end."""

    text: str
    score: float
    ids: tuple[int, ...]


def _reference(t5: Any, tokenizer: PegasusTokenizer) -> Any:
    from .reference import ReferenceDecoder

    return ReferenceDecoder(t5, tokenizer.start_id, tokenizer.end_id)


def _keras(t5: Any, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .engines.keras import KerasEngine

    return BatchDecoder(KerasEngine(t5), tokenizer.start_id, tokenizer.end_id)


def _onnx(t5: Any, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .export import export_model

    with tempfile.TemporaryDirectory() as folder:
        export_model(t5, tokenizer.vocab_file, Path(folder) / "model")
        return _exported(Path(folder) / "model", tokenizer)


def _exported(model_dir: Path, tokenizer: PegasusTokenizer) -> BatchDecoder:
    from .engines.onnx import OnnxEngine

    return BatchDecoder(OnnxEngine(model_dir), tokenizer.start_id, tokenizer.end_id)


# What finds the titles of a model in memory: something with `search_batch(sources, config)`. The packages behind a row
# are imported when it is chosen: an exported model needs no TensorFlow.
ENGINES: dict[str, Callable[[Any, PegasusTokenizer], Any]] = {
    "keras": _keras,
    "onnx": _onnx,
    "reference": _reference,
}


def _check_engine(engine: str) -> None:
    if engine not in ("auto", *ENGINES):
        raise OptionError(f"engine must be one of auto, {', '.join(ENGINES)}, got {engine}")


# Texts that are sorted by length and decoded before the first of them is handed out.
_TEXTS_AT_A_TIME = 256


class AutoTitle:
    """Writes titles with a model in memory.

    Args:
        t5: a bert4keras T5 object, as `build_model` returns it.
        tokenizer: of the model's vocabulary.
        engine: a row of ENGINES; "auto" is keras.

    Example:
        >>> title = AutoTitle.load("chinese_t5_pegasus_tiny")
        >>> title.generate("本文提出一种……", num_beams=4)
        '一种……方法'
    """

    def __init__(self, t5: Any, tokenizer: PegasusTokenizer, engine: str = "auto") -> None:
        _check_engine(engine)
        self._set_up(ENGINES["keras" if engine == "auto" else engine](t5, tokenizer), tokenizer)

    def _set_up(self, decoder: Any, tokenizer: PegasusTokenizer) -> None:
        self.decoder, self.tokenizer = decoder, tokenizer

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        weights: str | Path | None = None,
        engine: str = "auto",
        user_dict: str | Path | None = None,
        output_dir: str | Path = ".",
    ) -> Self:
        """Load from a model directory.

        Args:
            model_dir: holds config.json, vocab.txt and perhaps weights; or an exported model (see `export`), which is
                run by ONNX Runtime without TensorFlow.
            weights: a weights file; None takes `best_model.weights` of `output_dir` or the model directory, or the
                pretrained weights there (see `locations.find_weights`).
            engine: a row of ENGINES; "auto" is onnx for an exported model, else keras.
            user_dict: jieba user dictionary (see PegasusTokenizer).
            output_dir: where `finetune.py` wrote to.

        Raises CheckpointError where there are no weights or they do not fit, DataError for a malformed directory,
        OptionError for an engine that the directory is not for.
        """
        _check_engine(engine)  # here too, since a model takes seconds to build
        model_dir = Path(model_dir)
        tokenizer = PegasusTokenizer(model_dir / "vocab.txt", user_dict)
        if is_exported(model_dir):
            if weights is not None or engine not in ("auto", "onnx"):
                raise OptionError(f"{model_dir} is an exported model: give no weights, and engine auto or onnx")
            title = cls.__new__(cls)
            title._set_up(_exported(model_dir, tokenizer), tokenizer)
            return title
        weights = find_weights(model_dir, weights, output_dir)
        from .model import build_model

        return cls(build_model(model_dir, weights), tokenizer, engine)

    @overload
    def generate(self, text: str, topk: int = 1, **generation: Any) -> str: ...
    @overload
    def generate(self, text: Sequence[str], topk: int = 1, **generation: Any) -> list[str]: ...
    def generate(self, text: str | Sequence[str], topk: int = 1, **generation: Any) -> str | list[str]:
        """Return the title of a text, or the titles of a list of texts in their order.

        Args:
            text: one text or several; an empty one has the title "".
            topk: beams, under bert4keras's name; `num_beams` is the same.
            generation: options of `generate_n_best`.

        Raises OptionError for an unknown or impossible option.
        """
        if "num_beams" not in generation:
            generation["num_beams"] = topk
        elif topk not in (1, generation["num_beams"]):
            raise OptionError(f"topk and num_beams are the same option, got {topk} and {generation['num_beams']}")
        texts = [text] if isinstance(text, str) else text
        titles = [best[0].text for best in self.generate_n_best(texts, **generation)]
        return titles[0] if isinstance(text, str) else titles

    def generate_n_best(
        self,
        texts: Sequence[str],
        max_source_length: int = DataConfig.max_source_length,
        progress: bool = False,
        **generation: Any,
    ) -> list[list[Hypothesis]]:
        """Return up to `num_return_sequences` titles of each text, best first.

        Args:
            texts: texts of any length.
            max_source_length: tokens of a text that are read; cut ones count in `tokenizer.num_truncated`.
            progress: show a bar on standard error.
            generation: fields of GenerationConfig, under any of their names.
        """
        return list(self.iterate(texts, GenerationConfig.make(**generation), max_source_length, progress))

    def iterate(
        self, texts: Sequence[str], config: GenerationConfig, max_source_length: int, progress: bool
    ) -> Iterator[list[Hypothesis]]:
        """Yield the titles of each text, in the order of the texts, some hundred at a time; see `generate_n_best`."""
        DataConfig(max_source_length=max_source_length)  # raises OptionError where it leaves no room for a text
        with tqdm.tqdm(total=len(texts), disable=not progress, unit="title", dynamic_ncols=True) as bar:
            for start in range(0, len(texts), _TEXTS_AT_A_TIME):
                sources = [
                    self.tokenizer.encode(text, max_source_length) if text.strip() else []
                    for text in texts[start : start + _TEXTS_AT_A_TIME]
                ]
                found = [[Hypothesis("", 0.0, ())]] * len(sources)  # what an empty text has
                rows = [row for row, source in enumerate(sources) if source]
                lengths = [len(sources[row]) for row in rows]
                for batch in budget_batches(lengths, config.batch_tokens // config.num_beams):
                    candidates = self.decoder.search_batch([sources[rows[place]] for place in batch], config)
                    for place, titles in zip(batch, candidates, strict=True):
                        found[rows[place]] = [
                            Hypothesis(self.tokenizer.decode(ids), score, ids) for ids, score in titles
                        ]
                    bar.update(len(batch))
                bar.update(len(sources) - len(rows))
                yield from found
