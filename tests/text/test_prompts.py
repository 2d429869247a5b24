"""The prompt around a text: it is read as one text with it, never cut, and kept beside weights."""

import dataclasses
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from t5_pegasus import PegasusTokenizer
from t5_pegasus.decoding.inputs import LONG_TEXT
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.text.folder import load_tokenizer
from t5_pegasus.text.prompts import Prompt, PromptedTokenizer, read_prompt, unescape, with_prompt, write_prompt
from t5_pegasus.text.protocol import Encoded, Frame
from tests.paths import UNTRAINED_MODEL_DIR

OURS = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
DIALOGUE = Prompt("Summarize the following conversation.\n\n", "\n\nSummary: ")
PROMPTS = [Prompt("为下文写标题："), Prompt("", "。标题："), Prompt("甲", "乙"), DIALOGUE]
TEXTS = st.text("一二三四五六七八九十，。a1 ", max_size=40).map(lambda text: f"今{text}")


MERGED = {"甲今": 0x10FFFE, "今乙": 0x10FFFF}


class Merging:
    """A tokenizer of code points to which the keys of MERGED are one token: tokens reach over a prompt's border."""

    vocab_file, vocab_size = Path("none"), 0x110000
    pad_id, unk_id, start_id, end_id, mask_id = 0, 1, 2, 3, None
    frame, fingerprint = Frame((), (3,)), "merging"

    def encode_prefix(self, text):
        ids = []
        while text:
            size = 2 if text[:2] in MERGED else 1
            ids.append(MERGED.get(text[:2], ord(text[0])))
            text = text[size:]
        return ids

    def encode_source(self, text, max_length=None, masked=False):
        ids = self.encode_prefix(text)
        room = None if max_length is None else max_length - 1
        return Encoded([*ids[:room], 3], room is not None and len(ids) > room)

    encode_target = encode_source

    def decode(self, ids):
        names = {index: name for name, index in MERGED.items()}
        return "".join(names.get(index, chr(index)) for index in ids if index != 3)


MERGING = Merging()


@settings(max_examples=60)
@given(TEXTS, st.sampled_from(PROMPTS), st.integers(1, 40), st.sampled_from([OURS, MERGING]))
@example("今", PROMPTS[2], 1, MERGING)
@example("今今", PROMPTS[2], 1, MERGING)
@example("今一二三", PROMPTS[2], 2, MERGING)
def test_a_source_is_the_prompt_around_the_text_or_around_its_beginning(text, prompt, room, tokenizer):
    prompted = with_prompt(tokenizer, prompt)
    limit = prompted.frame.size + room
    whole, cut = prompted.encode_source(text), prompted.encode_source(text, limit)
    assert whole == tokenizer.encode_source(prompt.source_prefix + text + prompt.source_suffix)
    if len(whole.ids) <= limit:
        assert cut == whole
        return
    assert len(cut.ids) <= limit
    trailing = prompted.frame.trailing
    assert tuple(cut.ids[-len(trailing) :]) == trailing
    prefix, suffix = (tokenizer.decode(tokenizer.encode_prefix(each)) for each in dataclasses.astuple(prompt))
    read, full = tokenizer.decode(cut.ids), tokenizer.decode(whole.ids)
    assert read.startswith(prefix)
    assert read.endswith(suffix)
    kept, body = (
        read[len(prefix) : len(read) - len(suffix)].strip(),
        full[len(prefix) : len(full) - len(suffix)].strip(),
    )
    assert body.startswith(kept)
    assert cut.truncated or kept == body


@settings(max_examples=60)
@given(TEXTS, st.sampled_from(PROMPTS[:3]), st.integers(14, 20), st.sampled_from(sorted(LONG_TEXT)))
@example("今一二三四五六七八九十一二三四五六七八九十今", PROMPTS[2], 14, "window")
@example("今一二三四五六七八九十一二今", PROMPTS[2], 17, "head_tail")
def test_every_way_to_read_a_long_text_has_the_prompt_in_each_window(text, prompt, max_length, name):
    tokenizer, prompted = MERGING, with_prompt(MERGING, prompt)
    source = LONG_TEXT[name](prompted, text, max_length)
    joint = prompt.source_prefix + text + prompt.source_suffix
    for window in source.windows:
        assert len(window.ids) <= max_length
        assert tokenizer.decode(window.ids).startswith(prompt.source_prefix)
        assert tokenizer.decode(window.ids).endswith(prompt.source_suffix)
    read = tokenizer.decode(source.ids)
    assert (read == joint) == (not source.truncated)
    if name == "window":
        assert read == joint


@pytest.mark.parametrize("name", ["t5", "mt5", "uer_pegasus"])
def test_folders_of_hugging_face_read_prompt_and_text_as_one(hugging_face, name):
    """As transformers does, whose ids those of the whole are; and a longer text between the whole prompt."""
    tokenizer = load_tokenizer(hugging_face / name)
    text = "Ann: Are you free for lunch?\nBob: 好的，一点见。"
    for prompt in (Prompt("summarize: "), DIALOGUE, *PROMPTS[:2]):
        prompted = with_prompt(tokenizer, prompt)
        whole = prompted.encode_source(text)
        assert whole == tokenizer.encode_source(prompt.source_prefix + text + prompt.source_suffix)
        cut = prompted.encode_source(text, len(whole.ids) - 3)
        leading, trailing = prompted.frame
        assert tuple(cut.ids[len(cut.ids) - len(trailing) :]) == trailing
        assert cut.ids[: len(leading)] == whole.ids[: len(leading)]
        assert len(cut.ids) <= len(whole.ids) - 3


def test_no_room_for_the_prompt_is_an_error_that_says_how_much_it_takes():
    prompted = with_prompt(OURS, PROMPTS[0])
    size = prompted.frame.size
    assert prompted.encode_source("今天", size + 1).ids == [*prompted.encode_source("今天").ids[:size], OURS.end_id]
    with pytest.raises(
        OptionError, match=f"must be at least {size + 1}, for the {size} tokens of the prompt .*, got {size}$"
    ):
        prompted.encode_source("今天", size)


def test_all_else_is_the_tokenizers_own():
    assert with_prompt(OURS, Prompt()) is OURS
    prompted = PromptedTokenizer(OURS, DIALOGUE)
    assert prompted.encode_target("标题") == OURS.encode_target("标题")
    assert prompted.encode_prefix("标题") == OURS.encode_prefix("标题")
    assert prompted.decode(OURS.encode("标题")) == "标题"
    assert prompted.encode_batch(["一", "二"], 60) == [prompted.encode("一", 60), prompted.encode("二")]
    assert prompted.encode_source("[MASK]", masked=True).ids.count(OURS.mask_id) == 1
    assert (prompted.vocab_file, prompted.vocab_size) == (OURS.vocab_file, OURS.vocab_size)
    prints = [
        each.fingerprint for each in (OURS, prompted, *(PromptedTokenizer(OURS, prompt) for prompt in PROMPTS[:3]))
    ]
    assert len(set(prints)) == 5


def test_escapes_of_a_flag():
    found = [unescape(text) for text in (r"\n\nSummary: ", r"a\tb", r"C:\\new", r"\d\"", "", "\n", r"\\\n")]
    assert found == ["\n\nSummary: ", "a\tb", r"C:\new", r"\d\"", "", "\n", "\\\n"]


def test_a_prompt_is_kept_in_a_folder_and_the_first_folder_counts(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        folder.mkdir()
    assert read_prompt(one, two) is None
    for prompt in (DIALOGUE, Prompt(), PROMPTS[1]):
        write_prompt(two, prompt)
        assert read_prompt(one, two) == prompt
    write_prompt(one, Prompt("甲"))
    assert read_prompt(one, two) == Prompt("甲")
    assert json.loads((one / "prompt.json").read_text(encoding="utf-8")) == {"source_prefix": "甲", "source_suffix": ""}
    (one / "prompt.json").write_text('{"source_suffix": "乙"}', encoding="utf-8")
    assert read_prompt(one) == Prompt("", "乙")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"[]", "prompt.json must hold a JSON object, got list"),
        (b"{", "prompt.json is not valid JSON: "),
        (b"\xff", "prompt.json: not UTF-8"),
        (b"[" * 100_000, "prompt.json is not valid JSON: "),
        (b'{"source_prefix": 1}', "source_prefix in .*prompt.json must be text, got 1"),
    ],
)
def test_a_malformed_file_is_refused(tmp_path, content, message):
    (tmp_path / "prompt.json").write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_prompt(tmp_path)


@pytest.mark.parametrize(("prefix", "suffix"), list(itertools.product([None, "", "丙"], repeat=2)))
def test_options_go_before_the_models_own(prefix, suffix):
    own = Prompt("甲", "乙")
    prompt = DataConfig(source_prefix=prefix, source_suffix=suffix).prompt(own)
    assert prompt == Prompt("甲" if prefix is None else prefix, "乙" if suffix is None else suffix)
