"""Vocabularies: the tiny model's, which anyone can make again, those of a corpus and those of another vocabulary."""

import collections
import functools
import importlib
import itertools
import json
import os
import random
import subprocess
import sys

import jieba
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from t5_pegasus import vocabulary
from t5_pegasus.data.documents import read_documents
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import DATA_DIR, ROOT
from t5_pegasus.networks.backend import bert4keras
from t5_pegasus.text import words as words_module
from t5_pegasus.text.characters import is_cjk, normalize
from t5_pegasus.text.segmentation import load_cut
from t5_pegasus.text.tokenizer import PegasusTokenizer
from t5_pegasus.text.words import VocabularyConfig, build_vocabulary, count_words, measure_coverage
from tests.paths import UNTRAINED_MODEL_DIR

# Not an import statement, which would be sorted before the backend that makes bert4keras importable.
tokenizers = importlib.import_module(f"{bert4keras.__name__}.tokenizers")

ARTICLES = DATA_DIR / "articles.jsonl"


@pytest.fixture(scope="module", autouse=True)
def read_the_dictionary_once():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_jieba_frequencies", functools.cache(words_module._jieba_frequencies))
        yield


@pytest.fixture(scope="module")
def tokens():
    return build_vocabulary(VocabularyConfig())


def test_the_committed_vocabulary_is_what_the_command_makes(tmp_path, capsys):
    made = tmp_path / "vocab.txt"
    assert vocabulary.main(["--size", "7000", "--output_file", str(made)]) == 0
    assert made.read_bytes() == (UNTRAINED_MODEL_DIR / "vocab.txt").read_bytes()
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
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
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
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
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
        (100, None, "got size 100 with num_characters 60"),
    ],
)
def test_sizes_that_cannot_be_are_refused(size, num_characters, message, tmp_path):
    flags = ["--size", str(size), "--output_file", str(tmp_path / "v.txt")]
    flags += [] if num_characters is None else ["--num_characters", str(num_characters)]
    with pytest.raises(OptionError, match=message):
        vocabulary.main(flags)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "error", "message"),
    [
        (["--num_pieces", "35"], OptionError, "num_pieces must be at least 36, for letters and digits, got 35"),
        (["--min_count", "0"], OptionError, "min_count must be at least 1, got 0"),
        (["--compare", str(UNTRAINED_MODEL_DIR / "vocab.txt")], OptionError, "--compare needs a text to measure on"),
        (["--existing_vocab", "none.txt"], DataError, r"cannot read none\.txt"),
        (["--input_file", "none.jsonl"], DataError, r"cannot read none\.jsonl"),
        (["--input_file", str(ARTICLES), "--compare", "none.txt"], DataError, r"cannot read none\.txt"),
        (["--input_file", str(ARTICLES), "--output_file", "data"], OptionError, "must not be a directory .* got data"),
    ],
)
def test_flags_that_cannot_be_are_refused(flags, error, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    with pytest.raises(error, match=message):
        vocabulary.main(flags)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


# From a corpus

WORDS = [
    "内核",
    "系统",
    "文件",
    "linux",
    "ubuntu",
    "2021",
    "c++",
    "龘",
    "の",
    "\u200b",
    "\ufffd",
    "computing",
    "testing",
]


@pytest.fixture(scope="module")
def counts():
    """Return the counts of a corpus in which all of WORDS stand often, and some other words."""
    text = " ".join(WORDS) + " 内核 内核内核 computers tested "
    return count_words([text] * 20 + ["seldom ゐ 罕见"] * 4, load_cut())


@pytest.fixture(scope="module")
def from_corpus(counts):
    return build_vocabulary(VocabularyConfig(3000, 1500, 60), counts)


def kinds(tokens):
    """Return the kinds of tokens in their order, each once for every run."""
    names = []
    for token in tokens:
        if token.startswith("##") and len(token) > 2:
            name = "piece"
        elif len(token) > 1 and token[0] in "[<":
            name = "special"
        else:
            name = "character" if len(token) == 1 else "word"
        if names[-1:] != [name]:
            names.append(name)
    return names


def test_the_kinds_stand_in_the_official_order(from_corpus, public_data):
    official = (public_data / "vocab" / "chinese_t5_pegasus.vocab.txt").read_text(encoding="utf-8").split()
    assert kinds(from_corpus) == kinds(official) == ["special", "character", "word", "piece"]
    assert from_corpus[:106] == official[:106]


def test_words_are_ranked_by_the_corpus_and_then_by_jieba(from_corpus, counts, tokens):
    words = [token for token in from_corpus if len(token) > 1 and not token.startswith(("##", "[", "<"))]
    assert words[0] == "内核"  # thrice in each text; in jieba's dictionary it is the 16,000th word
    met = [word for word in words if counts[word]]
    assert words[: len(met)] == met == sorted(met, key=lambda word: -counts[word])
    rest = words[len(met) :]
    assert rest[:500] == [word for word in tokens if len(word) > 1 and is_cjk(word[0]) and word not in met][:500]
    assert {"linux", "ubuntu", "2021", "c++", "罕见"} < set(met)
    assert "seldom" not in from_corpus  # four times; a word of jieba's is taken however rare


def test_characters_of_the_corpus(from_corpus):
    assert {"龘", "の", "见"} < set(from_corpus)
    assert not {"ゐ", "\u200b", "\ufffd"} & set(from_corpus)
    assert sum(len(token) == 1 and is_cjk(token) for token in from_corpus) == 1500


def test_size_is_exact_and_every_token_can_be_met(from_corpus, tmp_path):
    path = tmp_path / "vocab.txt"
    path.write_text("".join(f"{token}\n" for token in from_corpus), encoding="utf-8")
    tokenizer = PegasusTokenizer(path)
    assert tokenizer.tokens == from_corpus
    assert len(from_corpus) == len(set(from_corpus)) == 3000
    for word in (*WORDS[:9], "computing"):
        assert tokenizer.encode(word)[1:-1] == [from_corpus.index(word)]


def test_pieces_are_those_that_byte_pair_encoding_joins():
    """Four words end in "ing", two go on with "ed"; none has room to be a token of its own."""
    counts = {"zring": 50, "qxing": 40, "vking": 30, "wjing": 20, "zred": 15, "wjed": 10, "seld": 4, "内核": 10}
    config = VocabularyConfig(size=322 + 100 + 3, num_characters=100, num_pieces=39)
    tokens = build_vocabulary(config, counts)
    # n+g comes 140 times and is first of the equals by code point, then i+ng; r+ing 50 times is the third.
    assert tokens[-39:][36:] == ["##ng", "##ing", "##ring"]
    assert len(tokens) == 425


@settings(max_examples=200, deadline=None)
@given(st.dictionaries(st.text("ab1", min_size=1, max_size=7), st.integers(1, 30), max_size=12), st.integers(0, 8))
def test_joining_pairs_is_byte_pair_encoding(words, number):
    """The fast version keeps its counts from step to step; this one counts anew."""
    slow = [(list(word), count) for word, count in sorted(words.items())]
    expected = []
    while len(expected) < number:
        pairs = collections.Counter()
        for pieces, count in slow:
            for pair in itertools.pairwise(pieces):
                pairs[pair] += count
        best = max(pairs, key=lambda pair: (pairs[pair], pair), default=None)
        if best is None or pairs[best] < 5:
            break
        for pieces, _ in slow:
            place = len(pieces) - 2
            while place >= 0:
                if (pieces[place], pieces[place + 1]) == best:
                    pieces[place : place + 2] = [best[0] + best[1]]
                    place -= 1
                place -= 1
        expected += [best[0] + best[1]] if best[0] + best[1] not in expected else []
    assert (
        words_module._join_pairs([(list(word), count) for word, count in sorted(words.items())], number, 5) == expected
    )


def test_the_order_of_documents_and_of_hashes_changes_nothing(tmp_path):
    lines = ARTICLES.read_text(encoding="utf-8").splitlines()
    made = []
    for seed in ("1", "2"):
        random.Random(seed).shuffle(lines)
        corpus, output = tmp_path / f"{seed}.jsonl", tmp_path / f"{seed}.txt"
        corpus.write_text("\n".join(lines), encoding="utf-8")
        flags = ["--size", "5000", "--input_file", str(corpus), "--held_out_file", str(ARTICLES)]
        command = [sys.executable, "-m", "t5_pegasus.vocabulary", *flags, "--output_file", str(output)]
        subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, "PYTHONHASHSEED": seed}, capture_output=True)
        made.append(output.read_bytes())
    assert made[0] == made[1]
    assert len(made[0].split()) == 5000


# From another vocabulary


def test_a_larger_size_extends_the_existing_vocabulary_and_a_smaller_one_trims_it(counts):
    existing = [
        *build_vocabulary(VocabularyConfig(2000, 900)),
        "zebra",
        "##bra",
        "##一",
        "一 二",
        "无此词也",
        "Ab",
        "ɡ",
    ]
    met_by_none = {"##一", "一 二", "无此词也", "Ab"}
    larger = build_vocabulary(VocabularyConfig(2600, 1000), counts, existing)
    assert set(existing) - set(larger) == met_by_none
    assert len(larger) == 2600
    assert {"内核", "linux"} < set(larger)
    smaller = build_vocabulary(VocabularyConfig(1500, 800), counts, [*existing, "内核", "linux"])
    fixed = set(smaller[:322]) | {token for token in smaller if token.startswith("##")}
    assert set(smaller) - fixed < {*existing, "内核", "linux"}
    assert {"内核", "linux", "zebra"} & set(smaller) == {"内核", "linux"}


def test_the_official_vocabulary_can_be_kept_whole(public_data, tmp_path, capsys):
    official = public_data / "vocab" / "chinese_t5_pegasus.vocab.txt"
    flags = ["--size", "51000", "--existing_vocab", str(official), "--output_file", str(tmp_path / "vocab.txt")]
    assert vocabulary.main(flags) == 0
    assert f"50000 of the 50000 tokens of {official} among them" in capsys.readouterr().err
    made = PegasusTokenizer(tmp_path / "vocab.txt").tokens
    assert set(official.read_text(encoding="utf-8").split()) < set(made)


# Coverage


def plain_coverage(vocab_file, texts):
    """Return what `measure_coverage` says, word by word from bert4keras's own tokenizer."""
    stock = tokenizers.Tokenizer(str(vocab_file), do_lower_case=True)
    segmenter = jieba.Tokenizer()
    total = collections.Counter()
    for text in texts:
        for word in segmenter.cut(normalize(text), HMM=False):
            if word.isspace():
                continue
            if word in stock._token_dict:
                total.update(characters=len(word), tokens=1, words=len(word) > 1, whole_words=len(word) > 1)
                continue
            tokens = stock.tokenize(word)[1:-1]
            unknown = [token for token in tokens if token not in stock._token_dict]
            total.update(characters=len(word), tokens=len(tokens), words=len(word) > 1)
            total.update(unknown_characters=sum(len(token) for token in unknown))
    return {name: total[name] for name in ("characters", "tokens", "unknown_characters", "words", "whole_words")}


def test_coverage_is_what_bert4keras_cuts():
    texts = ["龘龘 ゐゐ linuxß 靐龗", *(document.text for document in itertools.islice(read_documents(ARTICLES), 30))]
    vocab_file = UNTRAINED_MODEL_DIR / "vocab.txt"
    coverage = measure_coverage(PegasusTokenizer(vocab_file), count_words(texts, load_cut()))
    measured = coverage.to_dict()
    expected = plain_coverage(vocab_file, texts)
    assert {name: measured[name] for name in expected} == expected
    assert expected["unknown_characters"] >= 4
    assert measured["coverage"] == 1 - expected["unknown_characters"] / expected["characters"]
    assert measured["tokens_per_character"] == expected["tokens"] / expected["characters"]
    assert measured["whole_word_share"] == expected["whole_words"] / expected["words"]


def test_the_report_has_a_row_for_each_vocabulary(tmp_path, capsys):
    lines = ARTICLES.read_text(encoding="utf-8").splitlines()
    corpus, held_out = tmp_path / "corpus.jsonl", tmp_path / "held_out.jsonl"
    # The hundredth document, and no other, is kept back; the bad line is none.
    repeated = (lines * 200)[:98]
    last = json.dumps({"content": "独角兽 unicorn"}, ensure_ascii=False)
    corpus.write_text("\n".join(["{", *repeated, lines[0], last, lines[1]]), encoding="utf-8")
    held_out.write_text(last, encoding="utf-8")
    tiny, made = UNTRAINED_MODEL_DIR / "vocab.txt", tmp_path / "vocab.txt"
    flags = ["--input_file", str(corpus), "--skip_bad_lines", "--compare", str(tiny), "--output_file", str(made)]
    assert vocabulary.main(flags) == 0
    captured = capsys.readouterr()
    assert "1 bad lines skipped" in captured.err
    assert "unicorn" not in made.read_text(encoding="utf-8").split()
    *table, last_line = captured.out.splitlines()
    rows = json.loads(last_line)
    assert list(rows) == [str(made), str(tiny)]
    assert len(table) == 4
    counts = count_words(["独角兽 unicorn"], load_cut())
    for path, row in rows.items():
        tokenizer = PegasusTokenizer(path)
        assert row == {"size": 7000, **measure_coverage(tokenizer, counts).to_dict()}
        assert row["tokens"] == len(tokenizer.encode("独角兽 unicorn")) - 2

    assert vocabulary.main([*flags, "--held_out_file", str(held_out)]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])[str(tiny)] == rows[str(tiny)]
    corpus.write_text(lines[0], encoding="utf-8")
    assert vocabulary.main(flags) == 0
    captured = capsys.readouterr()
    assert not captured.out
    assert "fewer than 100 documents; give --held_out_file" in captured.err


def test_a_folder_and_documents_of_several_lines_are_read(tmp_path, capsys):
    corpus = tmp_path / "corpus"
    corpus.mkdir()
    for number in range(2):
        (corpus / f"{number}.txt").write_text("霹雳\n雷霆\n\n" * 75, encoding="utf-8")
    flags = ["--size", "1000", "--input_file", str(corpus), "--output_file", str(tmp_path / "vocab.txt")]
    # Of 300 lines three are held out, a word each; of 150 paragraphs one, which has both words.
    for separator, words in (("line", 3), ("blank_line", 2)):
        assert vocabulary.main([*flags, "--document_separator", separator]) == 0
        row = json.loads(capsys.readouterr().out.splitlines()[-1])[str(tmp_path / "vocab.txt")]
        assert (row["characters"], row["words"]) == (2 * words, words)
    assert {"霹雳", "雷霆"} < set((tmp_path / "vocab.txt").read_text(encoding="utf-8").split())


def test_words_of_a_user_dictionary(tmp_path):
    (tmp_path / "user.txt").write_text("开源鸿蒙 1000\n", encoding="utf-8")
    (tmp_path / "corpus.txt").write_text("开源鸿蒙系统\n" * 10, encoding="utf-8")
    made = tmp_path / "vocab.txt"
    flags = ["--size", "1000", "--input_file", str(tmp_path / "corpus.txt"), "--output_file", str(made)]
    vocabulary.main(flags)
    assert "开源鸿蒙" not in made.read_text(encoding="utf-8").split()
    vocabulary.main([*flags, "--user_dict", str(tmp_path / "user.txt")])
    assert "开源鸿蒙" in made.read_text(encoding="utf-8").split()
