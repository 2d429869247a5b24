"""AutoTitle: texts in, titles out. The one object that most users hold."""

import dataclasses
import math
import reprlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self, overload

import tqdm

from .config import GenerationConfig, ModelConfig, read_generation_defaults
from .decoding.inputs import LONG_TEXT, NO_TEXT, Source, budget_batches
from .decoding.options import DataConfig
from .decoding.rerank import RERANKERS, RerankConfig
from .decoding.search import Candidate, check_prefix
from .engines import choice
from .engines.choice import check_engine, load_decoder, make_decoder
from .engines.exported import is_exported
from .errors import OptionError
from .locations import TO_GENERATE, Weights, choose_model_dir, choose_weights
from .text.folder import load_tokenizer
from .text.prompts import Prompt, read_prompt, with_prompt
from .text.protocol import Tokenizer


class Hypothesis(NamedTuple):
    """A title, its score (see GenerationConfig) and its token ids: without [CLS], with [SEP] if it has ended."""

    text: str
    score: float
    ids: tuple[int, ...]

    @property
    def is_impossible(self) -> bool:
        """Return whether there is no title: the options forbade every token. The score is then minus infinity."""
        return self.score == -math.inf


class Answer(NamedTuple):
    """The titles of a text, best first, the tokens that the model read of it, and whether they lack some of it."""

    titles: list[Hypothesis]
    source_tokens: int
    truncated: bool


def rerank_answers(
    answers: Iterable[Answer], reranking: RerankConfig, generation: GenerationConfig
) -> Iterator[Answer]:
    """Return answers, as they come, with the one title each that is kept; as they are if none is to be chosen.

    Raises OptionError if `generation` returns one title of a text.
    """
    reranking.check(generation)
    if reranking.rerank == "none":
        return iter(answers)
    choose = RERANKERS[reranking.rerank]
    return (
        answer._replace(titles=[answer.titles[choose([title.text for title in answer.titles])]]) for answer in answers
    )


_EMPTY = Hypothesis("", 0.0, ())  # the title of an empty text

# Texts that are sorted by length and decoded before the first title is returned.
_TEXTS_AT_A_TIME = 256


class AutoTitle:
    """Writes titles with a model in memory.

    Args:
        t5: a bert4keras T5 object, as `build_model` returns it.
        tokenizer: for the model's vocabulary.
        engine: a row of `engines.choice.ENGINES`; "auto" is keras.

    Attributes:
        generation_defaults: options that `generate` and its like use unless others are given; of a model that was
            loaded, what its generation_config.json says.
        max_positions: tokens that the model can read or write at once; 0 where there is no limit.
        prompt: what stands around every text unless options say otherwise; of a model that was loaded, what prompt.json
            in the folder of its adapter or beside its weights says, else that of its directory.
        default_adapter: the name of the adapter that writes unless another is given; None for the model itself.

    Example:
        >>> title = AutoTitle.load()
        >>> title.generate("本文提出一种……", num_beams=4)
        '一种……方法'
    """

    def __init__(self, t5: Any, tokenizer: Tokenizer, engine: str = "auto") -> None:
        self.decoder, self.tokenizer = make_decoder(t5, tokenizer, engine), tokenizer
        self.generation_defaults: dict[str, Any] = {}
        self.prompt = Prompt()
        config = getattr(t5, "config", None)  # stock models have none, and no absolute positions
        self.max_positions = 0 if config is None else config.max_position_embeddings
        self.default_adapter: str | None = None

    @classmethod
    def load(
        cls,
        model_dir: str | Path | None = None,
        weights: str | Path | Weights | None = None,
        engine: str = "auto",
        user_dict: str | Path | None = None,
        output_dir: str | Path = ".",
        adapter: str | Path | None = None,
        ignore_base_hash: bool = False,
    ) -> Self:
        """Load from a model directory.

        Args:
            model_dir: holds config.json, vocab.txt and perhaps weights; or an exported model (see `export`), which
                ONNX Runtime runs without TensorFlow. None is the base model if its weights are there, else the model
                that comes with this package.
            weights: a weights file, or a kind of `locations.Weights`; None takes `best_model.weights` of `output_dir`
                or the model directory, or the pretrained weights there (see `locations.find_weights`).
            engine: a row of `engines.choice.ENGINES`; "auto" is keras if there is a GPU, else onnx, for which the
                weights are exported once, beside them or to the user's cache (see `engines.onnx_cache`).
            user_dict: jieba user dictionary (see PegasusTokenizer).
            output_dir: where `finetune.py` wrote to.
            adapter: the folder of a LoRA adapter, which becomes the `default_adapter`, named as its folder; None for
                weights is then the pretrained ones.
            ignore_base_hash: take an adapter that was trained on other weights.

        Raises CheckpointError if there are no weights or they or the adapter do not fit, DataError for a malformed
        directory, OptionError for an engine that cannot run it.
        """
        check_engine(engine)  # here too, since a model takes seconds to build
        title = cls.__new__(cls)
        model_dir = choose_model_dir(model_dir)
        if adapter is not None and weights is None and not is_exported(model_dir):
            weights = Weights.PRETRAINED
        title.generation_defaults = read_generation_defaults(model_dir)
        title.max_positions = ModelConfig.load(model_dir).max_position_embeddings
        title.tokenizer = load_tokenizer(model_dir, user_dict)
        folders = _folders(model_dir, weights, output_dir)
        title.prompt = read_prompt(*([] if adapter is None else [adapter]), *folders) or Prompt()
        title.decoder = load_decoder(model_dir, weights, engine, title.tokenizer, output_dir)
        title.default_adapter = None
        if adapter is not None:
            name = Path(adapter).resolve().name
            title.add_adapter(name, adapter, ignore_base_hash)
            title.default_adapter = name
        return title

    @property
    def adapters(self) -> tuple[str, ...]:
        """Return the names of the adapters."""
        return choice.adapter_names(self.decoder)

    def add_adapter(self, name: str, folder: str | Path, ignore_base_hash: bool = False) -> None:
        """Add a LoRA adapter, in place of one of that name; nothing is merged, and all share the model's weights.

        Args:
            name: by which `generate` is asked for it.
            folder: as `finetune.py --method lora` or Hugging Face's PEFT write it.
            ignore_base_hash: take one that was trained on other weights.

        Raises CheckpointError for one that cannot be read or is of another model, OptionError for a kind of adapter
        that is not supported (see `networks.adapter_files`) and for engine reference.
        """
        choice.load_adapter(self.decoder, name, folder, ignore_base_hash)

    def remove_adapter(self, name: str) -> None:
        """Remove an adapter. Raises OptionError if there is none of that name."""
        choice.remove_adapter(self.decoder, name)
        if self.default_adapter == name:
            self.default_adapter = None

    @overload
    def generate(self, text: str, topk: int | None = None, **generation: Any) -> str: ...
    @overload
    def generate(self, text: Sequence[str], topk: int | None = None, **generation: Any) -> list[str]: ...
    def generate(self, text: str | Sequence[str], topk: int | None = None, **generation: Any) -> str | list[str]:
        """Return the title of a text, or the titles of a list of texts in their order.

        Args:
            text: one text or several; an empty one has the title "".
            topk: number of beams, by bert4keras's name; the same as `num_beams`. None is the model's default.
            generation: options of `generate_n_best`, `adapter` among them.

        Raises OptionError for an unknown or impossible option.
        """
        if topk is not None:
            generation.setdefault("num_beams", topk)
        if topk not in (None, generation.get("num_beams")):
            raise OptionError(f"topk and num_beams are the same option, got {topk} and {generation['num_beams']}")
        texts = [text] if isinstance(text, str) else _listed(text)
        titles = [best[0].text for best in self.generate_n_best(texts, **generation)]
        return titles[0] if isinstance(text, str) else titles

    def generate_n_best(
        self,
        texts: Sequence[str],
        max_source_length: int = DataConfig.max_source_length,
        long_text: str = DataConfig.long_text,
        progress: bool = False,
        source_prefix: str | None = None,
        source_suffix: str | None = None,
        adapter: str | Sequence[str | None] | None = None,
        rerank: str = RerankConfig.rerank,
        **generation: Any,
    ) -> list[list[Hypothesis]]:
        """Return up to `num_return_sequences` titles of each text, best first; one if they are reranked.

        Args:
            texts: texts of any length.
            max_source_length: tokens of a text that are read at once.
            long_text: what is read of a longer one, a row of `decoding.inputs.LONG_TEXT`: its head ("truncate"), head
                and tail ("head_tail"), or all of it in overlapping windows that the decoder sees joined ("window").
            progress: show a progress bar on standard error.
            source_prefix: what stands before each text and is never cut; None is the model's own.
            source_suffix: what stands after each text, likewise.
            adapter: the name of an adapter, None for the default; or one for each text, None for the model itself.
            rerank: a row of `decoding.rerank.RERANKERS`, to keep one title of each text.
            generation: fields of GenerationConfig, under any of their names, over `generation_defaults`.
        """
        reranking = RerankConfig.make(rerank=rerank)
        data = DataConfig.make(
            max_source_length=max_source_length,
            long_text=long_text,
            source_prefix=source_prefix,
            source_suffix=source_suffix,
        )
        config = GenerationConfig.over(self.generation_defaults, **generation)
        answers = rerank_answers(self.iterate(texts, config, data, progress, adapter), reranking, config)
        return [answer.titles for answer in answers]

    def stream(
        self,
        text: str,
        max_source_length: int = DataConfig.max_source_length,
        long_text: str = DataConfig.long_text,
        source_prefix: str | None = None,
        source_suffix: str | None = None,
        adapter: str | None = None,
        **generation: Any,
    ) -> Iterator[Hypothesis]:
        """Yield the best title so far each time that its text changes; the last one is what `generate` returns.

        With several beams a title may be followed by one that does not begin with it.

        Args: as of `generate_n_best`.
        """
        if not isinstance(text, str):
            raise OptionError(f"text must be a text, got {reprlib.repr(text)}")
        config = GenerationConfig.over(self.generation_defaults, **generation)
        data = DataConfig.make(
            max_source_length=max_source_length,
            long_text=long_text,
            source_prefix=source_prefix,
            source_suffix=source_suffix,
        )
        source = self.encode(text, data, adapter or self.default_adapter)
        return self._stream(source, config, self.encode_prefix(config))

    def _stream(self, source: Source, config: GenerationConfig, prefix: list[int]) -> Iterator[Hypothesis]:
        if not source:
            yield _EMPTY
            return
        waiting: Hypothesis | None = None  # until the text changes: the last of equal texts is the finished one
        for candidate in self.decoder.stream(source, config, prefix):
            hypothesis = _hypothesis(self.tokenizer, candidate)
            if waiting is not None and waiting.text != hypothesis.text:
                yield waiting
            waiting = hypothesis
        if waiting is not None:
            yield waiting

    def iterate(
        self,
        texts: Sequence[str],
        config: GenerationConfig,
        data: DataConfig,
        progress: bool = False,
        adapter: str | Sequence[str | None] | None = None,
    ) -> Iterator[Answer]:
        """Yield the titles of each text, in the order of the texts, some hundred at a time; see `generate_n_best`.

        Raises OptionError for anything but a list of texts, before the first is read.
        """
        texts = _listed(texts)
        names = [adapter or self.default_adapter] * len(texts) if isinstance(adapter, str | None) else list(adapter)
        if len(names) != len(texts):
            raise OptionError(f"adapter must be one name, or as many as texts ({len(texts)}), got {len(names)}")
        return self._iterate(texts, config, data, progress, names)

    def _iterate(
        self,
        texts: Sequence[str],
        config: GenerationConfig,
        data: DataConfig,
        progress: bool,
        names: Sequence[str | None],
    ) -> Iterator[Answer]:
        prefix = self.encode_prefix(config)
        with tqdm.tqdm(total=len(texts), disable=not progress, unit="title", dynamic_ncols=True) as bar:
            for start in range(0, len(texts), _TEXTS_AT_A_TIME):
                end = start + _TEXTS_AT_A_TIME
                sources = [
                    self.encode(text, data, name) for text, name in zip(texts[start:end], names[start:end], strict=True)
                ]
                answers = [Answer([_EMPTY], 0, False)] * len(sources)
                rows = [row for row, source in enumerate(sources) if source]
                # A long title takes as much memory as a long text.
                lengths = [max(len(sources[row]), config.max_new_tokens) for row in rows]
                for batch in budget_batches(lengths, config.batch_tokens // config.num_rows):
                    chosen = [rows[index] for index in batch]
                    found = self.decode_batch([sources[row] for row in chosen], config, prefix)
                    for row, answer in zip(chosen, found, strict=True):
                        answers[row] = answer
                    bar.update(len(batch))
                bar.update(len(sources) - len(rows))
                yield from answers

    def decode_batch(
        self,
        sources: Sequence[Source],
        config: GenerationConfig,
        prefix: Sequence[int] = (),
        is_wanted: Callable[[int], bool] | None = None,
        on_title: Mapping[int, Callable[[Hypothesis], None]] | None = None,
    ) -> list[Answer]:
        """Return the titles of sources that are decoded together.

        Args:
            sources: of `encode`, with at least a token each.
            config: options.
            prefix: token ids that every title begins with, of `encode_prefix`.
            is_wanted: asked before each step for the index of each source that is not done; one that is no longer
                wanted is given up, with the titles found so far.
            on_title: called with the best title so far whenever its ids change, by the index of a source.
        """
        on_candidate = {index: _on_change(self.tokenizer, report) for index, report in (on_title or {}).items()}
        found = self.decoder.search_batch(sources, config, prefix, is_wanted, on_candidate)
        return [
            Answer([_hypothesis(self.tokenizer, candidate) for candidate in titles], len(source), source.truncated)
            for source, titles in zip(sources, found, strict=True)
        ]

    def encode(self, text: str, data: DataConfig, adapter: str | None = None) -> Source:
        """Return what the model reads of a text, in its prompt and by an adapter; NO_TEXT of an empty one.

        Raises OptionError if `max_source_length` has no room for the prompt and a token of the text.
        """
        if not text.strip():
            return NO_TEXT
        reader = with_prompt(self.tokenizer, data.prompt(self.prompt))
        length = data.max_source_length
        if self.max_positions:  # of PEGASUS, which can read no more at once
            length = min(length, self.max_positions)
        source = LONG_TEXT[data.long_text](reader, text, length)
        return source if adapter is None else dataclasses.replace(source, adapter=adapter)

    def encode_prefix(self, config: GenerationConfig) -> list[int]:
        """Return the tokens that every title begins with.

        Raises OptionError for longer titles than the model has positions, for a prefix that the vocabulary cannot spell
        or that has a suppressed token, and for an id that the vocabulary does not have.
        """
        size, text = self.tokenizer.vocab_size, config.title_prefix
        if 0 < self.max_positions < config.max_new_tokens:
            raise OptionError(
                f"max_new_tokens must be at most {self.max_positions}, the positions of the model, "
                f"got {config.max_new_tokens}"
            )
        if max(config.suppress_tokens, default=0) >= size:
            raise OptionError(f"suppress_tokens must be ids below {size}, got {max(config.suppress_tokens)}")
        for name in ("forced_bos_token_id", "forced_eos_token_id"):
            if (getattr(config, name) or 0) >= size:
                raise OptionError(f"{name} must be an id below {size}, got {getattr(config, name)}")
        prefix = self.tokenizer.encode_prefix(text) if text else []
        if self.tokenizer.unk_id in prefix or (text and not prefix):
            raise OptionError(f"title_prefix must be made of what the vocabulary has, got {text!r}")
        if config.forced_bos_token_id is not None:
            prefix = [config.forced_bos_token_id, *prefix]
        if set(prefix) & set(config.suppress_tokens):
            raise OptionError(f"title_prefix must hold none of suppress_tokens, got {text!r}")
        check_prefix(prefix, config)
        return prefix


def _folders(model_dir: Path, weights: str | Path | Weights | None, run_dir: str | Path) -> list[Path]:
    """Return where the prompt of a model is: beside its weights, else in its directory."""
    if is_exported(model_dir):
        return [model_dir]
    found = choose_weights(model_dir, weights, TO_GENERATE, run_dir)  # they are checked when loaded
    return [model_dir] if found is Weights.RANDOM else [found.parent, model_dir]


def _listed(texts: Iterable[str]) -> list[str]:
    """Return texts as a list; raises OptionError for a text alone, whose characters would be taken for texts."""
    if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable):
        raise OptionError(f"texts must be a list of texts, got {reprlib.repr(texts)}")
    listed = list(texts)
    for index, text in enumerate(listed):
        if not isinstance(text, str):
            raise OptionError(f"texts must be a list of texts, got {reprlib.repr(text)} at index {index}")
    return listed


def _hypothesis(tokenizer: Tokenizer, candidate: Candidate) -> Hypothesis:
    return Hypothesis(tokenizer.decode(candidate.ids), candidate.score, candidate.ids)


def _on_change(tokenizer: Tokenizer, report: Callable[[Hypothesis], None]) -> Callable[[Candidate], None]:
    """Return a function that reports each title whose ids differ from those of the one before."""
    last: tuple[int, ...] | None = None

    def on_candidate(candidate: Candidate) -> None:
        nonlocal last
        if candidate.ids != last:
            last = candidate.ids
            report(_hypothesis(tokenizer, candidate))

    return on_candidate
