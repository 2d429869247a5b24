"""Write titles: `python test.py "正文……"`, or of a file with `--input_file`; `t5-pegasus title` is the same."""

from t5_pegasus import cli
from t5_pegasus.commands.title import main

if __name__ == "__main__":
    cli.run(main)
