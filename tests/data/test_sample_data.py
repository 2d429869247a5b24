"""What data/README.md promises of the sample data."""

from t5_pegasus import read_examples
from t5_pegasus.data.examples import read_texts
from t5_pegasus.locations import DATA_DIR

SIZES = {"train.tsv": 184, "valid.tsv": 40, "test.tsv": 40}
ABSTRACTS = 5


def test_the_sample_pairs_are_as_many_and_as_long_as_promised():
    pairs = {name: list(read_examples(DATA_DIR / name)) for name in SIZES}
    assert {name: len(rows) for name, rows in pairs.items()} == SIZES
    rows = [row for part in pairs.values() for row in part]
    assert len({row.title for row in rows}) == len({row.content for row in rows}) == 264
    assert all(90 <= len(row.content) <= 240 and 9 <= len(row.title) <= 25 for row in rows)
    articles = [text for _, text in read_texts(DATA_DIR / "articles.jsonl")]
    assert sorted(articles) == sorted(row.content for row in rows)
    assert len(list(read_examples(DATA_DIR / "abstracts.tsv"))) == ABSTRACTS


def test_the_dialogues_are_found_by_their_columns_and_none_is_in_both_files():
    pairs = {name: list(read_examples(DATA_DIR / f"dialogues_{name}.jsonl")) for name in ("train", "valid")}
    assert {name: len(rows) for name, rows in pairs.items()} == {"train": 136, "valid": 24}
    rows = [row for part in pairs.values() for row in part]
    assert len({row.content for row in rows}) == 160
    for row in rows:
        speakers = {line.partition(":")[0] for line in row.content.splitlines()}
        assert len(speakers) == 2
        assert all(speaker in row.title for speaker in speakers)
    identifiers = [identifier for name in pairs for identifier, _ in read_texts(DATA_DIR / f"dialogues_{name}.jsonl")]
    assert identifiers == [f"dialogue-{number:03d}" for number in range(1, 161)]
