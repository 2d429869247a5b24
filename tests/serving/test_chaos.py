"""A small run of what benchmarks/serving.py does to the service: nothing may be answered wrongly, or not at all."""

import json
import subprocess
import sys

import pytest

from t5_pegasus.locations import ROOT

pytestmark = pytest.mark.slow


def test_in_all_the_chaos_every_answer_is_right(exported_dir, tmp_path):
    output = tmp_path / "chaos.json"
    command = [sys.executable, "benchmarks/serving.py", "--part", "chaos", "--model_dir", str(exported_dir)]
    ran = subprocess.run(
        [*command, "--requests", "600", "--output", str(output)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=1200,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    found = json.loads(output.read_text())["chaos"]
    assert (found["right"], found["wrong"], found["failures_of_this_script"]) == (600, 0, [])
    assert found["tried"]["processes killed"] == 5
    # Each kill costs at most the half that the process had in progress.
    assert found["lost"] <= 5 * found["most_lost_of_a_kill"]
    undisturbed = found["undisturbed"]
    assert (undisturbed["wrong"], undisturbed["lost"], undisturbed["refused"]) == (0, 0, 0)
    assert all(40 <= share <= 60 for share in undisturbed["percent_of_the_texts_by_process"])
    assert found["log"]["not_json"] == 0
    ending = found["seconds_to_end"]
    assert ending["taken"] <= ending["at most"]
