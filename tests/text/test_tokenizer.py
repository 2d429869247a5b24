"""The tokenizer against bert4keras's own, id for id, and its way back to text."""

import functools
import hashlib
import importlib
import os
import random
import sys
from pathlib import Path

import jieba
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.locations import DATA_DIR
from t5_pegasus.networks.backend import bert4keras
from t5_pegasus.text.characters import normalize
from t5_pegasus.text.tokenizer import PegasusTokenizer, join_tokens
from tests.paths import UNTRAINED_MODEL_DIR

# Not an import statement, which would be sorted before the backend that makes bert4keras importable.
tokenizers = importlib.import_module(f"{bert4keras.__name__}.tokenizers")

TINY = UNTRAINED_MODEL_DIR / "vocab.txt"
PUBLIC = os.environ.get("T5_PEGASUS_DATA")
# The official vocabulary where it is given, else the tiny one: what hypothesis draws from must be known at import.
VOCAB = Path(PUBLIC, "vocab", "chinese_t5_pegasus.vocab.txt") if PUBLIC else TINY

SAMPLE_LINES = [
    line
    for name in ("train.tsv", "valid.tsv", "test.tsv", "articles.jsonl")
    for line in (DATA_DIR / name).read_text(encoding="utf-8").splitlines()
]
USER_WORDS = [
    *("语言模型", "自监督", "t5", "3.5", "c++17", "中国人民 3", "人民 50 nz", "不存在的词 1000000", "预训练 nz"),
    *("gpt-4", "北京大", "##a", "\u4dae\u9fd6字", "[cls]", "a b", "t5 7 nz", ""),
]
# What only jieba does, each alone: words taken out of its dictionary, and a frequency beyond 64 bits.
USER_DICTS = {
    "rjieba": USER_WORDS,
    "removed": [*USER_WORDS, "的 0", "模型 0 n"],
    "beyond": [*USER_WORDS, "学习 100000000000000000000000"],
}


def stock(vocab_file, segmenter):
    """Return bert4keras's tokenizer as T5-PEGASUS was trained with."""
    return tokenizers.Tokenizer(
        str(vocab_file), do_lower_case=True, pre_tokenize=lambda text: segmenter.cut(text, HMM=False)
    )


def jieba_with(user_dict):
    segmenter = jieba.Tokenizer()
    segmenter.load_userdict(str(user_dict))
    return segmenter


def without_rjieba(monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)  # what is None there is neither found nor imported


def write_user_dict(path, words):
    path.write_text("".join(f"{word}\n" for word in words), encoding="utf-8")
    return path


JIEBA = jieba.Tokenizer()
STOCK, OURS = stock(VOCAB, JIEBA), PegasusTokenizer(VOCAB)


# Ids

# Ideographs old and new (jieba knows those to U+9FD5), other letters, marks, signs, what is invisible, halves of pairs.
BLOCKS = [
    *((0x4E00, 0x4E80), (0x9FC0, 0x9FFF), (0x3400, 0x3410), (0x20000, 0x20010), (0x2B810, 0x2B830), (0xF900, 0xFA10)),
    *((0x2F800, 0x2F810), (0x30000, 0x30010), (0x3000, 0x30FF), (0xAC00, 0xAC10), (0xFF00, 0xFFEF), (0xC0, 0x24F)),
    *((0x300, 0x30F), (0x370, 0x3FF), (0x600, 0x660), (0x1D165, 0x1D172), (0x1E8D0, 0x1E8D6), (0xE0100, 0xE0110)),
    *((0, 0x20), (0x7F, 0xA0), (0x2000, 0x206F), (0x2150, 0x2190), (0xFFF0, 0xFFFF), (0xD800, 0xDFFF)),
    *((0x1F300, 0x1F650), (0x1F3FB, 0x1F3FF)),
]
TRAPS = [
    *("[CLS]", "[SEP]", "[UNK]", "[unused1]", "[PAD]", "<S>", "<T>", "##", "##a", "#a", "a##b", "[", "]", "<>", "--"),
    *("4S店", "C++", "c#", "AT&T", "iPhone15", "3.14%", "İstanbul", "ΑΣ", "ﬁ", "café", "Ⅷ", "①", "ｉＰｈ", "한국"),
    *("か\u3099", "𝕏", "👩\u200d💻", "🇨🇳", "e\u0301", "\ufeff", "\u00ad", "\r\n", "\t", "\u2028", "\x00", "\ufffd"),
    *("㐀", "䶮", "龥鿖鿿", "𠮷𠮷野家", "结婚的和尚未结婚的", "南京市长江大桥", "gpt-4", "学习", "模型", "的", "人民"),
]
PIECES = st.one_of(
    st.sampled_from([*TRAPS, *OURS.tokens[::7], *(line[-30:] for line in SAMPLE_LINES)]),
    st.sampled_from(BLOCKS).flatmap(lambda block: st.text(st.integers(*block).map(chr), max_size=6)),
    st.text(st.characters(), max_size=5),
    st.text("abcABC019_.+#&%-' ", max_size=8),
    st.builds(str.__mul__, st.sampled_from(["a", "7", "的", "é", "ab", "\u0301", "Ω", "㐀"]), st.integers(190, 210)),
)
TEXTS = st.lists(PIECES, max_size=8).map("".join)


@settings(max_examples=300, deadline=None)
@given(TEXTS, st.none() | st.integers(2, 20))
@example("", None)
@example("a" * 200 + " " + "b" * 201, None)
@example("时间\ud83d序列𠮷图像", None)
def test_ids_of_any_text_are_bert4keras_s(text, max_length):
    assert OURS.encode(text, max_length) == STOCK.encode(text, maxlen=max_length)[0]


@pytest.fixture(scope="module", params=USER_DICTS.values(), ids=USER_DICTS)
def with_words(request, tmp_path_factory):
    """Return tokenizers with user words: bert4keras's, ours, and ours where rjieba is not installed."""
    path = write_user_dict(tmp_path_factory.mktemp("words") / "words.txt", request.param)
    ours, fallback = PegasusTokenizer(VOCAB, path), PegasusTokenizer(VOCAB, path)
    with pytest.MonkeyPatch.context() as patch:
        without_rjieba(patch)
        fallback.encode("")  # loads the segmenter
    return stock(VOCAB, jieba_with(path)), ours, fallback


@settings(max_examples=100, deadline=None)
@given(text=TEXTS)
def test_ids_with_user_words_and_without_rjieba_are_the_same(with_words, text):
    expected, ours, fallback = with_words
    ids = expected.encode(text)[0]
    assert ours.encode(text) == ids
    assert fallback.encode(text) == ids


def test_ids_of_the_sample_data_are_bert4keras_s(monkeypatch):
    plain, ours, fallback = stock(TINY, JIEBA), PegasusTokenizer(TINY), PegasusTokenizer(TINY)
    without_rjieba(monkeypatch)
    fallback.encode("")
    for max_length in (None, 20):
        ids = [plain.encode(line, maxlen=max_length)[0] for line in SAMPLE_LINES]
        assert ours.encode_batch(SAMPLE_LINES, max_length) == ids
        assert fallback.encode_batch(SAMPLE_LINES, max_length) == ids


@pytest.mark.parametrize("seed", range(2))
def test_any_words_may_be_user_words(seed, tmp_path):
    """Many words, new and known, some twice: jieba and rjieba reckon differently with each of these."""
    draw = random.Random(seed)
    text = normalize("".join(SAMPLE_LINES))
    starts = [draw.randrange(len(text) - 8) for _ in range(1000)]
    words = [text[start : start + draw.randint(1, 5)].strip() for start in starts]
    words += JIEBA.lcut(text, HMM=False)[:5000:5]
    lines = [
        f"{word}{draw.choice(['', '', ' 1', ' 40', ' 1000000000'])}"
        for word in words
        if word.strip() and "\t" not in word
    ]
    path = write_user_dict(tmp_path / "words.txt", lines)
    expected = stock(TINY, jieba_with(path))
    ids = [expected.encode(line)[0] for line in SAMPLE_LINES]
    assert PegasusTokenizer(TINY, path).encode_batch(SAMPLE_LINES) == ids


@pytest.fixture(scope="session")
def csl(public_data):
    """Return every pair of CSL, as a line."""
    files = (public_data / "csl" / f"{name}.tsv" for name in ("dev", "extra", "test", "train"))
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def test_ids_of_every_line_of_csl_are_bert4keras_s(csl):
    assert len(csl) == 4500
    assert OURS.encode_batch(csl) == [STOCK.encode(line)[0] for line in csl]


def test_ids_of_csl_are_bert4keras_s_also_with_user_words(csl, with_words):
    expected, ours, fallback = with_words
    lines = csl[::9]
    ids = [expected.encode(line, maxlen=128)[0] for line in lines]
    assert ours.encode_batch(lines, 128) == ids
    assert fallback.encode_batch(lines, 128) == ids


def test_user_words_are_met_in_any_case(tmp_path):
    path = write_user_dict(tmp_path / "words.txt", ["大语言模型", "PEGASUS模型"])
    vocab = tmp_path / "vocab.txt"
    vocab.write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n大语言模型\npegasus模型\npegasus\n", encoding="utf-8")
    assert PegasusTokenizer(vocab, path).encode("Pegasus模型大语言模型") == [2, 5, 4, 3]
    assert PegasusTokenizer(vocab).encode("Pegasus") == [2, 6, 3]


def test_user_words_stay_apart_from_the_user_s_own_jieba(tmp_path, monkeypatch):
    without_rjieba(monkeypatch)
    jieba.initialize()
    before = (jieba.dt.total, len(jieba.dt.FREQ))
    ours = PegasusTokenizer(TINY, write_user_dict(tmp_path / "words.txt", USER_WORDS))
    ids = ours.encode("深度学习模型")
    assert (jieba.dt.total, len(jieba.dt.FREQ)) == before
    monkeypatch.setattr(jieba, "dt", None)
    assert ours.encode("深度学习模型") == PegasusTokenizer(TINY).encode("深度学习模型") == ids


def test_forgetting_words_changes_nothing(monkeypatch):
    monkeypatch.setattr("t5_pegasus.text.tokenizer._MOST_CACHED_WORDS", 3)
    lines = SAMPLE_LINES[:40]
    assert PegasusTokenizer(VOCAB).encode_batch(lines) == OURS.encode_batch(lines)


def test_words_are_kept_to_a_length_and_a_number(monkeypatch):
    monkeypatch.setattr("t5_pegasus.text.tokenizer._MOST_CACHED_WORDS", 3)
    kept = PegasusTokenizer(TINY)._word_ids
    for word in ("a" * 32, "a" * 33, "b", "c"):
        assert kept[word] == PegasusTokenizer(TINY).encode_word(word)
    assert list(kept) == ["a" * 32, "b", "c"]
    assert kept["d"] == PegasusTokenizer(TINY).encode_word("d")
    assert list(kept) == ["d"]


def test_long_texts_are_cut_with_the_end_kept_and_say_so():
    tokenizer = PegasusTokenizer(TINY)
    whole = tokenizer.encode("深度学习模型。")
    for max_length in (None, len(whole), len(whole) + 1):
        assert tokenizer.encode_source("深度学习模型。", max_length) == (whole, False)
    for max_length in range(2, len(whole)):
        expected = [*whole[: max_length - 1], tokenizer.end_id]
        for encode in (tokenizer.encode_source, tokenizer.encode_target):
            assert encode("深度学习模型。", max_length) == (expected, True)
        assert tokenizer.encode("深度学习模型。", max_length) == expected


def test_a_source_has_its_frame_and_a_prefix_does_not():
    text = "我们使用iPhone 15 Pro拍照。"
    leading, trailing = OURS.frame
    assert (leading, trailing, OURS.frame.size) == ((OURS.start_id,), (OURS.end_id,), 2)
    assert [*leading, *OURS.encode_prefix(text), *trailing] == OURS.encode_source(text).ids == OURS.encode(text)
    assert OURS.encode_prefix("") == []


def test_the_fingerprint_is_of_tokens_in_order_and_user_words(tmp_path):
    def make(tokens, words=None):
        (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *tokens]), encoding="utf-8")
        if words is not None:
            (tmp_path / "words.txt").write_text(words, encoding="utf-8")
        return PegasusTokenizer(tmp_path / "vocab.txt", None if words is None else tmp_path / "words.txt").fingerprint

    assert make("的一") == make("的一") == make("的一", "")
    assert len({make("的一"), make("一的"), make("的一二"), make("的一", "的一"), make("的一", "的一 5")}) == 5
    # Always the same: shards of pairs that others have made name it.
    content = '[["[PAD]", "[UNK]", "[CLS]", "[SEP]", "的", "一"], [["的一", 5]]]'
    assert make("的一", "的一 5") == hashlib.sha256(content.encode()).hexdigest()


def test_ids_that_are_no_tokens_are_left_out():
    """An embedding may have more rows than the vocabulary."""
    ids = OURS.encode("hello world")
    assert OURS.decode([OURS.vocab_size, *ids, OURS.vocab_size + 9]) == OURS.decode(ids) == "hello world"


class Counting(dict):
    """What counts how often it is asked."""

    asked = 0

    def get(self, key, default=None):
        self.asked += 1
        return super().get(key, default)


def test_masks_are_one_token_each_and_need_a_vocabulary_that_has_it(tmp_path):
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
    [_, *first, _], [_, *last, _] = tokenizer.encode_batch(["今天天气", "很好。"])
    masked = functools.partial(tokenizer.encode_source, masked=True)
    assert tokenizer.mask_id == 103
    assert masked("今天天气[MASK][MASK]很好。").ids == [101, *first, 103, 103, *last, 102]
    assert masked("[MASK]今天天气", 3) == ([101, 103, 102], True)
    assert masked("[MASK]", 3) == ([101, 103, 102], False)
    assert masked("今天天气[mask]很好。").ids == tokenizer.encode("今天天气[MASK]很好。")
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n", encoding="utf-8")
    without = PegasusTokenizer(tmp_path / "vocab.txt")
    assert without.mask_id is None
    assert without.encode_source("一", masked=True).ids == without.encode("一")
    with pytest.raises(DataError, match=r"vocab\.txt lacks \[MASK\], which the text has"):
        without.encode_source("一二三[MASK]", 3, masked=True)


def test_what_no_vocabulary_has_costs_no_more_than_its_length():
    tokenizer = PegasusTokenizer(TINY)
    tokenizer._ids = Counting(tokenizer._ids)
    tokenizer.encode("qxzjvkw" * 28)
    assert tokenizer._ids.asked <= 7 * 28 * max(map(len, tokenizer.tokens))
    tokenizer._ids.asked = 0
    tokenizer.encode("q1x2z3" * 3000, 10)
    tokenizer.encode(" ".join(["qxzjvkw" * 4] * 600), 10)
    assert tokenizer._ids.asked < 1000


def test_words_beyond_what_is_kept_are_not_looked_up_but_for_one():
    tokenizer = PegasusTokenizer(TINY)
    assert tokenizer.encode_source("a b c d e f", 5).truncated
    assert list(tokenizer._word_ids) == ["a", " ", "b", "c", "d"]


# Back to text

# What one token can be made of, and so what text can be made of: no ## pieces, no [CLS] and its like.
WORDS = [token for token in OURS.tokens if not token.startswith("##") and not (token[0] in "[<" and len(token) > 1)]
LETTERS = [token for token in WORDS if len(token) == 1]


def without_spaces(text):
    return "".join(text.split())


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.sampled_from(WORDS),
            st.sampled_from(WORDS).map(lambda word: word.title() if word.isascii() else word),
            st.text(st.sampled_from(LETTERS), max_size=8),
            st.sampled_from([" ", "\n", "\u3000"]),
        ),
        max_size=30,
    ).map("".join)
)
@example("##a #a a## ## [CLS] [unused1] <S> []")
def test_text_of_the_vocabulary_comes_back(text):
    assert without_spaces(OURS.decode(OURS.encode(text))) == without_spaces(normalize(text))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1, max_size=12), min_size=1, max_size=12))
def test_english_words_keep_their_spaces(words):
    sentence = " ".join(words)
    assert OURS.decode(OURS.encode(sentence)) == sentence


@pytest.mark.parametrize(
    "text",
    [
        "",
        "attention is all you need",
        "hello, world! what is new? nothing: the same; as ever",
        "it's state-of-the-art",
        "我们使用iphone 15 pro拍照。",
        "基于bert的text to sql方法(第2版)",
        "一种新的聚类方法,svm与knn的比较:em算法",
        "准确率从69.87提高到70.54%",
        "node.js 18.0和vue.js",
        "4s店有1,000 m长",
        "a, b",
        "3,svm与3",
    ],
)
def test_ordinary_text_comes_back_as_it_is(text):
    assert OURS.decode(OURS.encode(text)) == text


def test_only_special_tokens_are_left_out(tmp_path):
    vocab = tmp_path / "vocab.txt"
    special = ["[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "<S>", "<T>"]
    # An empty line is a token, too.
    text = ["[", "]", "<", ">", "#", "##", "##a", "##ing", "sing", "", "end", "[]", "<>"]
    vocab.write_text("\n".join([*special, *text]), encoding="utf-8")
    tokenizer = PegasusTokenizer(vocab)
    assert tokenizer.decode(range(len(special + text))) == "[]<>###aing sing end[]<>"


def test_a_comma_after_an_english_word_is_english_however_it_is_in_pieces():
    for word in (["hello"], ["h", "##ello"], ["hell", "##o"]):
        assert join_tokens([*word, ",", "world"]) == "hello, world"
        assert join_tokens([*word, "，", "world"]) == "hello，world"
    assert join_tokens(["方法", ",", "svm"]) == "方法,svm"


# What is refused


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read .*vocab.txt: No such file or directory"),
        ("[PAD]\n[UNK]\n的\n[CLS]\n的\n[SEP]\n".encode(), "vocab.txt:5: token '的' is also on line 3"),
        (b"[PAD]\n[UNK]\nx\n", r"vocab.txt lacks the special tokens \[CLS\] \[SEP\]$"),
        (b"", r"vocab.txt lacks the special tokens \[PAD\] "),
        ("[PAD]\n的".encode("gb18030"), "vocab.txt:2: not UTF-8"),
    ],
)
def test_a_vocabulary_that_cannot_be_used_is_refused(tmp_path, content, message):
    vocab = tmp_path / "vocab.txt"
    if content is not None:
        vocab.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        PegasusTokenizer(vocab)
    assert "\n" not in str(caught.value)


def test_user_words_that_cannot_be_read_are_refused_at_once(tmp_path):
    with pytest.raises(DataError, match=r"cannot read .*none.txt: No such file"):
        PegasusTokenizer(TINY, tmp_path / "none.txt")
    (tmp_path / "words.txt").write_bytes("模型".encode("gb18030"))
    with pytest.raises(DataError, match=r"words.txt:1: not UTF-8"):
        PegasusTokenizer(TINY, tmp_path / "words.txt")


@pytest.mark.parametrize(
    "line",
    ["模型\t3", "模型 -3", "模型 1.5", "模型 1e3 n", "模型 3 4", "模型 3 n 4", "字" * 101, "a\u200bb", "模型\x07"],
)
def test_a_line_that_is_no_user_word_is_refused(tmp_path, line):
    """To jieba, each of these is one word, which it then never finds."""
    path = write_user_dict(tmp_path / "words.txt", ["语言模型 3 n", "", line])
    with pytest.raises(DataError, match=r"words.txt:3: expected word \[frequency\] \[tag\]: .*, got '"):
        PegasusTokenizer(TINY, path)


def test_a_text_alone_is_no_batch():
    with pytest.raises(OptionError, match="texts must be a list of texts, got '文本'"):
        OURS.encode_batch("文本")


@pytest.mark.parametrize("max_length", [1, 0, -5])
def test_a_length_without_room_for_start_and_end_is_refused(max_length):
    with pytest.raises(OptionError, match=rf"max_length must be at least 2, .* got {max_length}$"):
        OURS.encode("的", max_length)
