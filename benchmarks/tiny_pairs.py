"""The training pairs of the shipped model: what chinese_t5_pegasus_tiny/README.md says that it was trained on.

    python benchmarks/tiny_pairs.py --mix pretraining --num_pairs 300000 --seed 1 --output_file pairs
    python benchmarks/tiny_pairs.py --mix fine_tuning --num_pairs 90000 --seed 2 --output_file title_pairs

Both are folders of shards for `pretrain.py`; the weights that are shipped drew theirs in `tiny_torch.py`.
T5_PEGASUS_DATA names the folder of public data (see CONTRIBUTING.md). Of all sources, rows that share a title or a part
of their content with a development or test set are left out and counted.

What the mixes are for: a small model that is trained on the sentences of one subject learns to copy that subject's
words and stutters on others. Copying is learned apart from meaning where tokens are renamed at random, in the source
and the target alike (`rename`), and where the source is random altogether.
"""

import gzip
import json
import random
import re
from collections.abc import Callable, Sequence
from itertools import accumulate
from pathlib import Path

from common import make_parser, report, require_public_data

from t5_pegasus import PegasusTokenizer, cli, read_examples
from t5_pegasus.data.examples import Example
from t5_pegasus.data.shards import ShardWriter
from t5_pegasus.data.similarity import HeldOut
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import DATA_DIR, TINY_MODEL_DIR

Pair = tuple[list[int], list[int]]  # source and target, without [CLS] and [SEP]
Document = list[list[int]]  # sentences

MAX_SOURCE, MAX_TARGET = 254, 62  # tokens between [CLS] and [SEP]
FIRST_TEXT_ID = 106  # those before are special
HELD_OUT_ROWS = 200  # of csl/extra.tsv: the development set of all sciences
NOTICE = "欢迎订阅"
READ = 600  # characters of a content that are compared: more than the model reads of it

MIXES = {
    # No title of CSL: what a pretrained model learns from few of them is measured.
    "pretraining": {"gap": 0.52, "spans": 0.3, "random": 0.1, "lctt": 0.04, "news": 0.005, "papers": 0.035},
    "fine_tuning": {
        "gap": 0.08,
        "random": 0.04,
        "lctt": 0.11,
        "news": 0.13,
        "csl": 0.32,
        "sciences": 0.13,
        "papers": 0.07,
        "assembled": 0.12,
    },
}

# Sentences that an abstract may say its subject in.
PATTERNS = (
    *("本文研究了{}。", "提出了一种{}。", "针对{}问题，", "对{}进行了研究。", "为了研究{}，", "探讨{}。"),
    *("介绍了{}的原理和特点。", "为{}提供参考。", "分析了{}的现状，", "目的：探讨{}。", "结果表明，{}是有效的。"),
    *("{}是当前研究的热点。", "本文以{}为例，", "该文提出{}。", "{}具有重要的意义。", "从{}的角度，"),
    *("文章讨论了{}，", "采用{}，", "本研究旨在分析{}。", "{}，"),
)
# Endings that titles have and abstracts do not repeat, the longest first.
ENDINGS = sorted(
    (
        "研究",
        "分析",
        "的研究",
        "及其应用",
        "探讨",
        "初探",
        "设计与实现",
        "综述",
        "的影响",
        "方法",
        "算法",
        "模型",
        "系统",
    ),
    key=len,
    reverse=True,
)
# Of each source of documents the share of the chunks, and whether longer documents are drawn more often.
_DOCUMENT_SHARES = {
    "lctt": (0.56, True),
    "papers": (0.17, False),
    "csl": (0.10, False),
    "web": (0.09, True),
    "sciences": (0.05, False),
    "news": (0.03, False),
}
_SENTENCE_END = re.compile(r"(?<=[。！？!?])|(?<=[^0-9a-zA-Z]\.)")
_SHORTEST_SENTENCE = 6  # characters


def main(argv: Sequence[str] | None = None) -> int:
    """Write the pairs and say what was left out."""
    parser = make_parser("Write the pairs that the shipped model is trained on.", repeated=False)
    parser.add_argument("--mix", required=True, choices=tuple(MIXES), help="shares of the kinds of pairs")
    parser.add_argument("--num_pairs", type=int, default=300_000, help="pairs to write")
    parser.add_argument("--seed", type=int, default=1, help="the same seed writes the same pairs")
    parser.add_argument("--vocab_file", default=TINY_MODEL_DIR / "vocab.txt", help="vocabulary of the model")
    parser.add_argument("--output_file", required=True, help="folder of shards to write")
    flags = parser.parse_args(argv)
    folder = require_public_data()
    if flags.num_pairs < 1:
        raise OptionError(f"num_pairs must be at least 1, got {flags.num_pairs}")
    tokenizer = PegasusTokenizer(flags.vocab_file)
    texts, counts = load_texts(folder)
    kinds = Kinds(tokenizer, texts, random.Random(flags.seed))
    with ShardWriter(flags.output_file, tokenizer.fingerprint) as writer:
        for _ in range(flags.num_pairs):
            writer.add(*kinds.draw(flags.mix))
    report({"mix": flags.mix, "pairs": flags.num_pairs, **counts}, ("numpy", "rjieba"), flags.output)
    return 0


def held_out_sciences(folder: Path) -> tuple[list[Example], list[Example]]:
    """Return the development set of all sciences, 200 rows of csl/extra.tsv, and the rows that may be trained on."""
    rows = list(read_examples(folder / "csl" / "extra.tsv", keep_duplicates=True))
    random.Random(0).shuffle(rows)
    return rows[:HELD_OUT_ROWS], rows[HELD_OUT_ROWS:]


def load_texts(folder: Path) -> tuple[dict[str, list[Example]], dict[str, int]]:
    """Return the examples to train on by source, and how many of each were left out.

    Of every source, rows are left out that share their title, or a fifth of the runs of what is read of their content,
    with a row that is held out (`data.similarity.HeldOut`), whatever that row's source is; and subscription notices.
    Titles without a content and contents without a title have "".
    """
    development, sciences = held_out_sciences(folder)
    csl = folder / "csl"
    held_out = HeldOut(overlap=0.2)
    for part in ("dev", "test"):
        technology = lctt_articles(folder, part, summaries=True)
        news = read_examples(DATA_DIR / f"{'valid' if part == 'dev' else part}.tsv")
        for example in (*read_examples(csl / f"{part}.tsv"), *technology, *news):
            held_out.add(example.title, example.content[:READ])
    for example in development:
        held_out.add(example.title, example.content[:READ])
    held_out.freeze()
    titles = (line.split("\t") for line in (csl / "titles.tsv").read_text(encoding="utf-8").splitlines())
    web = (folder / "corpus" / "cluecorpussmall_sampled.txt").read_text(encoding="utf-8").splitlines()
    sources = {
        "csl": list(read_examples(csl / "train.tsv", keep_duplicates=True)),
        "sciences": sciences,
        "lctt": lctt_articles(folder, "train", summaries=True),
        "news": [each for name in ("train.tsv", "news.tsv") for each in read_examples(DATA_DIR / name)],
        "papers": list(read_examples(DATA_DIR / "papers.tsv")),
        "titles": [Example("", title) for _, title in titles],
        "web": [Example(line.strip(), "") for line in web],
    }
    texts, counts = {}, {}
    for name, examples in sources.items():
        texts[name] = [
            each
            for each in examples
            if NOTICE not in each.title + each.content and held_out.find(each.title, each.content[:READ]) is None
        ]
        counts[f"left out of {name}"] = len(examples) - len(texts[name])
    return texts, counts


def lctt_articles(folder: Path, part: str, summaries: bool = False) -> list[Example]:
    """Return the articles of a part with their titles, and perhaps once more with the summaries that some have."""
    with gzip.open(folder / "lctt" / f"{part}.jsonl.gz", "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    articles = [Example(row["content"], row["title"]) for row in rows]
    if summaries:
        articles += [Example(row["content"], row["summary"]) for row in rows if len(row.get("summary") or "") > 8]
    return articles


class Kinds:
    """The kinds of pairs, each a function that draws one; `table` has them by name.

    Args:
        tokenizer: of the model.
        texts: of `load_texts`.
        random: decides everything.
    """

    def __init__(self, tokenizer: PegasusTokenizer, texts: dict[str, list[Example]], random: random.Random) -> None:
        self.random, self._tokenizer = random, tokenizer
        self._size = tokenizer.vocab_size
        self._mask = tokenizer.tokens.index("[MASK]")
        marks = (index for index, token in enumerate(tokenizer.tokens) if not any(map(str.isalnum, token)))
        self._marks = set(marks)
        self._commas = {tokenizer.tokens.index(mark) for mark in ",;:!?，；：。、！？" if mark in tokenizer.tokens}
        documents = {name: self._documents(texts[name]) for name in _DOCUMENT_SHARES}
        self._documents_by_share = [
            (share, documents[name], list(accumulate(map(len, documents[name]))) if by_length else None)
            for name, (share, by_length) in _DOCUMENT_SHARES.items()
        ]
        self._titles = [example.title for example in texts["titles"]]
        self.table: dict[str, Callable[[], Pair]] = {
            "gap": self.gap,
            "spans": self.spans,
            "random": self.random_tokens,
            "lctt": self._titled(texts["lctt"]),
            "news": self._titled(texts["news"], renamed=0.2),
            "csl": self._titled(texts["csl"]),
            "sciences": self._titled(texts["sciences"]),
            "papers": self._titled(texts["papers"]),
            "assembled": self.assembled,
        }

    def draw(self, mix: str) -> Pair:
        """Draw a pair of a kind by the shares of a mix, cut, with [CLS] and [SEP]."""
        shares = MIXES[mix]
        (kind,) = self.random.choices(list(shares), list(shares.values()))
        source, target = self.table[kind]()
        start, end = self._tokenizer.start_id, self._tokenizer.end_id
        return [start, *source[:MAX_SOURCE], end], [start, *target[:MAX_TARGET], end]

    def _encode(self, texts: Sequence[str]) -> list[list[int]]:
        return [ids[1:-1] for ids in self._tokenizer.encode_batch(texts)]

    def _documents(self, examples: Sequence[Example]) -> list[Document]:
        documents = []
        for content in dict.fromkeys(example.content for example in examples):
            parts = [part.strip() for line in content.split("\n") for part in _SENTENCE_END.split(line)]
            sentences = self._encode([part for part in parts if len(part) >= _SHORTEST_SENTENCE])
            if len(sentences) > 1:
                documents.append([sentence for sentence in sentences if sentence])
        return documents

    def _titled(self, examples: Sequence[Example], renamed: float = 0.3) -> Callable[[], Pair]:
        """Return a function that draws a content with its title, in a share of them with renamed tokens."""
        contents = self._encode([example.content[:READ] for example in examples])
        titles = self._encode([example.title for example in examples])
        pairs = [(content[:MAX_SOURCE], title) for content, title in zip(contents, titles, strict=True) if title]

        def draw() -> Pair:
            source, target = self.random.choice(pairs)
            if self.random.random() < renamed:
                return self.rename(source, target, self.random.uniform(0.1, 0.8))
            return source, target

        return draw

    def rename(self, source: list[int], target: list[int], share: float) -> Pair:
        """Exchange a share of the source's kinds of tokens for random ones, in source and target alike.

        Punctuation stays, so that there are sentences still.
        """
        kinds = [i for i in set(source) if i >= FIRST_TEXT_ID and i not in self._marks and self.random.random() < share]
        names = {kind: self.random.randrange(FIRST_TEXT_ID, self._size) for kind in kinds}
        return [names.get(index, index) for index in source], [names.get(index, index) for index in target]

    def _chunk(self) -> Document:
        """Return sentences in a row from a document, some 32 to 240 tokens."""
        (chosen,) = self.random.choices(self._documents_by_share, [share for share, _, _ in self._documents_by_share])
        _, documents, lengths = chosen
        (document,) = self.random.choices(documents, cum_weights=lengths)
        limit = self.random.choice((32, 48, 64, 80, 96, 128, 160, 200, 240))
        start = self.random.randrange(len(document))
        if sum(map(len, document)) <= limit + 40:
            start = 0
        chunk, length = list[list[int]](), 0
        for sentence in document[start:]:
            if length + len(sentence) > MAX_SOURCE:
                break
            chunk.append(sentence)
            length += len(sentence)
            if length >= limit:
                break
        return chunk

    def _overlap(self, tokens: Sequence[int], others: set[int]) -> float:
        """Return about which share of the tokens is among the others."""
        return sum(index in others and index not in self._marks for index in tokens) / (len(tokens) + 3)

    def gap(self) -> Pair:
        """Draw a chunk with one or two gap sentences, or one clause, left in (six in ten), masked or removed.

        Half of them are those that share most with the rest, the others are random.
        """
        draw = self.random
        while True:
            chunk = self._chunk()
            count = len(chunk)
            if count < 2:
                continue
            size = 1 if count < 6 or draw.random() < 0.6 else 2
            kinds = [set(sentence) for sentence in chunk]
            if draw.random() < 0.5:
                chosen = sorted(draw.sample(range(count), size))
            else:
                scores = [self._overlap(chunk[i], set[int]().union(*kinds[:i], *kinds[i + 1 :])) for i in range(count)]
                chosen = sorted(sorted(range(count), key=lambda i: -scores[i])[:size])
            intact = [index for sentence in chunk for index in sentence]
            kind = draw.random()
            if kind < 0.6:
                clauses = self._clauses(chunk[chosen[0]]) if draw.random() < 0.35 else []
                if clauses:
                    rest = set[int]().union(*kinds[: chosen[0]], *kinds[chosen[0] + 1 :])
                    best = max(clauses, key=lambda clause: self._overlap(clause, rest))
                    clause = best if draw.random() < 0.6 else draw.choice(clauses)
                    renamed = draw.random() < 0.5
                    return self.rename(intact, clause, draw.uniform(0.2, 1)) if renamed else (intact, clause)
                source = intact
            else:
                filler = [self._mask] if kind < 0.85 else []
                source = [index for i in range(count) for index in (filler if i in chosen else chunk[i])]
            target = [index for i in chosen for index in chunk[i]][:MAX_TARGET]
            if len(target) < 3 or len(source) < 4:
                continue
            if kind < 0.6 and draw.random() < 0.45:
                return self.rename(source, target, draw.uniform(0.2, 1))
            return source, target

    def _clauses(self, sentence: Sequence[int]) -> list[list[int]]:
        clauses: list[list[int]] = [[]]
        for index in sentence:
            if index in self._commas:
                clauses.append([])
            else:
                clauses[-1].append(index)
        return [clause for clause in clauses if 4 <= len(clause) <= 24]

    def spans(self) -> Pair:
        """Draw a chunk with [MASK] in the place of a few spans, and write them, [MASK] before each: T5's objective.

        A text teaches something else each time that it is drawn.
        """
        draw = self.random
        source, target = list[int](), list[int]()
        tokens = [index for sentence in self._chunk() for index in sentence]
        if not tokens:  # the sentence drawn was longer than a source may be
            return self.spans()
        position = draw.randrange(min(12, len(tokens)))
        while len(target) < MAX_TARGET - 10 and position < len(tokens):
            size = draw.randrange(1, 9)
            source += [*tokens[:position], self._mask]
            target += [self._mask, *tokens[position : position + size]]
            tokens = tokens[position + size :]
            position = draw.randrange(3, 30)
        return source + tokens, target

    def random_tokens(self) -> Pair:
        """Draw random tokens of which a span is to be written: one that occurs twice, one behind [MASK], or any."""
        draw = self.random
        length = int(12 * (200 / 12) ** draw.random())
        source = [draw.randrange(FIRST_TEXT_ID, self._size) for _ in range(length)]
        if draw.random() < 0.3:  # few kinds of tokens, so that one predicts little of what follows
            kinds = [draw.randrange(FIRST_TEXT_ID, self._size) for _ in range(max(4, length // draw.randrange(2, 6)))]
            source = [draw.choice(kinds) for _ in range(length)]
        size = draw.randrange(4, min(40, length))
        start = draw.randrange(length - size)
        target = source[start : start + size]
        kind = draw.random()
        if kind < 0.35:
            position = draw.randrange(length)
            if start < position < start + size:
                position = length
            source = [*source[:position], *target, *source[position:]]
        elif kind < 0.6:
            source = [*source[:start], self._mask, *source[start:]]
        return source, target

    def assembled(self) -> Pair:
        """Draw a title, and as its content sentences of another text of which one or two name the title's subject."""
        draw = self.random
        title = subject = draw.choice(self._titles)
        if draw.random() < 0.5:
            for ending in ENDINGS:
                if subject.endswith(ending) and len(subject) > len(ending) + 4:
                    subject = subject.removesuffix(ending)
                    break
        if draw.random() < 0.2:
            subject = draw.choice(re.split("——|[:：—]", subject))
        limit = draw.choice((60, 100, 150, 200))
        body: Document = []
        for sentence in self._chunk():
            if sum(map(len, body)) + len(sentence) > limit:
                break
            body.append(sentence)
        count = 1 if draw.random() < 0.6 else 2
        for sentence in self._encode([draw.choice(PATTERNS).format(subject) for _ in range(count)]):
            body.insert(0 if draw.random() < 0.35 else draw.randrange(len(body) + 1), sentence)
        return [index for sentence in body for index in sentence], self._encode([title])[0]


if __name__ == "__main__":
    cli.run(main)
