"""Mutation testing with mutmut: of a module with one small change, does a test fail?

    python tests/mutants.py                                     # every row of MODULES: hours of a core
    python tests/mutants.py decoding/logits training/batches    # some of them
    python tests/mutants.py --again decoding/logits             # after new tests: only what they are to kill

A module is mutated in a copy of the project, in build/mutants/, and each mutant meets those tests of its row that call
the function. Printed are the mutants that live and are not in `equivalent_mutants.toml`, the list of those that no
test can kill, with the reason; and the rows of that list that are no longer needed. Either makes the exit code 1.
"""

import argparse
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
EQUIVALENT = Path(__file__).with_name("equivalent_mutants.toml")

# A module of t5_pegasus/, and the tests that are to notice a change in it: quick, and without TensorFlow's operations,
# which do not outlive the fork that mutmut makes for each mutant.
MODULES = {
    "data/gap_sentences": "tests/data/test_gap_sentences.py",
    "data/shards": "tests/data/test_shards.py",
    "decoding/inputs": "tests/decoding/test_inputs.py",
    "decoding/logits": "tests/decoding/test_logits.py",
    "decoding/search": "tests/decoding/test_search.py",
    "metrics/bleu": "tests/metrics/test_metrics.py",
    "metrics/rouge": "tests/metrics/test_metrics.py",
    "text/tokenizer": "tests/text/test_tokenizer.py",
    "training/batches": "tests/training/test_batches.py",
}
COPIED = ("t5_pegasus", "tests", "data", "setup.cfg", "chinese_t5_pegasus_tiny/config.json")
COPIED += ("chinese_t5_pegasus_tiny/vocab.txt",)
# What mutmut says of a mutant that a test has noticed; one that never ends has been, too.
KILLED = {"killed", "timeout"}
# Bytes of addresses of a process: some mutants never end and take all that there is.
MOST_MEMORY = 6 * 2**30


class Mutant(NamedTuple):
    """A change: lines of a function that were there, and those in their place."""

    module: str
    function: str
    before: str
    after: str


def main(argv: Sequence[str] | None = None) -> int:
    """Run the modules, and compare what lives with the list."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("modules", nargs="*", default=MODULES, choices=MODULES, metavar="module")
    parser.add_argument("--again", action="store_true", help="only the mutants that lived the last time")
    parser.add_argument("--processes", type=int, default=1)
    flags = parser.parse_args(argv)
    resource.setrlimit(resource.RLIMIT_AS, (MOST_MEMORY, resource.getrlimit(resource.RLIMIT_AS)[1]))
    lists = tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))
    listed = {Mutant(*(row[name] for name in Mutant._fields)) for row in lists.get("mutant", [])}
    alike = re.compile("|".join(row["pattern"] for row in lists["alike"]))
    wrong = 0
    for module in flags.modules:
        count, mutants = run(module, flags.again, flags.processes)
        living = {each for each in mutants if alike.sub("", each.before) != alike.sub("", each.after)}
        expected = {mutant for mutant in listed if mutant.module == module}
        for title, found in (("lives", living - expected), ("is listed, and does not live", expected - living)):
            for mutant in sorted(found):
                wrong += 1
                print(f"{title}: {module}, {mutant.function}\n- {mutant.before}\n+ {mutant.after}")
        equivalent = len(mutants) - len(living - expected)
        print(f"{module}: of {count} mutants {len(mutants)} live, {equivalent} of them equivalent", flush=True)
    return 1 if wrong else 0


def run(module: str, again: bool, processes: int) -> tuple[int, set[Mutant]]:
    """Return how many mutants a module has, and those that live."""
    folder = ROOT / "build" / "mutants" / module.replace("/", ".")
    lived = living(results(folder)) if again else []
    if not again:
        shutil.rmtree(folder, ignore_errors=True)
    for name in COPIED:
        source, target = ROOT / name, folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy2(source, target)
    options = {
        "source_paths": ["t5_pegasus"],
        "only_mutate": [f"t5_pegasus/{module}.py"],
        "also_copy": ["data", "chinese_t5_pegasus_tiny"],
        "pytest_add_cli_args_test_selection": MODULES[module].split(),
        # Seconds by the clock: a machine that has other work to do must not pass for a mutant that never ends.
        "timeout_constant": 4.0,
        "timeout_multiplier": 30.0,
        "pytest_add_cli_args": ["--hypothesis-seed=0", "-m=not slow", "-k=not tensorflow and not every_engine"],
        # The words of errors: tests look for those that matter.
        "do_not_mutate_patterns": [r"^\s*raise \w+Error\(", r'^\s*f?"[^"]*",?$'],
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in options.items()]
    (folder / "pyproject.toml").write_text("\n".join(["[tool.mutmut]", *lines, ""]), encoding="utf-8")
    mutmut(folder, "run", "--max-children", str(processes), *lived)
    found = results(folder)
    return len(found), {described(folder, module, name) for name in living(found)}


def mutmut(folder: Path, *arguments: str) -> str:
    """Run mutmut in a copy of the project and return what it prints."""
    command = [Path(sys.executable).with_name("mutmut"), *arguments]
    # Without public data: thousands of lines, hours for many mutants. The list holds wherever it is run, too.
    variables = {name: value for name, value in os.environ.items() if name != "T5_PEGASUS_DATA"}
    ran = subprocess.run(command, cwd=folder, env=variables, capture_output=True, text=True, check=False)
    if ran.returncode:
        raise SystemExit(f"mutmut {' '.join(arguments)} failed in {folder}\n{ran.stdout[-3000:]}\n{ran.stderr[-3000:]}")
    return ran.stdout


def results(folder: Path) -> dict[str, str]:
    """Return what has become of each mutant, by mutmut's name of it."""
    return dict(re.findall(r"^ +(\S+): (.+)$", mutmut(folder, "results", "--all", "true"), re.MULTILINE))


def living(found: dict[str, str]) -> list[str]:
    """Return those that no test has noticed."""
    return [name for name, status in found.items() if status not in KILLED]


def described(folder: Path, module: str, name: str) -> Mutant:
    """Return what a mutant changes; mutmut's name has a number, which moves with every edit of the function."""
    function = re.sub(r"__mutmut_\d+$", "", name.rpartition(".")[2])
    function = function.removeprefix("x").removeprefix("ǁ").replace("ǁ", ".").removeprefix("_")
    changes = re.findall(r"^([-+])(?![-+])\s*(.*)$", mutmut(folder, "show", name), re.MULTILINE)
    before, after = (" ".join(line for sign, line in changes if sign == wanted) for wanted in "-+")
    return Mutant(module, function, before, after)


if __name__ == "__main__":
    sys.exit(main())
