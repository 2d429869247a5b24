"""T5-PEGASUS for Chinese titles and summaries, in Keras and bert4keras.

The public names are loaded when they are first used, so that `import t5_pegasus` brings in neither TensorFlow nor
jieba's dictionary, and scoring a predictions file never does.
"""

import importlib
from typing import TYPE_CHECKING, Any

from .version import __version__ as __version__

if TYPE_CHECKING:
    from .data.examples import read_examples
    from .data.gap_sentences import pseudo_summary
    from .metrics import score
    from .networks.t5 import build_model
    from .text.tokenizer import PegasusTokenizer
    from .title import AutoTitle

_MODULES = {
    "AutoTitle": "title",
    "PegasusTokenizer": "text.tokenizer",
    "build_model": "networks.t5",
    "pseudo_summary": "data.gap_sentences",
    "read_examples": "data.examples",
    "score": "metrics",
}
__all__ = ["AutoTitle", "PegasusTokenizer", "build_model", "pseudo_summary", "read_examples", "score"]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(f".{_MODULES[name]}", __name__), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
