"""One side of `decoding.py` in a process of its own, so that memory is its own and peers need not share an environment.

Started as `python decoding_worker.py SIDE WORK_DIR SIZE`, it loads the side's model and then answers requests, a JSON
line each: the names and arguments are those of the methods of `Side`. `prepare` in place of a side's name makes the
files that sides load. What is imported is the side's own business: the peers' environment has no TensorFlow.

Every side is called as its own documentation says, with the same sources, beams and number of new tokens, the end
token being forbidden. `bert4keras` is the official fine-tuning script of T5-PEGASUS: a model of
`build_transformer_model` and an `AutoRegressiveDecoder` whose `predict` is
`self.last_token(decoder).predict([c_encoded, output_ids])`. That computes the decoder for the whole prefix, and the
probabilities of all 50,000 tokens at each of its positions, for every new token.

The sizes in `shapes/` are Hugging Face's architectures: transformers writes a folder of random weights, which it and
our sides load. The others are T5-PEGASUS, as an MT5 in transformers.
"""

import importlib.metadata
import json
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(Path(__file__).resolve().parent))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

SHAPES = Path(__file__).resolve().parent / "shapes"
PAD, UNK, START, END = 0, 100, 101, 102
THREADS = os.cpu_count() or 1


class Side:
    """What a side can be asked for. Times are seconds since the call began."""

    def __init__(self, work_dir: Path, size: str) -> None:
        self.work_dir, self.size = work_dir, size

    def decode(self, sources: list[list[int]], new_tokens: int, beams: int) -> dict[str, Any]:
        """Write `new_tokens` tokens for each source; return `call` and `first`, when the first token was there."""
        raise NotImplementedError

    def title(self, text: str, new_tokens: int, beams: int) -> dict[str, Any]:
        """Write a title of `new_tokens` tokens for a text; return `call`, the seconds from text to text."""
        raise NotImplementedError

    def memory(self) -> dict[str, float]:
        """Return the peak of this process's memory in bytes, by Linux: `getrusage` begins with the parent's."""
        status = Path("/proc/self/status").read_text(encoding="ascii")
        return {"peak": int(status.partition("VmHWM:")[2].split()[0]) * 1024}


class Stock(Side):
    """bert4keras as the official script calls it; it takes one source at a time."""

    def __init__(self, work_dir: Path, size: str) -> None:
        super().__init__(work_dir, size)
        os.environ.update(TF_KERAS="1", TF_USE_LEGACY_KERAS="1")
        import numpy as np
        from bert4keras.models import build_transformer_model
        from bert4keras.snippets import AutoRegressiveDecoder

        t5 = build_transformer_model(
            config_path=str(model_dir(size) / "config.json"),
            checkpoint_path=None,
            model="mt5.1.1",
            return_keras_model=False,
            name="T5",
        )
        self.encoder, side = t5.encoder, self

        class Decoder(AutoRegressiveDecoder):  # type: ignore[misc]
            @AutoRegressiveDecoder.wraps(default_rtype="probas")  # type: ignore[untyped-decorator]
            def predict(self, inputs: list[Any], output_ids: Any, states: Any) -> Any:
                probabilities = self.last_token(t5.decoder).predict([inputs[0], output_ids], verbose=0)
                side.stamps.append(time.perf_counter())
                probabilities[:, END] = 0
                return np.asarray(probabilities)

        self.decoder_class = Decoder
        self.decoder = Decoder(START, END, 1)
        self.stamps: list[float] = []
        self.tokenizer: Any = None

    def decode(self, sources: list[list[int]], new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`."""
        import numpy as np

        (source,) = sources
        self.stamps, self.decoder.maxlen = [], new_tokens
        start = time.perf_counter()
        context = self.encoder.predict(np.array([source]), verbose=0)[0]
        encoder = time.perf_counter() - start
        found = self.decoder.beam_search([context], topk=beams)
        call = time.perf_counter() - start
        check_length(len(found) - 1, new_tokens)
        # Its steps are unlike, the first being of one beam and one token: they do not tell what the encoder took.
        return {"call": call, "first": self.stamps[0] - start, "encoder": encoder}

    def title(self, text: str, new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`."""
        import jieba
        import numpy as np
        from bert4keras.tokenizers import Tokenizer

        if self.tokenizer is None:
            vocabulary = str(exported_dir(self.work_dir, self.size, "int8") / "vocab.txt")
            self.tokenizer = Tokenizer(
                vocabulary, do_lower_case=True, pre_tokenize=lambda content: jieba.cut(content, HMM=False)
            )
        self.decoder.maxlen = new_tokens
        start = time.perf_counter()
        source, _ = self.tokenizer.encode(text, maxlen=256)
        context = self.encoder.predict(np.array([source]), verbose=0)[0]
        self.tokenizer.decode(self.decoder.beam_search([context], topk=beams))
        return {"call": time.perf_counter() - start}


class HuggingFace(Side):
    """`generate` of transformers' own classes, torch on the CPU."""

    def __init__(self, work_dir: Path, size: str) -> None:
        super().__init__(work_dir, size)
        import torch
        from transformers import AutoModelForSeq2SeqLM, StoppingCriteria
        from transformers.utils import logging

        logging.set_verbosity_error()
        torch.set_num_threads(THREADS)
        folder = peer_dir(work_dir, size, "hugging_face")
        self.model = AutoModelForSeq2SeqLM.from_pretrained(folder, config=peer_config(folder, model_dir(size)))
        tie_embeddings(self.model)
        self.model.eval()

        class Clock(StoppingCriteria):  # type: ignore[misc]
            """Notes when each token was there, and stops nothing."""

            def __init__(self) -> None:
                self.stamps: list[float] = []

            def __call__(self, input_ids: Any, scores: Any, **kwargs: Any) -> Any:
                self.stamps.append(time.perf_counter())
                return torch.zeros(input_ids.shape[0], dtype=torch.bool)

        self.clock_class = Clock

    def decode(self, sources: list[list[int]], new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`."""
        import torch

        ids, clock = torch.tensor(sources), self.clock_class()
        start = time.perf_counter()
        with torch.inference_mode():
            found = self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                num_beams=beams,
                do_sample=False,
                min_new_tokens=new_tokens,
                max_new_tokens=new_tokens,
                use_cache=True,
                stopping_criteria=[clock],
            )
        call = time.perf_counter() - start
        check_length(found.shape[1] - 1, new_tokens)
        return {"call": call, "first": clock.stamps[0] - start}


class CTranslate2(Side):
    """`Translator.translate_batch` on the converted Hugging Face model."""

    compute_type = "float32"

    def __init__(self, work_dir: Path, size: str) -> None:
        super().__init__(work_dir, size)
        import ctranslate2

        self.translator = ctranslate2.Translator(
            str(peer_dir(work_dir, size, "ctranslate2")),
            compute_type=self.compute_type,
            inter_threads=1,
            intra_threads=THREADS,
        )

    def decode(self, sources: list[list[int]], new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`. It does not tell when a beam search has its first token: a call for one is timed on its own."""
        words = [[token_name(number) for number in source] for source in sources]

        def call(length: int) -> float:
            start = time.perf_counter()
            found = self.translator.translate_batch(
                words, beam_size=beams, max_decoding_length=length, min_decoding_length=length, max_input_length=0
            )
            seconds = time.perf_counter() - start
            check_length(len(found[0].hypotheses[0]), length)
            return seconds

        return {"first": call(1), "call": call(new_tokens)}


class CTranslate2Int8(CTranslate2):
    """The same with weights and activations in int8."""

    compute_type = "int8"


class Ours(Side):
    """`BatchDecoder.search_batch` with one of our engines."""

    precision = "no"

    def __init__(self, work_dir: Path, size: str) -> None:
        super().__init__(work_dir, size)
        self.engine = self.make_engine()

    def make_engine(self) -> Any:
        """Return the engine of this side."""
        from t5_pegasus.engines.onnx import OnnxEngine

        return OnnxEngine(exported_dir(self.work_dir, self.size, self.precision))

    def decode(self, sources: list[list[int]], new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`; `steps` are the seconds of each step."""
        from t5_pegasus.config import GenerationConfig
        from t5_pegasus.decoding.inputs import Source
        from t5_pegasus.decoding.search import BatchDecoder

        engine, stamps = self.engine, [0.0]

        class Clock:
            """The engine, noting when each token was there."""

            start = staticmethod(engine.start)

            def step(self, *arguments: Any, **keywords: Any) -> Any:
                before = time.perf_counter()
                result = engine.step(*arguments, **keywords)
                stamps.append(time.perf_counter())
                steps.append(stamps[-1] - before)
                return result

        steps: list[float] = []
        config = GenerationConfig(num_beams=beams, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        start = time.perf_counter()
        decoder = BatchDecoder(Clock(), *start_and_end(self.size))
        found = decoder.search_batch([Source.whole(ids) for ids in sources], config)
        call = time.perf_counter() - start
        check_length(len(found[0][0].ids), new_tokens)
        return {"call": call, "first": stamps[1] - start, "steps": steps}

    def title(self, text: str, new_tokens: int, beams: int) -> dict[str, Any]:
        """See `Side`."""
        from t5_pegasus.title import AutoTitle

        if not hasattr(self, "auto_title"):
            self.auto_title = AutoTitle.load(exported_dir(self.work_dir, self.size, self.precision))
        start = time.perf_counter()
        self.auto_title.generate(text, num_beams=beams, max_new_tokens=new_tokens, min_new_tokens=new_tokens)
        return {"call": time.perf_counter() - start}


class OursInt8(Ours):
    """The int8 export."""

    precision = "int8"


class OursKeras(Ours):
    """The engine for a model in memory."""

    def make_engine(self) -> Any:
        """Return the engine of this side."""
        from t5_pegasus.engines.keras import KerasEngine
        from t5_pegasus.networks.t5 import network_of

        return KerasEngine(network_of(random_model(self.work_dir, self.size)))


SIDES: dict[str, Callable[[Path, str], Side]] = {
    "bert4keras": Stock,
    "Hugging Face": HuggingFace,
    "CTranslate2 float32": CTranslate2,
    "CTranslate2 int8": CTranslate2Int8,
    "keras": OursKeras,
    "onnx float32": Ours,
    "onnx int8": OursInt8,
}


def check_length(length: int, wanted: int) -> None:
    """Stop where a side wrote fewer tokens than the others, and so had less to do."""
    if length != wanted:
        raise RuntimeError(f"{length} tokens where {wanted} were asked for")


def is_hugging_face(size: str) -> bool:
    """Return whether a size is a shape of Hugging Face's architectures."""
    return (SHAPES / size).is_dir()


def model_dir(size: str) -> Path:
    """Return the directory whose config.json has this size."""
    return SHAPES / size if is_hugging_face(size) else ROOT / f"chinese_t5_pegasus_{size}"


def start_and_end(size: str) -> tuple[int, int]:
    """Return the ids that the decoder begins and ends with."""
    if not is_hugging_face(size):
        return START, END
    config = json.loads((model_dir(size) / "config.json").read_text(encoding="utf-8"))
    return config["decoder_start_token_id"], config["eos_token_id"]


def exported_dir(work_dir: Path, size: str, precision: str) -> Path:
    """Return where `prepare_ours` exports to."""
    return work_dir / f"ours_{size}" / precision


def peer_dir(work_dir: Path, size: str, name: str) -> Path:
    """Return where `prepare_peers` writes to."""
    return work_dir / f"peers_{size}" / name


def random_model(work_dir: Path, size: str) -> Any:
    """Return our model with random weights: those of transformers' folder for one of its shapes."""
    from t5_pegasus.config import ModelConfig
    from t5_pegasus.networks.backend import keras
    from t5_pegasus.networks.checkpoints import load_weights
    from t5_pegasus.networks.hugging_face import settle_head
    from t5_pegasus.networks.t5 import build_from_config, initialize

    keras.utils.set_random_seed(1)
    if not is_hugging_face(size):
        t5 = build_from_config(ModelConfig.load(model_dir(size)))
        initialize(t5)
        return t5
    weights = peer_dir(work_dir, size, "hugging_face") / "model.safetensors"
    t5 = build_from_config(settle_head(ModelConfig.load(weights.parent), weights, weights))
    load_weights(t5, weights)
    return t5


def token_name(number: int) -> str:
    """Return a word for an id: CTranslate2 takes words."""
    return {PAD: "[PAD]", UNK: "[UNK]", START: "[CLS]", END: "[SEP]"}.get(number, f"t{number}")


def prepare_ours(work_dir: Path, size: str, vocab_file: str) -> None:
    """Export the model in both precisions. Without the official vocabulary one of made-up words stands in for it."""
    from t5_pegasus.engines.onnx_export import export_model

    t5 = random_model(work_dir, size)
    folder = work_dir / f"ours_{size}"
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    if not vocab_file:
        vocab_file = str(temporary / "words.txt")
        Path(vocab_file).write_text("".join(f"{token_name(number)}\n" for number in range(t5.config.vocab_size)))
    for precision in ("no", "int8"):
        export_model(t5, vocab_file, temporary / precision, precision)
    temporary.rename(folder)


def tie_embeddings(model: Any) -> None:
    """Let encoder and decoder share their embedding, as in the network; T5's head has its own weights.

    transformers unties all three where it is told not to tie the head. PEGASUS's it leaves tied.
    """
    if not model.config.tie_word_embeddings:
        model.encoder.embed_tokens = model.decoder.embed_tokens = model.shared


def peer_config(folder: Path, shape: Path) -> Any:
    """Return the config of a folder as transformers loads it, the head tied only if the shape's own config ties it.

    transformers 5 ties that of every T5.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder)
    values = json.loads((shape / "config.json").read_text(encoding="utf-8"))
    config.tie_word_embeddings = values.get("tie_word_embeddings", values.get("model_type") == "pegasus")
    return config


def prepare_hugging_face(work_dir: Path, size: str) -> None:
    """Let transformers write a folder of one of its shapes with random weights."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    torch.manual_seed(1)
    model = AutoModelForSeq2SeqLM.from_config(peer_config(model_dir(size), model_dir(size)))
    tie_embeddings(model)
    folder = work_dir / f"peers_{size}"
    temporary = folder.with_suffix(".tmp")
    for old in (folder, temporary):
        shutil.rmtree(old, ignore_errors=True)
    model.save_pretrained(temporary / "hugging_face")
    temporary.rename(folder)


def prepare_peers(work_dir: Path, size: str) -> None:
    """Write the network with random weights for transformers, and convert it for CTranslate2."""
    if is_hugging_face(size):
        prepare_hugging_face(work_dir, size)
        return
    import torch
    from ctranslate2.converters.transformers import TransformersConverter
    from transformers import MT5Config, MT5ForConditionalGeneration

    config = json.loads((model_dir(size) / "config.json").read_text(encoding="utf-8"))
    mt5 = MT5Config(
        vocab_size=config["vocab_size"],
        d_model=config["hidden_size"],
        d_kv=config["attention_head_size"],
        d_ff=config["intermediate_size"],
        num_layers=config["num_hidden_layers"],
        num_decoder_layers=config["num_hidden_layers"],
        num_heads=config["num_attention_heads"],
        relative_attention_num_buckets=config["relative_attention_num_buckets"],
        feed_forward_proj="gated-gelu",
        pad_token_id=PAD,
        eos_token_id=END,
        decoder_start_token_id=START,
    )
    mt5.tie_word_embeddings = False  # MT5Config sets it whatever it is given
    torch.manual_seed(1)
    model = MT5ForConditionalGeneration(mt5)
    tie_embeddings(model)
    folder = work_dir / f"peers_{size}"
    shutil.rmtree(folder, ignore_errors=True)
    temporary = folder.with_suffix(".tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    model.save_pretrained(temporary / "hugging_face")

    class Words:
        """As much of a tokenizer as the converter asks for."""

        pad_token, unk_token, eos_token = (token_name(number) for number in (PAD, UNK, END))

        def get_vocab(self) -> dict[str, int]:
            return {token_name(number): number for number in range(mt5.vocab_size)}

        def convert_ids_to_tokens(self, number: int) -> str:
            return token_name(number)

    class Converter(TransformersConverter):  # type: ignore[misc]
        def load_model(self, *arguments: Any, **keywords: Any) -> Any:
            return model

        def load_tokenizer(self, *arguments: Any, **keywords: Any) -> Any:
            return Words()

    Converter(str(temporary / "hugging_face")).convert(str(temporary / "ctranslate2"))
    temporary.rename(folder)


def versions(names: list[str]) -> dict[str, str | None]:
    """Return the version of each package, or None where it is not installed."""

    def version(name: str) -> str | None:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            return None

    return {name: version(name) for name in names}


COMMANDS: dict[str, Callable[..., Any]] = {
    "prepare_ours": lambda work_dir, size, vocab_file: prepare_ours(Path(work_dir), size, vocab_file),
    "prepare_peers": lambda work_dir, size: prepare_peers(Path(work_dir), size),
    "versions": lambda *names: versions(list(names)),
}


def main() -> None:
    """Run a command and print its result, or load a side and answer requests until standard input ends."""
    # What libraries print goes to the log; the answers alone go to whoever asks.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    name, *arguments = sys.argv[1:]
    if name in COMMANDS:
        print(json.dumps(COMMANDS[name](*arguments)), file=answers, flush=True)
        return
    side = SIDES[name](Path(arguments[0]), arguments[1])
    print(json.dumps({"ready": True}), file=answers, flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        print(json.dumps(getattr(side, request.pop("method"))(**request)), file=answers, flush=True)


if __name__ == "__main__":
    main()
