"""Flags made from the config dataclasses, and what a script says and returns when something is wrong."""

import dataclasses
import os
import signal
import subprocess
import sys

import pytest

from t5_pegasus import cli
from t5_pegasus.config import GenerationConfig
from t5_pegasus.data.cleaning import FINGERPRINTS, CleaningConfig
from t5_pegasus.data.documents import SEPARATORS
from t5_pegasus.data.gap_sentences import MASK_SPANS, STRATEGIES, UNITS, GapSentenceConfig
from t5_pegasus.data.pretraining_pairs import FORMATS, CorpusConfig, OutputConfig
from t5_pegasus.data.runners import RUNNERS, RunnerConfig
from t5_pegasus.decoding.inputs import LONG_TEXT
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.engines.choice import ENGINES
from t5_pegasus.engines.options import LoadConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT
from t5_pegasus.metrics import SCORE_NAMES
from t5_pegasus.text.sentences import SPLITTERS
from t5_pegasus.text.words import VocabularyConfig
from t5_pegasus.training.options import PRECISIONS, TrainingConfig
from t5_pegasus.training.strategies import STRATEGIES as DEVICES

CONFIGS = (DataConfig, GenerationConfig, TrainingConfig, GapSentenceConfig, VocabularyConfig)
# A new row in one of these tables is a new choice of the flag, with nothing else to edit.
CHOICES = [
    (CleaningConfig, "deduplicate", FINGERPRINTS),
    (CorpusConfig, "document_separator", SEPARATORS),
    (DataConfig, "long_text", LONG_TEXT),
    (GapSentenceConfig, "gap_sentence_strategy", STRATEGIES),
    (GapSentenceConfig, "gap_sentence_unit", UNITS),
    (GapSentenceConfig, "mask_span", MASK_SPANS),
    (GapSentenceConfig, "sentence_split", SPLITTERS),
    (LoadConfig, "engine", ("auto", *ENGINES)),
    (OutputConfig, "output_format", FORMATS),
    (RunnerConfig, "runner", RUNNERS),
    (TrainingConfig, "distribute", DEVICES),
    (TrainingConfig, "metric_for_best_model", SCORE_NAMES),
    (TrainingConfig, "mixed_precision", PRECISIONS),
]
SCRIPTS = ("finetune.py", "test.py", "evaluation.py", "pretrain_data.py")
FIELDS = [(config, field) for config in CONFIGS for field in dataclasses.fields(config)]


def parser_of(*configs, **options):
    parser = cli.make_parser("A script.")
    cli.add_flags(parser, *configs, **options)
    return parser


def run_script(*arguments, cwd=ROOT):
    """Run a script as a user does, where no weights and no model are."""
    return subprocess.run(
        [sys.executable, ROOT / arguments[0], *map(str, arguments[1:])],
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
    )


def run_code(code, **options):
    return subprocess.run(
        [sys.executable, "-c", f"import os, signal, sys, time\nfrom t5_pegasus import cli\n{code}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        **options,
    )


# Flags


@pytest.mark.parametrize("config", CONFIGS)
def test_defaults_go_round(config):
    assert cli.config_from(parser_of(config).parse_args([]), config) == config()


@pytest.mark.parametrize(("config", "field"), FIELDS, ids=lambda value: getattr(value, "name", None))
def test_every_field_is_a_flag_under_each_of_its_names(config, field):
    parser = parser_of(config)
    choices = field.metadata["choices"]
    for name in (field.name, *field.metadata["aliases"]):
        if field.type is bool:
            assert getattr(parser.parse_args([f"--{name}"]), field.name) is True
            continue
        if field.type == tuple[int, ...]:
            assert getattr(parser.parse_args([f"--{name}", "7,0"]), field.name) == (7, 0)
            with pytest.raises(OptionError, match=f"--{name}.*: invalid token_ids value: '7,x'"):
                parser.parse_args([f"--{name}", "7,x"])
            continue
        value = {str: choices[-1] if choices else "文", float: "0.5", int: "7"}[cli._plain_type(field.type)]
        parsed = getattr(parser.parse_args([f"--{name}", value]), field.name)
        assert type(parsed) is cli._plain_type(field.type)
        assert str(parsed) == value
        if choices:
            with pytest.raises(OptionError, match="invalid choice: 'x'"):
                parser.parse_args([f"--{name}", "x"])
        elif type(parsed) is not str:
            with pytest.raises(OptionError, match=f"--{name}.*: invalid .* value: 'x'"):
                parser.parse_args([f"--{name}", "x"])


@pytest.mark.parametrize(("config", "name", "table"), CHOICES)
def test_choices_are_the_rows_of_their_table(config, name, table):
    (field,) = [field for field in dataclasses.fields(config) if field.name == name]
    assert field.metadata["choices"] == tuple(table)


def test_the_names_of_other_tools_are_taken():
    flags = parser_of(GenerationConfig).parse_args(["--topk=4", "--maxlen=40", "--minlen=2"])
    assert cli.config_from(flags, GenerationConfig) == GenerationConfig(4, 40, 2)
    flags = parser_of(TrainingConfig).parse_args(["--epochs=3", "--batch_size=8"])
    assert cli.config_from(flags, TrainingConfig) == TrainingConfig(num_train_epochs=3, per_device_train_batch_size=8)


def test_a_script_may_take_some_of_the_fields():
    parser = parser_of(DataConfig, only=("max_source_length",))
    flags = parser.parse_args(["--max_source_length", "9"])
    assert vars(flags) == {"max_source_length": 9}
    assert cli.config_from(flags, DataConfig) == DataConfig(max_source_length=9)


def test_a_value_that_cannot_be_is_refused_when_the_config_is_made():
    flags = parser_of(GenerationConfig).parse_args(["--length_penalty", "nan"])
    with pytest.raises(OptionError, match="length_penalty must be a finite number, got nan"):
        cli.config_from(flags, GenerationConfig)


def test_flags_are_not_abbreviated_and_help_names_every_default(capsys):
    parser = parser_of(*CONFIGS[:2])
    with pytest.raises(OptionError, match=r"^unrecognized arguments: --num_beam 3 \(--help lists the flags\)$"):
        parser.parse_args(["--num_beam", "3"])
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(["--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for config, field in FIELDS:
        if config in CONFIGS[:2]:
            assert f"--{field.name}" in text
            assert f"{field.metadata['help']} (default: {field.default})" in text


# Scripts


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_loads_neither_tensorflow_nor_a_dictionary(script):
    code = (
        "import runpy, sys\n"
        f"sys.argv = [{script!r}, '--help']\n"
        "try:\n"
        f"    runpy.run_path({script!r}, run_name='__main__')\n"
        "except SystemExit as exit:\n"
        "    assert exit.code == 0\n"
        "print(*sys.modules, file=sys.stderr)\n"
    )
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, encoding="utf-8")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith(f"usage: {script}")
    assert {"tensorflow", "bert4keras", "jieba", "rjieba"}.isdisjoint(ran.stderr.split())


def test_finetune_takes_bert4keras_s_names():
    text = run_script("finetune.py", "--help").stdout
    for names in (
        "--validation_file VALIDATION_FILE, --valid_file VALIDATION_FILE",
        "--num_train_epochs INT, --epochs INT",
        "--per_device_train_batch_size INT, --batch_size INT",
    ):
        assert names in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("finetune.py", "--num_train_epochs", "0"), "num_train_epochs must be at least 1, got 0"),
        (
            ("finetune.py", "--batch_size", "1.5"),
            "argument --per_device_train_batch_size/--batch_size: invalid int value",
        ),
        (("finetune.py", "--learning_rate", "nan"), "learning_rate must be a finite number, got nan"),
        (("finetune.py", "--weight_decay", "inf"), "weight_decay must be a finite number, got inf"),
        (
            ("finetune.py", "--mixed_precision", "fp16"),
            "invalid choice: 'fp16' (choose from 'no', 'float16', 'bfloat16')",
        ),
        (("finetune.py", "--max_source_length", "2"), "max_source_length must be at least 3, got 2"),
        (("finetune.py", "--train_file", "none.tsv"), "none.tsv: No such file or directory"),
        (
            ("finetune.py", "--model_dir", "none"),
            "model_dir must be a directory with config.json and vocab.txt, got none without config.json",
        ),
        (("finetune.py", "train.tsv"), "unrecognized arguments: train.tsv"),
        (("test.py", "--num_beams", "0"), "num_beams must be at least 1, got 0"),
        (("test.py", "--topk", "x"), "argument --num_beams/--topk: invalid int value: 'x'"),
        (
            ("test.py", "--minlen", "40", "--maxlen", "32"),
            "min_new_tokens must be at most max_new_tokens (32), got 40",
        ),
        (("test.py", "--num_beam", "3"), "unrecognized arguments: --num_beam"),
        (("test.py", "--num_beams"), "argument --num_beams/--topk: expected one argument"),
        (("test.py", "--input_file", "none.tsv"), "none.tsv: No such file or directory"),
        (("evaluation.py", "--test_file", "none.tsv"), "none.tsv: No such file or directory"),
        (
            ("test.py", "正文", "--num_beams", "1", "--num_return_sequences", "2"),
            "num_return_sequences must be at most num_beams (1), got 2",
        ),
        (("pretrain_data.py", "--workers", "0"), "workers must be at least 1, got 0"),
        (
            ("pretrain_data.py", "--gap_sentence_ratio", "2"),
            "gap_sentence_ratio must be above 0 and at most 1, got 2.0",
        ),
        (("pretrain_data.py", "--input_file", "none.txt"), "none.txt: No such file or directory"),
    ],
    ids=lambda value: "_".join(value) if isinstance(value, tuple) else None,
)
def test_what_a_user_does_wrong_is_told_in_one_line(tmp_path, arguments, message):
    ran = run_script(*arguments, cwd=tmp_path)
    lines = [line for line in ran.stderr.splitlines() if not line.startswith("no weights in ")]
    assert (ran.returncode, ran.stdout, len(lines)) == (2, "", 1), ran.stderr
    assert lines[0].startswith("error: ")
    assert message in lines[0]
    assert not list(tmp_path.iterdir())


def test_errors_of_the_system_are_one_line_too(tmp_path):
    ran = run_code("cli.run(lambda argv: open('none/of/this'))")
    assert (ran.returncode, ran.stdout, ran.stderr) == (2, "", "error: none/of/this: No such file or directory\n")
    ran = run_code("def main(argv):\n    raise OSError(28, 'No space left on device')\ncli.run(main)")
    assert (ran.returncode, ran.stderr) == (2, "error: [Errno 28] No space left on device\n")


def test_a_message_of_several_lines_becomes_one():
    ran = run_code("def main(argv):\n    raise cli.PegasusError('one\\n  two\\tthree ')\ncli.run(main)")
    assert (ran.returncode, ran.stderr) == (2, "error: one two three\n")


def test_of_a_message_beyond_measure_both_ends_are_told():
    ran = run_code("def main(argv):\n    raise cli.PegasusError('a text: ' + 'x' * 10**6 + ' is wrong')\ncli.run(main)")
    assert len(ran.stderr) < 1100
    assert ran.stderr.startswith("error: a text: xxx")
    assert ran.stderr.endswith("xxx is wrong\n")


def test_a_mistake_of_ours_is_not_hidden():
    ran = run_code("cli.run(lambda argv: 1 / 0)")
    assert ran.returncode == 1
    assert ran.stderr.endswith("ZeroDivisionError: division by zero\n")


def test_the_exit_code_is_that_of_main():
    assert run_code("cli.run(lambda argv: 0)").returncode == 0
    assert run_code("cli.run(lambda argv: 7)").returncode == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_cleans_up_and_is_130(number):
    code = (
        "def main(argv):\n"
        "    try:\n"
        f"        os.kill(os.getpid(), {int(number)})\n"
        "        time.sleep(10)\n"
        "    finally:\n"
        "        print('cleaned up')\n"
        "cli.run(main)"
    )
    ran = run_code(code)
    assert (ran.returncode, ran.stdout, ran.stderr) == (130, "cleaned up\n", "interrupted\n")


def test_a_reader_that_has_gone_is_no_error():
    code = "def main(argv):\n    for n in range(10**6):\n        print(n)\n    return 0\ncli.run(main)"
    read, write = os.pipe()
    process = subprocess.Popen(
        [sys.executable, "-c", f"from t5_pegasus import cli\n{code}"], cwd=ROOT, stdout=write, stderr=subprocess.PIPE
    )
    os.close(write)
    assert os.read(read, 1) == b"0"
    os.close(read)
    assert process.communicate()[1] == b""
    assert process.returncode == 0


# Standard streams

REPORTS = """
def main(argv):
    with open('result.txt', 'w') as file:
        print('a result', file=file)
    print('to standard output')
    print('to standard error', file=sys.stderr)
    os.write(2, b'of a library')
    return len(sys.stdin.read())
cli.run(main)
"""
NEEDS_STDOUT = "def main(argv):\n    cli.require_stdout()\n    print('the result')\n    return 0\ncli.run(main)"


def run_redirected(redirection, code, cwd=ROOT):
    """Run code with streams redirected by a shell."""
    code = f"import os, sys; sys.path.insert(0, {str(ROOT)!r}); from t5_pegasus import cli\n{code}"
    command = ["sh", "-c", f'exec "$0" "$@" {redirection}', sys.executable, "-c", code]
    return subprocess.run(command, cwd=cwd, stdin=subprocess.DEVNULL, capture_output=True, text=True)


@pytest.mark.parametrize(
    ("redirection", "stdout", "stderr"),
    [
        ("<&-", "to standard output\n", "to standard error\nof a library"),
        (">&-", "", "to standard error\nof a library"),
        ("2>&-", "to standard output\n", ""),
        ("<&- >&- 2>&-", "", ""),
    ],
)
def test_closed_streams_change_nothing_else(tmp_path, redirection, stdout, stderr):
    """Above all, what is for standard error does not land in a file that was opened in its place."""
    ran = run_redirected(redirection, REPORTS, tmp_path)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, stdout, stderr)
    assert (tmp_path / "result.txt").read_text() == "a result\n"


def test_a_result_without_a_place_to_go_is_refused_before_the_work():
    ran = run_redirected(">&-", NEEDS_STDOUT)
    assert ran.returncode == 2
    assert ran.stderr.startswith("error: standard output is closed, and the result goes there")
    assert len(ran.stderr.splitlines()) == 1
    assert run_redirected("2>&-", NEEDS_STDOUT).stdout == "the result\n"
    ran = run_redirected(">&-", "cli.run(lambda argv: cli.make_parser('x').parse_args(['--help']))")
    assert (ran.returncode, len(ran.stderr.splitlines())) == (2, 1)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_behind_standard_output_is_named(monkeypatch, unbuffered):
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    help_of = "cli.run(lambda argv: cli.make_parser('x').parse_args(['--help']))"
    for code in (NEEDS_STDOUT, help_of):
        ran = run_redirected(">/dev/full", code)
        assert (ran.returncode, ran.stderr) == (2, "error: standard output: No space left on device\n")
    assert run_redirected("2>/dev/full", "cli.run(lambda argv: open('none/of/this'))").returncode == 2


def test_names_that_are_not_utf8_are_printed_with_escapes():
    ran = run_redirected("", "cli.run(lambda argv: print('the model is in', os.fsdecode(b'\\xff\\xe4')) or 0)")
    assert (ran.returncode, ran.stdout) == (0, "the model is in \\udcff\\udce4\n")
