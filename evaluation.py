"""Score titles: `python evaluation.py --test_file test.tsv`; `t5-pegasus score` is the same."""

from t5_pegasus import cli
from t5_pegasus.commands.score import main

if __name__ == "__main__":
    cli.run(main)
