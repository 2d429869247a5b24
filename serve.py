"""Serve a model over HTTP: `python serve.py --model_dir …`; `t5-pegasus serve` is the same."""

from t5_pegasus import cli
from t5_pegasus.commands.serve import main

if __name__ == "__main__":
    cli.run(main)
