"""Compare systems: `python compare.py --test_file test.tsv --system title --system lead`; also `t5-pegasus compare`."""

from t5_pegasus import cli
from t5_pegasus.commands.compare import main

if __name__ == "__main__":
    cli.run(main)
