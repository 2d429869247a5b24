"""What is done to good files and requests: bytes that change, values that no field should have, flags without sense."""

import json
from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

# What breaks parsers: ends and marks of several formats, other encodings, numbers and nesting beyond all measure.
FRAGMENTS = (
    *(b"\0", b"\n", b"\r", b"\t", b'"', b"'", b",", b"{", b"}", b"]", b"\\", b"\x1a", b"\xff", b"\xff\xfe", b"\x80"),
    *(b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\xc0\x80", b"\xe4\xb8", "\u2028\u0085".encode(), "😀\u202e".encode()),
    *(b"\\ud800", b"\\u0000", b"NaN", b"-Infinity", b"1e999", b"-1", b"null", b"true", b"[]", b"{}", b'""'),
    *(b"9" * 5000, b"[" * 2000, b'{"a":' * 2000, b"\n" * 50, b" " * 3000, "中文".encode("gbk"), b"PK\x03\x04"),
)
ENCODINGS = ("gbk", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig", "utf-7")

# What a field of a JSON object may have instead of its value.
ODD_VALUES = (
    *(None, True, False, 0, -1, 1, 3, 10**30, -(10**30), 0.5, -0.0, 1e308, float("nan"), float("inf"), float("-inf")),
    *("", " ", "x", "文", "9" * 400, "\ud800", "\0", "a" * 5000, [], [[]], [None], ["x", 1], {}, {"": None}),
)

# What a flag may have.
ODD_FLAGS = (
    *("", " ", "0", "-1", "1", "1.5", "nan", "inf", "-inf", "1e400", "9" * 30, "9" * 5000, "x", "文", "none", "auto"),
    *("/", ".", "..", "/dev/null", "none/none", "x" * 300, "{}", "[]", "1,2", ",", "-", "--", "\udcff", "a\nb", "*"),
)

Edit = Callable[[st.DrawFn, bytes], bytes]


def _span(draw: st.DrawFn, content: bytes) -> tuple[int, int]:
    start = draw(st.integers(0, len(content)))
    return start, min(len(content), start + draw(st.integers(0, 40)))


def _cut(draw: st.DrawFn, content: bytes) -> bytes:
    return content[: draw(st.integers(0, len(content)))]


def _remove(draw: st.DrawFn, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + content[end:]


def _repeat(draw: st.DrawFn, content: bytes) -> bytes:
    start, end = _span(draw, content)
    return content[:start] + content[start:end] * draw(st.integers(2, 6)) + content[end:]


def _insert(draw: st.DrawFn, content: bytes) -> bytes:
    start = draw(st.integers(0, len(content)))
    return content[:start] + draw(st.sampled_from(FRAGMENTS)) + content[start:]


def _overwrite(draw: st.DrawFn, content: bytes) -> bytes:
    start, end = _span(draw, content)
    filler = draw(st.sampled_from([b"\0", b"\xff", b" "]) | st.binary(min_size=1, max_size=1))
    return content[:start] + filler * (end - start) + content[end:]


def _flip(draw: st.DrawFn, content: bytes) -> bytes:
    if not content:
        return b"\1"
    changed = bytearray(content)
    changed[draw(st.integers(0, len(content) - 1))] ^= 1 << draw(st.integers(0, 7))
    return bytes(changed)


def _recode(draw: st.DrawFn, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode(draw(st.sampled_from(ENCODINGS)), "replace")


EDITS: tuple[Edit, ...] = (_cut, _remove, _repeat, _insert, _overwrite, _flip, _recode)


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 3) -> bytes:
    """Draw a file that was good before up to `most` accidents."""
    for edit in draw(st.lists(st.sampled_from(EDITS), min_size=1, max_size=most)):
        content = edit(draw, content)
    return content


@st.composite
def damaged_object(draw: st.DrawFn, value: dict[str, Any]) -> dict[str, Any]:
    """Draw a JSON object of which some fields are missing, renamed or have odd values."""
    changed = dict(value)
    names = st.sampled_from([*value, "", "x", "\ud800"])
    for name in draw(st.lists(names, min_size=1, max_size=3)):
        what = draw(st.sampled_from(["drop", "rename", "replace", "replace", "replace"]))
        if what == "drop":
            changed.pop(name, None)
        elif what == "rename":
            changed[name.upper() + "x"] = changed.pop(name, None)
        else:
            changed[name] = draw(st.sampled_from(ODD_VALUES))
    return changed


def as_json(value: Any) -> bytes:
    """Return JSON as careless programs write it: with NaN, and with halves of surrogate pairs as escapes."""
    return json.dumps(value).encode()
