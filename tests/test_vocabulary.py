"""The vocabulary of the tiny model: what is in it, and that anyone can make it again."""

import functools

import jieba
import pytest

from t5_pegasus import vocabulary
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import TINY_MODEL_DIR
from t5_pegasus.tokenizer import PegasusTokenizer, is_cjk, normalize
from t5_pegasus.vocabulary import VocabularyConfig, build_vocabulary


@pytest.fixture(scope="module", autouse=True)
def read_the_dictionary_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(vocabulary, "_jieba_frequencies", functools.cache(vocabulary._jieba_frequencies))
        yield


@pytest.fixture(scope="module")
def tokens():
    return build_vocabulary(VocabularyConfig())


def test_the_committed_vocabulary_is_what_the_command_makes(tmp_path, capsys):
    made = tmp_path / "vocab.txt"
    assert vocabulary.main(["--size", "7000", "--output_file", str(made)]) == 0
    assert made.read_bytes() == (TINY_MODEL_DIR / "vocab.txt").read_bytes()
    assert capsys.readouterr().err == f"7000 tokens in {made}\n"


@pytest.mark.parametrize(("size", "num_characters"), [(7000, 4200), (322 + 1, 1), (9001, 12), (20000, 6000)])
def test_the_size_is_exact_and_no_token_stands_twice(size, num_characters):
    tokens = build_vocabulary(VocabularyConfig(size, num_characters))
    assert len(tokens) == len(set(tokens)) == size
    assert sum(len(token) == 1 and is_cjk(token) for token in tokens) == num_characters


def test_special_tokens_have_the_official_ids(tokens, public_data):
    official = (public_data / "vocab" / "chinese_t5_pegasus.vocab.txt").read_text(encoding="utf-8").split("\n")
    assert tokens[:106] == official[:106]
    first = official.index("##0")
    assert tokens[-36:] == official[first : first + 36]


def test_special_ids():
    tokenizer = PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.start_id, tokenizer.end_id) == (0, 100, 101, 102)
    assert tokenizer.tokens[103:106] == ["[MASK]", "<S>", "<T>"]


def test_every_token_can_be_met(tokens):
    segmenter = jieba.Tokenizer()
    segmenter.initialize()
    words = [token for token in tokens if len(token) > 1 and is_cjk(token[0])]
    assert len(words) > 2000
    assert all(segmenter.FREQ[word] for word in words)
    # jieba cuts even this one, alone: its characters are too frequent for a word of both to be likelier.
    assert [word for word in words if segmenter.lcut(word, HMM=False) != [word]] == ["不在"]
    assert all(normalize(token) == token for token in tokens[106:])
    tokenizer = PegasusTokenizer(TINY_MODEL_DIR / "vocab.txt")
    for token in tokens[106:]:
        if len(token) == 1:
            assert tokenizer.encode(token) == [101, tokens.index(token), 102]
        elif token.startswith("##"):
            assert tokenizer.encode("a" + token[2:])[1:-1] == [tokens.index("a"), tokens.index(token)]


@pytest.mark.parametrize(
    ("size", "num_characters", "message"),
    [
        (0, 4200, "size must be at least num_characters .*, got size 0 with num_characters 4200"),
        (4000, 4200, "got size 4000 with num_characters 4200"),
        (7000, 0, "got size 7000 with num_characters 0"),
        (10**6, 4200, r"size must be at most \d{6}, got 1000000"),
        (50_000, 30_000, r"num_characters must be at most \d{5}, got 30000"),
        (322, 1, "and 322 more for special tokens, signs and pieces, got size 322 with num_characters 1"),
    ],
)
def test_sizes_that_cannot_be_are_refused(size, num_characters, message, tmp_path):
    flags = ["--size", str(size), "--num_characters", str(num_characters), "--output_file", str(tmp_path / "v.txt")]
    with pytest.raises(OptionError, match=message):
        vocabulary.main(flags)
    assert not list(tmp_path.iterdir())
