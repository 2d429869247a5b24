"""Templates filled in, and JSON that stands in a page."""

import base64
import hashlib
import json

from hypothesis import given
from hypothesis import strategies as st

from t5_pegasus.pages.html import embedded, fill


def test_a_template_is_filled_once_and_allows_its_own_script_alone(tmp_path):
    (tmp_path / "page.html").write_text("{{policy}}|{{a}}|{{b}}|{{script}}|{{a}}", encoding="utf-8")
    policy, first, second, script, again = fill(tmp_path / "page.html", {"a": "{{b}}", "b": "}}"}, "run()").split("|")
    assert (first, second, script, again) == ("{{b}}", "}}", "run()", "{{b}}")
    digest = base64.b64encode(hashlib.sha256(b"run()").digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    assert "script-src" not in fill(tmp_path / "page.html", {"a": "", "b": ""})


@given(st.dictionaries(st.text(), st.text() | st.integers()))
def test_json_in_a_page_ends_no_script_and_is_the_same_object(value):
    text = embedded(value)
    assert "<" not in text
    assert json.loads(text) == value
