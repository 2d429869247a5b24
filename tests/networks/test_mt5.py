"""mT5's weights under another vocabulary, held against Hugging Face's logits and bert4keras's own mapping of rows."""

import io
import json
import re
import sys

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from t5_pegasus import conversion
from t5_pegasus.config import ModelConfig
from t5_pegasus.errors import CheckpointError, DataError, OptionError, PegasusError
from t5_pegasus.locations import ROOT
from t5_pegasus.networks.backend import bert4keras, tf
from t5_pegasus.networks.checkpoints import named_variables
from t5_pegasus.networks.mt5 import Report, load_mt5, map_rows, map_vocabulary
from t5_pegasus.networks.t5 import build_from_config, build_model
from t5_pegasus.text.tokenizer import PegasusTokenizer

sentencepiece = pytest.importorskip("sentencepiece")

# Stock bert4keras gives one initializer to all layers, which Keras warns of; the weights are loaded over anyway.
pytestmark = pytest.mark.filterwarnings("ignore:The initializer TruncatedNormal")

GOLDEN = ROOT / "tests" / "golden"
HUGGING_FACE = GOLDEN / "mt5_hugging_face.safetensors"

# The shape of the golden model, which has 300 tokens; its logits know no bias in cross-attention.
CONFIG = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "attention_head_size": 16,
    "intermediate_size": 96,
    "relative_attention_num_buckets": 16,
    "relative_attention_max_distance": 40,
    "cross_position_bias": False,
}
SPECIAL = {"<pad>": "[PAD]", "</s>": "[SEP]", "<unk>": "[UNK]"}


def train_pieces(path, sentences, **options):
    """Write a vocabulary of sentencepiece whose special pieces stand where mT5's do; return its processor."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
        **options,
    )
    path.write_bytes(model.getvalue())
    return sentencepiece.SentencePieceProcessor(model_file=str(path))


def make_model_dir(folder, tokens):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps({**CONFIG, "vocab_size": len(tokens)}), encoding="utf-8")
    return folder


def new_network(tokens, **changes):
    return build_from_config(ModelConfig(**{**CONFIG, "vocab_size": len(tokens), **changes}), with_lm="linear")


def values_of(t5):
    return {name: variable.numpy() for name, variable in named_variables(t5).items()}


@pytest.fixture(scope="module")
def characters(tmp_path_factory):
    """Return a file of 300 pieces, as many as the golden model has rows: characters, ▁ and the special ones."""
    path = tmp_path_factory.mktemp("characters") / "spiece.model"
    alphabet = "".join(chr(0x4E00 + index) for index in range(296))
    pieces = train_pieces(path, [alphabet] * 3, vocab_size=300, model_type="char", character_coverage=1.0)
    assert pieces.get_piece_size() == 300
    return path


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    """Return a file of pieces of several characters, as mT5's has, with some that look alike."""
    path = tmp_path_factory.mktemp("words") / "spiece.model"
    sentences = [
        "我们使用模型生成标题，模型生成摘要。",
        "使用 linux 系统的我们，系统 生成 摘要",
        "training a model is computing and testing",
        "我们 的 标题 the model 2020 2021",
    ] * 50
    train_pieces(path, sentences, vocab_size=200, hard_vocab_limit=False, user_defined_symbols=["<extra_id_0>"])
    return path


def tokens_of(path, shuffled=False):
    """Return a vocabulary with a token for each piece, in the order of the pieces, and [CLS] at the end."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(path))
    names = [pieces.id_to_piece(index) for index in range(pieces.get_piece_size())]
    tokens = [*(SPECIAL.get(name, name) for name in names), "[CLS]"]
    if shuffled:
        tokens[1:] = np.random.default_rng(0).permutation(tokens[1:]).tolist()
    return tokens


def t5_names(values):
    """Return the golden weights as a checkpoint of Google's has them; see golden/make_mt5.py for `values`."""
    return {name: value / (8 if name == "decoder/logits/kernel" else 1) for name, value in values.items()}


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """Return the golden weights in files of all three kinds."""
    folder = tmp_path_factory.mktemp("mt5")
    values = t5_names(safetensors.numpy.load_file(GOLDEN / "mt5.safetensors"))
    safetensors.numpy.save_file(values, folder / "t5_names.safetensors")
    values = {name: value.astype(np.float32) for name, value in values.items()}
    values["shared/embedding_slot_vr"] = np.zeros(300, np.float32)  # of Adafactor, as Google's have them
    values["global_step"] = np.int64(1_000_000)
    prefix = folder / "model.ckpt-1000000"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(values),
        shape_and_slices=[""] * len(values),
        tensors=list(values.values()),
    )
    return {"hugging_face": HUGGING_FACE, "t5_names": folder / "t5_names.safetensors", "tensorflow": prefix}


# Logits


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("kind", ["hugging_face", "t5_names", "tensorflow"])
def test_logits_are_those_of_hugging_face(characters, weights, tmp_path, kind, shuffled):
    tokens = tokens_of(characters, shuffled)
    tokenizer = PegasusTokenizer(make_model_dir(tmp_path, tokens) / "vocab.txt")
    t5 = new_network(tokens)
    assert load_mt5(t5, weights[kind], characters, tokenizer) == Report(kept=301, compound=0, random=0)

    place = np.array([tokens.index(token) for token in tokens_of(characters)])  # of a piece, in the new vocabulary
    golden = np.load(GOLDEN / "mt5_logits.npz")
    logits = t5.model([place[golden["source_ids"]], place[golden["target_ids"]]]).numpy()
    np.testing.assert_allclose(logits[..., place[:300]], golden["logits"], rtol=0, atol=1e-4)
    # [CLS] begins as <pad>, with which mT5's decoder starts.
    np.testing.assert_array_equal(logits[..., place[300]], logits[..., place[0]])


def test_rows_are_those_of_bert4keras(words, tmp_path):
    """The new vocabulary's rows, one or several pieces each, as stock bert4keras makes them when it loads mT5."""
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(words))
    tokens = [
        "[PAD]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "我们",
        "系统",
        "生成标题",
        "摘要模型",
        "linux",
        "testingmodel",
        "##a",
    ]
    rows = map_vocabulary(tokens, pieces)
    keep, compound = [ids for ids in rows if len(ids) == 1], [ids for ids in rows if len(ids) > 1]
    assert min(len(keep), len(compound)) >= 3

    folder = make_model_dir(tmp_path / "model", tokens)
    buckets = {"relative_attention_num_buckets": 32, "relative_attention_max_distance": 128}  # stock knows no others
    old = new_network(range(pieces.get_piece_size() + 6), **buckets)
    rng = np.random.default_rng(0)
    values = {
        name: rng.normal(scale=0.2, size=value.shape).astype(np.float32) for name, value in values_of(old).items()
    }
    on_disk = {name: value.T if "relative" in name else value for name, value in values.items()}
    prefix = tmp_path / "model.ckpt"
    tf.raw_ops.SaveV2(
        prefix=str(prefix),
        tensor_names=list(on_disk),
        shape_and_slices=[""] * len(on_disk),
        tensors=[*on_disk.values()],
    )
    t5 = new_network(tokens, **buckets)
    tokenizer = PegasusTokenizer(folder / "vocab.txt")
    assert load_mt5(t5, prefix, words, tokenizer) == Report(len(keep), len(compound), random=0)

    # All rows as compounds, which stock bert4keras appends to those it keeps: here none.
    stock = bert4keras.models.build_transformer_model(
        checkpoint_path=str(prefix),
        model="mt5.1.1",
        return_keras_model=False,
        with_lm="linear",
        keep_tokens=list(range(pieces.get_piece_size())),
        compound_tokens=[list(ids) for ids in rows],
        **t5.config.to_dict(),
    )
    size = pieces.get_piece_size()
    ids = np.arange(1, len(tokens), dtype=np.int32)[None]  # 0 would be padding to one and not to the other
    ours, theirs = t5.model([ids, ids]).numpy(), stock.model([ids + size, ids + size]).numpy()[..., size:]
    assert ours.std() > 0.1
    # bert4keras scales the decoder's output, mT5 and so its converted head do not.
    np.testing.assert_allclose(ours, theirs * 8, rtol=0, atol=1e-5)
    ours, theirs = named_variables(t5), stock.layers["Embedding-Token"].get_weights()[0]
    np.testing.assert_allclose(ours["shared/embedding"].numpy(), theirs[size:], rtol=0, atol=1e-6)


# Which pieces stand for a token


@pytest.mark.parametrize(
    ("token", "names"),
    [
        ("[PAD]", ["<pad>"]),
        ("[UNK]", ["<unk>"]),
        ("[CLS]", ["<pad>"]),
        ("[SEP]", ["</s>"]),
        ("[MASK]", ["<extra_id_0>"]),
        ("[unused7]", []),
        ("<S>", []),
        ("", []),
        ("我们", ["我们"]),
        ("2021", ["▁2021"]),
        ("a", ["▁a"]),
        ("##a", ["a"]),
        ("##ing", ["ing"]),
        ("，", [","]),
        ("##", []),
        ("龘", []),
        ("龘我们", ["我们"]),
        ("我们系统", ["▁我们", "系统"]),
        ("标题系统", ["标题", "系统"]),
        ("2021ing", ["▁2021", "ing"]),
    ],
)
def test_the_pieces_of_a_token(words, token, names):
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(words))
    assert [pieces.id_to_piece(index) for index in map_vocabulary([token], pieces)[0]] == names


def test_a_row_is_the_mean_of_its_pieces_or_drawn_around_the_mean_row():
    matrix = np.random.default_rng(0).normal([3, -1], [0.5, 2], (200, 2)).astype(np.float16)
    rows = [(5,), (5, 7, 7), *[()] * 2000]
    mapped = map_rows(matrix, rows, np.random.default_rng(1))
    assert mapped.dtype == np.float32
    np.testing.assert_array_equal(mapped[0], matrix[5])
    exact = matrix.astype(np.float64)
    np.testing.assert_allclose(mapped[1], (exact[5] + 2 * exact[7]) / 3, rtol=1e-6)
    np.testing.assert_allclose(mapped[2:].mean(axis=0), exact.mean(axis=0), atol=0.15)
    np.testing.assert_allclose(mapped[2:].std(axis=0), exact.std(axis=0), rtol=0.1)
    np.testing.assert_array_equal(mapped, map_rows(matrix, rows, np.random.default_rng(1)))


def test_bfloat16_is_widened(characters, tmp_path):
    values = {
        name: value.astype(ml_dtypes.bfloat16) for name, value in safetensors.numpy.load_file(HUGGING_FACE).items()
    }
    safetensors.numpy.save_file(values, tmp_path / "mt5.safetensors")
    tokens = tokens_of(characters)
    tokenizer = PegasusTokenizer(make_model_dir(tmp_path, tokens) / "vocab.txt")
    t5 = new_network(tokens)
    load_mt5(t5, tmp_path / "mt5.safetensors", characters, tokenizer)
    ours = values_of(t5)
    np.testing.assert_array_equal(ours["shared/embedding"][:300], values["shared.weight"].astype(np.float32))
    wo = values["decoder.block.2.layer.2.DenseReluDense.wo.weight"].astype(np.float32)
    np.testing.assert_array_equal(ours["decoder/block_002/layer_002/DenseReluDense/wo/kernel"], wo.T)


# Files that do not fit


def test_old_files_of_hugging_face_have_the_embedding_three_times(characters, tmp_path):
    values = safetensors.numpy.load_file(HUGGING_FACE)
    shared = values.pop("shared.weight")
    for stack in ("encoder", "decoder"):
        values[f"{stack}.embed_tokens.weight"] = shared.copy()
    values["decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"] = np.ones((16, 4), np.float16)
    tokens = tokens_of(characters)
    tokenizer = PegasusTokenizer(make_model_dir(tmp_path, tokens) / "vocab.txt")
    t5, expected = new_network(tokens), new_network(tokens)
    safetensors.numpy.save_file(values, tmp_path / "old.safetensors")
    load_mt5(t5, tmp_path / "old.safetensors", characters, tokenizer)
    load_mt5(expected, HUGGING_FACE, characters, tokenizer)
    for name, value in values_of(expected).items():
        np.testing.assert_array_equal(values_of(t5)[name], value, err_msg=name)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda values: values.pop("lm_head.weight"),
            r"lacks decoder/logits/kernel \(lm_head\.weight is missing where",
        ),
        (lambda values: values.pop("shared.weight"), "lacks shared/embedding"),
        (
            lambda values: values.update({"shared.weight": values["shared.weight"][:299]}),
            r"has 299 rows in shared/embedding but .*spiece\.model has 300 pieces; use the spiece\.model",
        ),
        (
            lambda values: values.pop("encoder.block.1.layer.1.DenseReluDense.wo.weight"),
            "lacks encoder/block_001/layer_001/DenseReluDense/wo/kernel",
        ),
        (
            lambda values: values.update({"encoder.block.3.layer.0.layer_norm.weight": np.ones(64, np.float16)}),
            r"unknown to the model, encoder\.block\.3\.layer\.0\.layer_norm\.weight",
        ),
        (lambda values: values["lm_head.weight"].fill(np.nan), "not finite in decoder/logits/kernel"),
    ],
)
def test_weights_that_do_not_fit_leave_the_network_as_it_was(characters, tmp_path, change, message):
    tokens = tokens_of(characters)
    tokenizer = PegasusTokenizer(make_model_dir(tmp_path, tokens) / "vocab.txt")
    t5 = new_network(tokens)
    values = safetensors.numpy.load_file(HUGGING_FACE)
    change(values)
    safetensors.numpy.save_file(values, tmp_path / "mt5.safetensors")
    with pytest.raises(CheckpointError, match=message) as caught:
        load_mt5(t5, tmp_path / "mt5.safetensors", characters, tokenizer)
    assert "\n" not in str(caught.value)
    assert not any(value.any() for name, value in values_of(t5).items() if not name.endswith("/scale"))


def test_a_network_of_another_vocabulary_is_refused(characters, tmp_path):
    tokenizer = PegasusTokenizer(make_model_dir(tmp_path, tokens_of(characters)) / "vocab.txt")
    with pytest.raises(CheckpointError, match=r"vocab\.txt has 301 tokens but vocab_size of the network is 5"):
        load_mt5(new_network("abcde"), HUGGING_FACE, characters, tokenizer)


# The command


def flags_of(characters, model_dir, output_dir):
    return {
        "--mt5_weights": str(HUGGING_FACE),
        "--mt5_vocab": str(characters),
        "--model_dir": str(model_dir),
        "--output_dir": str(output_dir),
    }


def run(flags):
    return conversion.main([part for pair in flags.items() for part in pair])


def test_the_command_writes_a_model_directory(characters, tmp_path, capsys):
    tokens = [*tokens_of(characters), "一丁", "乀丄", "<S>", "##a"]
    model_dir = make_model_dir(tmp_path / "new", tokens)
    output_dir = tmp_path / "deep" / "model"
    assert run(flags_of(characters, model_dir, output_dir)) == 0
    assert capsys.readouterr().err.startswith("301 tokens kept, 2 begun as the mean of their pieces, 2 random; ")
    assert [path.name for path in output_dir.parent.iterdir()] == ["model"]
    for name in ("config.json", "vocab.txt"):
        assert (output_dir / name).read_bytes() == (model_dir / name).read_bytes()

    t5 = build_model(output_dir, with_lm="linear")
    golden = np.load(GOLDEN / "mt5_logits.npz")
    inputs = [golden["source_ids"], golden["target_ids"]]
    logits = t5.model(inputs).numpy()
    np.testing.assert_allclose(logits[..., :300], golden["logits"], rtol=0, atol=1e-4)
    # Both halves of a mean weigh the same, so that its logit is the mean of theirs.
    halves = [tokens.index("一"), tokens.index("丁")]
    np.testing.assert_allclose(logits[..., tokens.index("一丁")], logits[..., halves].mean(axis=-1), rtol=0, atol=1e-4)

    again = tmp_path / "again"
    again.mkdir()  # an empty one is taken
    run(flags_of(characters, model_dir, again))
    for path in output_dir.iterdir():
        assert (again / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("flag", "value", "error", "message"),
    [
        ("--mt5_vocab", "{tmp}/none.model", DataError, r"cannot read .*none\.model: no such file; .* spiece\.model"),
        ("--mt5_vocab", "{tmp}/new/vocab.txt", DataError, r"vocab\.txt is not a vocabulary of sentencepiece"),
        ("--mt5_weights", "{tmp}/none.ckpt", CheckpointError, r"no weights at .*none\.ckpt"),
        ("--mt5_weights", "{tmp}/new/vocab.txt", CheckpointError, r"vocab\.txt is neither HDF5 nor safetensors nor"),
        ("--model_dir", "{tmp}", OptionError, r"model_dir must be a directory with config\.json and vocab\.txt"),
        ("--output_dir", "{tmp}/new", OptionError, "output_dir must be empty or not exist, got .*new"),
        ("--output_dir", "{tmp}/new/vocab.txt", OptionError, "output_dir must be empty or not exist, got .*txt"),
        ("--seed", "-1", OptionError, "seed must be at least 0, got -1"),
    ],
)
def test_what_the_command_cannot_use(characters, tmp_path, flag, value, error, message):
    model_dir = make_model_dir(tmp_path / "new", tokens_of(characters))
    flags = {**flags_of(characters, model_dir, tmp_path / "out"), flag: value.format(tmp=tmp_path)}
    with pytest.raises(error, match=message) as caught:
        run(flags)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]


def test_without_sentencepiece_one_line_says_how_to_install_it(characters, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "sentencepiece", None)
    model_dir = make_model_dir(tmp_path / "new", tokens_of(characters))
    with pytest.raises(PegasusError, match=re.escape("install it with `pip install sentencepiece`")):
        run(flags_of(characters, model_dir, tmp_path / "out"))
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
