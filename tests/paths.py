"""Paths that several test files share."""

from t5_pegasus.locations import ROOT

# A model directory without weights, 3 + 3 layers of width 256 and 7,000 tokens: what tests train and change.
UNTRAINED_MODEL_DIR = ROOT / "tests" / "untrained_tiny"
