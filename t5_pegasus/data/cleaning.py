"""What is removed from raw documents before pairs are made: control characters, boilerplate lines, duplicates."""

import dataclasses
import functools
import hashlib
import re
import zlib
from collections import Counter
from collections.abc import Callable

from ..config import check_choices, option, require, require_at_least, require_between, require_only_with
from ..errors import OptionError

SHINGLE = 5  # characters
NUM_PERM = 128
KEY_BYTES = 16

# All but tab and line ends; marks of zero width and of direction (but the joiner of emoji); noncharacters.
_CONTROL = re.compile(
    r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\xad\u200b\u200c\u200e\u200f\u202a-\u202e\u2060-\u2064\ufeff\ufff9-\uffff]"
)

# Lines longer than this are text, whatever they say.
_LONGEST_BOILERPLATE = 80
# A row a kind of line that is part of a web page and not of its text.
BOILERPLATE = (
    r"^\W*(?:责任编辑|责编|编辑|审校|校对|审核|排版|来源|稿源|图片来源|作者|记者|发布时间|阅读量?|浏览量?|点击量?)[：:]\s*\S{0,30}\W*$",
    r"^\W*版权所有|版权所有\W*$|版权归\S{1,20}所有|未经\S{0,12}(?:授权|许可|允许|同意)\S{0,8}(?:转载|复制|摘编)|(?:禁止|请勿|谢绝)\S{0,4}转载",
    r"转载\S{0,6}(?:注明|请联系)|(?i:copyright\s*(?:©|\(c\)|\d{4})|all rights reserved)|^\W*©|ICP备\S{0,4}\d+",
    r"二维码\S{0,8}(?:关注|下载|进群|加群)|^\W*(?:长按|扫描|扫一扫|识别)\S{0,10}二维码\W*$|关注\S{0,8}(?:公众号|微信号|官方微[博信])",
    r"^\W*(?:点击|阅读|查看|下载|展开|返回|收藏|打印|举报){1,2}(?:这里|此处|原文|全文|更多|详情|首页|顶部|本文|本页){0,3}\W*$|^\W*分享到\S{0,10}\W*$",
    r"^\W*(?:上一篇|下一篇|上一页|下一页|相关(?:阅读|新闻|推荐|文章)|热门(?:推荐|文章)|推荐阅读|延伸阅读|网友评论)(?:\s*[：:]|\W*$)",
    r"^\W*(?:首页|登录|注册)(?:\s*[|｜>»/·]\s*\w{1,6}){1,8}\W*$",
)


def remove_control(text: str, config: "CleaningConfig") -> tuple[str, int]:
    """Return the text without control characters, and how many there were."""
    return _CONTROL.subn("", text)


def remove_boilerplate(text: str, config: "CleaningConfig") -> tuple[str, int]:
    """Return the text without the lines that are part of its web page only, and how many there were."""
    lines = text.splitlines(keepends=True)
    kept = [line for line in lines if not _is_boilerplate(line, config.boilerplate_pattern)]
    return ("".join(kept), len(lines) - len(kept)) if len(kept) < len(lines) else (text, 0)


def _is_boilerplate(line: str, pattern: str | None) -> bool:
    line = line.strip()
    if len(line) <= _LONGEST_BOILERPLATE and _boilerplate().search(line):
        return True
    return bool(line and pattern and re.search(pattern, line))


@functools.cache
def _boilerplate() -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{pattern})" for pattern in BOILERPLATE))


# A row a rule: a text to what is left of it and how many characters or lines were removed.
CLEANERS: dict[str, Callable[[str, "CleaningConfig"], tuple[str, int]]] = {
    "control": remove_control,
    "boilerplate": remove_boilerplate,
}


def no_keys(text: str, config: "CleaningConfig") -> list[bytes]:
    """Return no key: nothing is a duplicate."""
    return []


def exact_keys(text: str, config: "CleaningConfig") -> list[bytes]:
    """Return the hash of the text without its white space."""
    return [_key("".join(text.split()).encode())]


def near_keys(text: str, config: "CleaningConfig") -> list[bytes]:
    """Return the hash of each band of a MinHash over all runs of 5 characters; similar texts share some.

    With b bands of r hashes, texts of Jaccard similarity s share one with probability 1 - (1 - s^r)^b (Leskovec et al.,
    Mining of Massive Datasets, 3.4); datasketch finds b and r for the threshold.
    """
    from datasketch import MinHash

    text = "".join(text.split()).lower()
    shingles = {text[i : i + SHINGLE] for i in range(max(1, len(text) - SHINGLE + 1))}
    sketch = MinHash(NUM_PERM, hashfunc=zlib.crc32)
    sketch.update_batch([shingle.encode() for shingle in shingles])
    bands, rows = _bands(config.near_duplicate_threshold)
    hashes = sketch.hashvalues.astype("<u8")
    return [_key(bytes((band,)) + hashes[band * rows : (band + 1) * rows].tobytes()) for band in range(bands)]


# A row a kind of duplicate: the keys of a text. It is a duplicate if an earlier text had one of them.
FINGERPRINTS: dict[str, Callable[[str, "CleaningConfig"], list[bytes]]] = {
    "no": no_keys,
    "exact": exact_keys,
    "near": near_keys,
}


@dataclasses.dataclass(frozen=True)
class CleaningConfig:
    """What is removed from the documents."""

    clean: str = option("control,boilerplate", f"rules to clean by, of {', '.join(CLEANERS)}, with commas; no for none")
    boilerplate_pattern: str | None = option(None, "regular expression of further lines to remove, of any length")
    min_document_length: int = option(10, "characters of a document, white space not counted; shorter ones are dropped")
    deduplicate: str = option(
        "no", "drop documents that equal an earlier one but for white space, or nearly", choices=FINGERPRINTS
    )
    near_duplicate_threshold: float = option(
        0.8, "Jaccard similarity, of runs of 5 characters, from which most near-duplicates are found (MinHash)"
    )

    def __post_init__(self) -> None:
        """Raise OptionError for an unknown rule, a malformed pattern and values out of range."""
        require(set(self.rules) <= set(CLEANERS), f"clean must be of {', '.join(CLEANERS)}, or no", self.clean)
        check_choices(self)
        require_at_least(self, 0, "min_document_length")
        require_between(self, 0.1, 1, "near_duplicate_threshold")
        try:
            re.compile(self.boilerplate_pattern or "")
        except re.error as error:
            rule = f"boilerplate_pattern must be a regular expression ({error})"
            raise OptionError(f"{rule}, got {self.boilerplate_pattern}") from error
        require_only_with(self, "boilerplate" in self.rules, "clean with boilerplate", "boilerplate_pattern")
        require_only_with(self, self.deduplicate == "near", "deduplicate near", "near_duplicate_threshold")
        if self.deduplicate == "near":
            _bands(self.near_duplicate_threshold)

    @property
    def rules(self) -> tuple[str, ...]:
        """Return the names in `clean`."""
        return () if self.clean == "no" else tuple(self.clean.split(","))


def clean(text: str, config: CleaningConfig) -> tuple[str, Counter[str]]:
    """Return the text without what the rules remove, and how many characters or lines each removed."""
    removed: Counter[str] = Counter()
    for rule in config.rules:
        text, removed[rule] = CLEANERS[rule](text, config)
    return text, removed


def _key(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=KEY_BYTES).digest()


@functools.cache
def _bands(threshold: float) -> tuple[int, int]:
    """Return how many bands of how many hashes best separate what is above the threshold from what is below."""
    try:
        from datasketch import MinHashLSH
    except ImportError as error:
        raise OptionError('--deduplicate near needs datasketch: pip install "t5-pegasus[corpus]"') from error
    lsh = MinHashLSH(threshold, NUM_PERM)
    return lsh.b, lsh.r
