"""Templates of pages, filled in, and what a page may do."""

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..files import to_json

_STYLE = Path(__file__).resolve().parent / "style.css"


def fill(template: Path, parts: Mapping[str, str], script: str = "") -> str:
    """Return a page made of a template, whose `{{name}}` stand for parts. It allows itself no request.

    Args:
        template: HTML that has `{{policy}}` for what the page may do, `{{style}}`, and the names of `parts`.
        parts: by their names, as HTML.
        script: the one script that the page may run; `{{script}}` stands for it.
    """
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = "default-src 'none'; style-src 'unsafe-inline'"
    known = {
        "policy": f"{policy}; script-src 'sha256-{digest}'" if script else policy,
        "style": _STYLE.read_text(encoding="utf-8"),
        "script": script,
        **parts,
    }
    before, *rest = template.read_text(encoding="utf-8").split("{{")
    found = [before]
    for part in rest:  # in one pass, so that nothing in the data is taken for a place of the template
        name, _, after = part.partition("}}")
        found += [known[name], after]
    return "".join(found)


def embedded(value: Any) -> str:
    """Return JSON that can stand in a <script>: whatever a text says, it does not end it."""
    return to_json(value).replace("<", "\\u003c")
