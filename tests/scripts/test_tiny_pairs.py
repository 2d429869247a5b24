"""What the pairs of the shipped model leave out: of every source, rows that a held-out row has, whole or in part."""

import gzip
import json
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))

import tiny_pairs

from t5_pegasus import read_examples
from t5_pegasus.locations import DATA_DIR

HELD_OUT = list(read_examples(DATA_DIR / "test.tsv"))[:6]
OTHERS = list(read_examples(DATA_DIR / "train.tsv"))[:40]


@pytest.fixture
def folder(tmp_path) -> Path:
    """Return a folder of public data in which each source has two rows of its own and one that is held out."""
    pairs = {name: [(each.title, " ".join(each.content.split())) for each in rows] for name, rows in ALL.items()}
    for name in ("csl", "lctt", "corpus"):
        (tmp_path / name).mkdir()
    for name in ("train", "dev", "test", "extra"):
        lines = ["\t".join(pair) for pair in pairs[f"csl/{name}"]]
        (tmp_path / "csl" / f"{name}.tsv").write_text("\n".join(lines), encoding="utf-8")
    lines = [f"新闻\t{title}" for title, _ in pairs["titles"]]
    (tmp_path / "csl" / "titles.tsv").write_text("\n".join(lines), encoding="utf-8")
    for name in ("train", "dev", "test"):
        with gzip.open(tmp_path / "lctt" / f"{name}.jsonl.gz", "wt", encoding="utf-8") as file:
            for title, content in pairs[f"lctt/{name}"]:
                file.write(json.dumps({"title": title, "content": content}) + "\n")
    web = [content for _, content in pairs["web"]]
    (tmp_path / "corpus" / "cluecorpussmall_sampled.txt").write_text("\n".join(web), encoding="utf-8")
    return tmp_path


# Rows 0 and 1 of HELD_OUT are held out by CSL, 2 and 3 by LCTT; all of them are in data/test.tsv, too.
ALL = {
    "csl/train": [*OTHERS[:2], HELD_OUT[2]],
    "csl/dev": HELD_OUT[:1],
    "csl/test": HELD_OUT[1:2],
    "csl/extra": [OTHERS[2], OTHERS[3], HELD_OUT[0]],
    "lctt/train": [*OTHERS[4:6], HELD_OUT[1]],
    "lctt/dev": HELD_OUT[2:3],
    "lctt/test": HELD_OUT[3:4],
    "titles": [*OTHERS[6:8], HELD_OUT[3]],
    "web": [*OTHERS[8:10], HELD_OUT[5]],
}


def test_of_every_source_the_row_that_is_held_out_is_left_out(folder, monkeypatch):
    monkeypatch.setattr(tiny_pairs, "HELD_OUT_ROWS", 0)
    texts, counts = tiny_pairs.load_texts(folder)
    news = sum(len(list(read_examples(DATA_DIR / name))) for name in ("train.tsv", "news.tsv"))
    papers = len(list(read_examples(DATA_DIR / "papers.tsv")))
    assert counts == {f"left out of {name}": int(name not in ("news", "papers")) for name in texts}
    assert {name: len(examples) for name, examples in texts.items()} == {
        **dict.fromkeys(("csl", "sciences", "lctt", "titles", "web"), 2),
        "news": news,
        "papers": papers,
    }


def test_a_part_of_a_held_out_content_is_enough(folder, monkeypatch):
    monkeypatch.setattr(tiny_pairs, "HELD_OUT_ROWS", 0)
    held_out = " ".join(HELD_OUT[4].content.split())
    part = held_out[: len(held_out) // 2] + " ".join(OTHERS[11].content.split())
    (folder / "corpus" / "cluecorpussmall_sampled.txt").write_text(part, encoding="utf-8")
    _, counts = tiny_pairs.load_texts(folder)
    assert counts["left out of web"] == 1
