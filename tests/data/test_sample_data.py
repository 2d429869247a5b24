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
