"""Tokenizers of Hugging Face folders give transformers' own ids: `tests/golden/make_tokenizers.py` has made those."""

import gzip
import json
import shutil
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.errors import DataError, OptionError, PegasusError
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR
from t5_pegasus.text.folder import load_tokenizer, tokenizer_kind
from t5_pegasus.text.subwords import FastTokenizer, SentencePieceTokenizer
from t5_pegasus.text.tokenizer import PegasusTokenizer

GOLDEN = ROOT / "tests" / "golden"
PIECES, VOCABULARY = GOLDEN / "hugging_face" / "spiece.model", GOLDEN / "hugging_face" / "uer_pegasus" / "vocab.txt"

# There transformers loses a mark that follows a character of compatibility; sentencepiece itself, which T5 was trained
# with, keeps it.
DIFFERENT = "\u33d4\u0308"


@pytest.fixture(scope="module")
def golden():
    with gzip.open(GOLDEN / "tokenizers.json.gz") as file:
        return json.load(file)


@pytest.fixture(scope="module")
def tokenizers(tmp_path_factory):
    """Return T5's, mT5's and BERT's tokenizer, the latter also from a tokenizer.json."""
    folder = tmp_path_factory.mktemp("tokenizers")
    shutil.copyfile(PIECES, folder / "spiece.model")
    shutil.copyfile(VOCABULARY, folder / "vocab.txt")
    shutil.copyfile(GOLDEN / "bert_tokenizer.json", folder / "tokenizer.json")
    return {
        "t5": SentencePieceTokenizer(folder),
        "mt5": SentencePieceTokenizer(folder, extra_ids=0),
        "bert": FastTokenizer.of_vocabulary(folder),
        "file": FastTokenizer.of_file(folder),
    }


# Equal to transformers


@pytest.mark.parametrize("kind", ["t5", "mt5", "bert", "file"])
def test_ids_are_those_of_transformers(kind, golden, tokenizers):
    expected = golden["bert" if kind == "file" else kind]
    assert len(golden["texts"]) > 2000
    found = {text: ids for text, ids in zip(golden["texts"], expected, strict=True) if DIFFERENT not in text}
    assert len(found) == len(golden["texts"]) - 1
    assert dict(zip(found, tokenizers[kind].encode_batch(found), strict=True)) == found


@pytest.mark.parametrize("kind", ["t5", "mt5"])
def test_pieces_become_the_text_of_transformers(kind, golden, tokenizers):
    """Without the space that it leaves of an unknown token in front."""
    decoded = [tokenizers[kind].decode(ids).strip() for ids in golden[kind]]
    assert decoded == [text.strip() for text in golden[f"{kind}_decoded"]]


def test_wordpieces_are_joined_as_titles_are_written(tokenizers):
    for kind in ("bert", "file"):
        tokenizer = tokenizers[kind]
        ids = tokenizer.encode("[CLS] 今天，the com. 的 comer 1 a [SEP]")
        assert tokenizer.decode(ids) == "今天，the com.的comer 1 a"


# The protocol


def test_special_ids(tokenizers):
    found = {
        name: (each.pad_id, each.unk_id, each.start_id, each.end_id, each.mask_id, each.vocab_size, each.frame)
        for name, each in tokenizers.items()
    }
    size = len(VOCABULARY.read_text(encoding="utf-8").split("\n")) - 1
    assert found["t5"] == (0, 2, 0, 1, 819, 820, ((), (1,)))
    assert found["mt5"] == (0, 2, 0, 1, None, 720, ((), (1,)))
    assert found["bert"] == found["file"] == (0, 100, 101, 102, 103, size, ((101,), (102,)))


@pytest.mark.parametrize("kind", ["t5", "bert", "file"])
@given(text=st.text(max_size=30), length=st.integers(2, 12))
def test_a_cut_text_is_the_beginning_of_the_whole(kind, text, length, tokenizers):
    tokenizer = tokenizers[kind]
    leading, trailing = tokenizer.frame
    whole, cut = tokenizer.encode_source(text), tokenizer.encode_source(text, length)
    assert not whole.truncated
    assert cut.truncated == (len(whole.ids) > length)
    assert cut.ids == (whole.ids if not cut.truncated else [*whole.ids[: length - len(trailing)], *trailing])
    inner = tokenizer.encode_prefix(text)
    assert whole.ids == [*leading, *inner, *trailing]
    target = tokenizer.encode_target(text, length)
    assert target.ids == [tokenizer.start_id, *inner[: length - 2], tokenizer.end_id]
    assert max(whole.ids) < tokenizer.vocab_size


@given(st.text(st.characters(codec=None), max_size=20))
def test_any_string_can_be_read(tokenizers, text):
    for tokenizer in tokenizers.values():
        assert isinstance(tokenizer.decode(tokenizer.encode(text)), str)


def test_ids_that_are_no_tokens_are_left_out(tokenizers):
    for tokenizer in tokenizers.values():
        text = tokenizer.encode_prefix("今天")
        odd = [tokenizer.pad_id, *text, tokenizer.vocab_size, -1, 10**6, tokenizer.unk_id, tokenizer.end_id]
        assert tokenizer.decode(odd) == tokenizer.decode(text)


def test_no_room_for_the_frame(tokenizers):
    with pytest.raises(OptionError, match=r"max_length must be at least 1, .* got 0"):
        tokenizers["t5"].encode_source("今天", 0)
    with pytest.raises(OptionError, match=r"max_length must be at least 2, .* got 1"):
        tokenizers["bert"].encode_target("今天", 1)


# Folders


def write(folder, values, *files, **configs):
    (folder / "config.json").write_text(json.dumps(values))
    for file in files:
        shutil.copyfile(file, folder / (file.name if file.suffix != ".json" else "tokenizer.json"))
    for name, content in configs.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


T5 = {"model_type": "t5", "vocab_size": 832, "d_model": 8, "num_layers": 1, "num_heads": 1, "d_kv": 8, "d_ff": 8}
UER = {
    "model_type": "pegasus",
    "vocab_size": 832,
    "d_model": 8,
    **{f"{stack}_{name}": 1 for stack in ("encoder", "decoder") for name in ("layers", "attention_heads", "ffn_dim")},
}
WORDS = TINY_MODEL_DIR / "vocab.txt"


@pytest.mark.parametrize(
    ("values", "files", "kind", "frame", "size"),
    [
        (T5, [PIECES], "sentencepiece", ((), (1,)), 820),
        ({**T5, "model_type": "mt5"}, [PIECES], "sentencepiece", ((), (1,)), 720),
        (T5, [PIECES, GOLDEN / "bert_tokenizer.json"], "sentencepiece", ((), (1,)), 820),
        (UER, [VOCABULARY], "wordpiece", ((101,), (102,)), None),
        ({**T5, "model_type": "mt5"}, [VOCABULARY], "wordpiece", ((101,), (102,)), None),
        (UER, [GOLDEN / "bert_tokenizer.json"], "file", ((101,), (102,)), None),
        ({**T5, "model_type": "mt5"}, [WORDS], "words", ((101,), (102,)), 12000),
    ],
)
def test_files_choose_the_tokenizer(values, files, kind, frame, size, tmp_path):
    folder = write(tmp_path, values, *files)
    assert tokenizer_kind(folder) == kind
    tokenizer = load_tokenizer(folder)
    assert tokenizer.frame == frame
    assert size in (None, tokenizer.vocab_size)
    assert tokenizer.vocab_file.parent == folder


def test_our_own_directories_have_words():
    assert isinstance(load_tokenizer(TINY_MODEL_DIR), PegasusTokenizer)


@pytest.mark.parametrize(
    ("generation", "start", "end"),
    [
        ({}, 101, 102),
        ({"decoder_start_token_id": 101, "eos_token_id": 1}, 101, 102),  # [unused1] ends nothing
        ({"decoder_start_token_id": 0, "eos_token_id": 103}, 0, 103),
        ({"eos_token_id": [101, 102]}, 101, 102),
        ({"eos_token_id": [101, 1]}, 101, 101),
    ],
)
def test_the_generation_config_goes_before_the_tokenizer(generation, start, end, tmp_path):
    values = {**UER, "eos_token_id": 1, "decoder_start_token_id": 7}  # config.json does not count
    tokenizer = load_tokenizer(write(tmp_path, values, VOCABULARY, generation_config=generation))
    assert (tokenizer.start_id, tokenizer.end_id) == (start, end)


def test_the_settings_of_a_folder(tmp_path):
    settings = {"do_lower_case": False, "sep_token": {"content": "[MASK]"}, "cls_token": "[SEP]"}
    tokenizer = load_tokenizer(write(tmp_path, UER, VOCABULARY, tokenizer_config=settings))
    assert tokenizer.frame == ((102,), (103,))
    assert tokenizer.encode_prefix("A") == [100]  # upper case, which the vocabulary lacks
    pieces = load_tokenizer(write(tmp_path, T5, PIECES, tokenizer_config={"extra_ids": 3}))
    assert (pieces.vocab_size, pieces.encode_prefix("<extra_id_2>")) == (723, [720])


def test_the_fingerprint_is_of_all_files(tmp_path):
    folder = write(tmp_path, UER, VOCABULARY)
    before = load_tokenizer(folder).fingerprint
    assert load_tokenizer(folder).fingerprint == before
    write(folder, UER, tokenizer_config={"do_lower_case": False})
    assert load_tokenizer(folder).fingerprint != before


@pytest.mark.parametrize(
    ("values", "files", "configs", "words"),
    [
        (T5, [VOCABULARY], {"generation_config": {"eos_token_id": "</s>"}}, "must have ids of tokens, got '</s>'"),
        (
            UER,
            [VOCABULARY],
            {"tokenizer_config": {"sep_token": "[END]"}},
            r"vocab\.txt lacks the special tokens \[END\]",
        ),
        (UER, [VOCABULARY], {"tokenizer_config": [1]}, r"tokenizer_config\.json must hold a JSON object, got list"),
        (T5, [PIECES], {"tokenizer_config": {"extra_ids": "many"}}, "extra_ids in .* must be a number, got 'many'"),
        (T5, [PIECES], {"tokenizer_config": {"eos_token": "<end>"}}, r"spiece\.model lacks the special token <end>"),
        (T5, [PIECES], {"generation_config": {"decoder_start_token_id": 820}}, "none for decoder_start_token_id 820"),
    ],
)
def test_files_that_do_not_fit(values, files, configs, words, tmp_path):
    with pytest.raises(DataError, match=words) as caught:
        load_tokenizer(write(tmp_path, values, *files, **configs))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("file", "words"), [("spiece.model", "sentencepiece"), ("tokenizer.json", "tokenizers can")])
def test_a_file_that_is_damaged(file, words, tmp_path):
    (write(tmp_path, T5) / file).write_text("{")
    with pytest.raises(DataError, match=rf"{file} is not a .*{words}") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_user_dictionary_is_for_words(tmp_path):
    with pytest.raises(OptionError, match="user_dict is for vocabularies of words"):
        load_tokenizer(write(tmp_path, UER, VOCABULARY), "words.txt")


@pytest.mark.parametrize(("file", "package"), [(PIECES, "sentencepiece"), (VOCABULARY, "tokenizers")])
def test_a_package_that_is_missing(file, package, tmp_path, monkeypatch):
    folder = write(tmp_path, UER if package == "tokenizers" else T5, file)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(PegasusError, match=f"needs {package}: install it with `pip install {package}`"):
        load_tokenizer(folder)
