"""Every module is tested where its name says, or where CONTRIBUTING.md says."""

import re

from t5_pegasus.locations import PACKAGE, ROOT


def test_every_module_has_its_tests():
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("## Where modules are tested")[1]
    rows = re.findall(r"^\| (`.*`) \| `(tests/.*\.py)` \|$", section.split("\n## ")[0], re.MULTILINE)
    elsewhere = {module: tests for modules, tests in rows for module in re.findall("`(.*?)`", modules)}
    modules = {
        path.relative_to(PACKAGE).as_posix(): ROOT / "tests" / path.relative_to(PACKAGE).with_name(f"test_{path.name}")
        for path in PACKAGE.rglob("*.py")
        if not path.stem.startswith("__")
    }
    assert {module for module, tests in modules.items() if not tests.is_file()} == set(elsewhere)
    assert [tests for tests in elsewhere.values() if not (ROOT / tests).is_file()] == []
