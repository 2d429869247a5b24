"""Compare the shipped model with rules and others on CSL's test set, by compare.py, for the table of docs/results.md.

    python benchmarks/comparison.py            # titles, report, results/comparison_csl.json, both pages
    python benchmarks/comparison.py --tables   # the pages alone, from that JSON
    python benchmarks/comparison.py --check    # exit code 1 if a page is not up to date

The model writes greedily, with 4 beams, with 16 drawn titles of which one is kept, and behind our own service, which is
started here and asked by our client and by OpenAI's. Beside it, a network of about its size trained from scratch,
which benchmarks/cross_position_bias.py leaves. Titles are kept in the report's folder, so a stopped run goes on.
"""

import contextlib
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import common
from tables import update_pages

from t5_pegasus import cli
from t5_pegasus.commands import compare
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import atomic_text, to_json
from t5_pegasus.locations import ROOT, TINY_MODEL_DIR

RESULTS = ROOT / "benchmarks" / "results" / "comparison_csl.json"
BEGIN, END = "<!-- made by benchmarks/comparison.py -->", "<!-- end of what benchmarks/comparison.py made -->"
BASELINE = "tiny, 4 beams"
_SECONDS_TO_START = 300

WORDS = {
    "docs/results.md": {
        "head": "| system | ROUGE-1 | ROUGE-2 | ROUGE-L | 95 % interval | BLEU | chrF | exact | length | s | MiB |",
        "pairs": f"| ROUGE-L against {BASELINE} | difference | 95 % interval | p | significant | smallest that shows |",
        "yes": "yes",
        "no": "no",
    },
    "docs/zh/results.md": {
        "head": "| 系统 | ROUGE-1 | ROUGE-2 | ROUGE-L | 95 % 区间 | BLEU | chrF | 完全相同 | 字数 | 秒/篇 | MiB |",
        "pairs": f"| ROUGE-L 与 {BASELINE} 相比 | 差 | 95 % 区间 | p | 显著 | 能测出的最小差 |",
        "yes": "是",
        "no": "否",
    },
}


def main(argv: Sequence[str] | None = None) -> int:
    """Compare, write the JSON and the tables; or write or check the tables alone."""
    parser = cli.make_parser("Compare the shipped model with rules on CSL's test set.")
    parser.add_argument("--report", default=str(ROOT / "build" / "comparison"), help="folder of the report")
    parser.add_argument("--port", type=int, default=18731, help="of the service, whose titles are kept by its address")
    parser.add_argument("--scratch", default="build/cross_position_bias/without", help="the model trained from scratch")
    parser.add_argument("--tables", action="store_true", help="only write the tables, from the committed JSON")
    parser.add_argument("--check", action="store_true", help="only look whether the tables are up to date")
    flags = parser.parse_args(argv)
    if not flags.tables and not flags.check:
        data = common.public_data()
        if data is None:
            raise OptionError("T5_PEGASUS_DATA must name the folder of public data sets")
        if not (Path(flags.scratch) / "best_model.weights").is_file():
            raise OptionError(
                f"scratch must be a model that benchmarks/cross_position_bias.py has trained, got {flags.scratch}"
            )
        run(data / "csl" / "test.tsv", Path(flags.report), flags.port, flags.scratch)
    try:
        result = json.loads(RESULTS.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {RESULTS}: {error}") from error
    return update_pages({name: section(result, words) for name, words in WORDS.items()}, flags.check, (BEGIN, END))


def run(test_file: Path, report: Path, port: int, scratch: str) -> None:
    """Write the report, and its JSON to the results."""
    model, url = "title:tiny", f"http://127.0.0.1:{port}"
    drawn = "do_sample=true&temperature=0.5&seed=1&num_return_sequences=16&rerank=mbr"
    systems = [
        f"{model}?num_beams=1&name=tiny, greedy",
        f"{model}?num_beams=4&name={BASELINE}",
        f"{model}?{drawn}&name=tiny, MBR of 16",
        f"title:{scratch}?run_dir={scratch}&num_beams=4&name=from scratch, 4 beams",
        f"service:{url}?name=tiny, service",
        f"openai:{TINY_MODEL_DIR.name}?base_url={url}/v1&prompt=text&max_tokens=40&name=tiny, OpenAI's client",
        *("lead?name=first clause", "compress", "textrank", "lexrank", "oracle?name=oracle sentence"),
    ]
    arguments = [word for system in systems for word in ("--system", system)]
    os.environ.setdefault("OPENAI_API_KEY", "none")  # the client wants one; the service here asks for none
    os.environ["NO_PROXY"] = "127.0.0.1"
    with service(port):
        code = compare.main(["--test_file", str(test_file), "--output_dir", str(report), *arguments])
    if code == 0:
        result = json.loads((report / "scores.json").read_text(encoding="utf-8"))
        with atomic_text(RESULTS) as file:
            file.write(to_json(result) + "\n")
        with atomic_text(RESULTS.with_suffix(".md")) as file:
            file.write((report / "report.md").read_text(encoding="utf-8"))


@contextlib.contextmanager
def service(port: int) -> Iterator[None]:
    """Run the service of the shipped model, with 4 beams."""
    flags = ["--model_dir", str(TINY_MODEL_DIR), "--host", "127.0.0.1", "--port", str(port), "--num_beams", "4"]
    with subprocess.Popen(
        [sys.executable, str(ROOT / "serve.py"), *flags], stderr=subprocess.DEVNULL, env={**os.environ}
    ) as process:
        try:
            until = time.monotonic() + _SECONDS_TO_START
            while True:
                with contextlib.suppress(OSError):
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=5).close()
                    break
                if process.poll() is not None or time.monotonic() > until:
                    raise OptionError(f"the service did not start on port {port}: choose another --port")
                time.sleep(0.2)
            yield
        finally:
            process.terminate()


def section(result: dict[str, Any], words: dict[str, str]) -> str:
    """Return the tables in Markdown: the scores of every system, and its difference from the baseline."""
    scores = {row["name"]: row for row in result["scores"]}
    lines = [words["head"], f"|{'---|' * (words['head'].count('|') - 1)}"]
    for system in result["systems"]:
        name = system["name"]
        value = {key: f"{100 * row['systems'][name][0]:.2f}" for key, row in scores.items()}
        low, high = scores["rouge-l"]["systems"][name][1:]
        seconds, peak = system["seconds_per_text"], system["peak_bytes"]
        cells = [
            *(name, value["rouge-1"], value["rouge-2"], value["rouge-l"], f"{100 * low:.1f}–{100 * high:.1f}"),
            *(value["bleu"], value["chrf"], value["exact"], f"{system['mean_length']:.1f}"),
            *("–" if seconds is None else f"{seconds:.2g}", "–" if peak is None else f"{peak / 2**20:.0f}"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    lines += ["", words["pairs"], f"|{'---|' * (words['pairs'].count('|') - 1)}"]
    for pair in scores["rouge-l"]["pairs"]:
        if BASELINE in (pair["first"], pair["second"]):
            sign = -1 if pair["first"] == BASELINE else 1
            other = pair["second"] if sign < 0 else pair["first"]
            difference, *bounds = (100 * sign * each + 0.0 for each in pair["difference"])
            low, high = sorted(bounds)
            p_value = pair["randomization_holm"]
            cells = [
                *(other, f"{difference:+.2f}", f"{low:+.1f} … {high:+.1f}", f"{p_value:.4f}"),
                *(words["yes" if pair["significant"] else "no"], f"{100 * pair['detectable']:.1f}"),
            ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    cli.run(main)
