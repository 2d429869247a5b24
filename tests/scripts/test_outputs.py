"""What every script does with its output: it never replaces an input, and two runs never write one output."""

import shutil

import pytest

import evaluation
import finetune
import pretrain
import pretrain_data
import test as write_titles
from t5_pegasus import vocabulary
from t5_pegasus.errors import DataError, OptionError
from t5_pegasus.files import only_writer
from t5_pegasus.locations import DATA_DIR
from tests.paths import UNTRAINED_MODEL_DIR

# A script, its other flags, the flag of its output and those of its inputs.
OUTPUTS = {
    "test.py": (write_titles.main, [], "--output_file", ["--input_file"]),
    "evaluation.py": (evaluation.main, [], "--output_csv", ["--test_file"]),
    "evaluation.py, of titles": (
        evaluation.main,
        ["--references", "pairs.tsv", "--predictions", "titles.txt"],
        "--output_csv",
        ["--references", "--predictions"],
    ),
    "pretrain_data.py": (pretrain_data.main, [], "--output_file", ["--input_file"]),
    "vocabulary": (
        vocabulary.main,
        ["--size", "7000"],
        "--output_file",
        ["--input_file", "--held_out_file", "--existing_vocab", "--user_dict"],
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_no_output_replaces_an_input(tmp_path, monkeypatch, name):
    main, flags, output_flag, input_flags = OUTPUTS[name]
    monkeypatch.chdir(tmp_path)
    for input_flag in input_flags:
        (tmp_path / "in.txt").write_text("正文\n", encoding="utf-8")
        (tmp_path / "link.txt").unlink(missing_ok=True)
        (tmp_path / "link.txt").symlink_to("in.txt")
        for source, output in (("in.txt", "in.txt"), ("in.txt", "link.txt"), ("link.txt", "in.txt")):
            input_name = input_flag.removeprefix("--")
            with pytest.raises(OptionError, match=f"must not be the {input_name} or in it, got {output}"):
                main([*flags, input_flag, source, output_flag, output])
        assert (tmp_path / "link.txt").is_symlink()
        assert (tmp_path / "in.txt").read_text(encoding="utf-8") == "正文\n"


@pytest.mark.parametrize(
    ("main", "flags", "written"),
    [
        (pretrain_data.main, ["--output_file", "out"], "out"),
        (pretrain_data.main, ["--output_file", "out", "--output_format", "tfrecord"], "out"),
        (finetune.main, ["--output_dir", "out", "--train_file", str(DATA_DIR / "valid.tsv")], "out/training_state"),
        (pretrain.main, ["--output_dir", "out", "--train_file", str(DATA_DIR / "valid.tsv")], "out/training_state"),
    ],
    ids=["pretrain_data", "pretrain_data tfrecord", "finetune", "pretrain"],
)
def test_the_second_run_on_one_output_is_refused_before_it_starts(tmp_path, monkeypatch, main, flags, written):
    monkeypatch.chdir(tmp_path)
    if main is not pretrain_data.main:
        flags = ["--model_dir", str(UNTRAINED_MODEL_DIR), *flags]
    with (
        only_writer(tmp_path / written),
        pytest.raises(OptionError, match=f"another run is writing .*/{written}: wait until it has ended"),
    ):
        main(flags)
    assert not (tmp_path / written).exists()


def test_a_file_in_gbk_is_named_as_such_wherever_text_is_read(tmp_path):
    """Predictions, vocabularies and user dictionaries; pairs and documents name the line."""
    wrong = tmp_path / "wrong.txt"
    wrong.write_bytes("中文标题\n".encode("gbk") * 3)
    message = r"wrong\.txt:1: not UTF-8 but GB18030, convert it with `iconv -f GB18030 -t UTF-8 .*`"
    with pytest.raises(DataError, match=message):
        evaluation.main(["--predictions", str(wrong), "--references", str(DATA_DIR / "test.tsv")])
    model_dir = shutil.copytree(UNTRAINED_MODEL_DIR, tmp_path / "model", ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(DataError, match=message):
        write_titles.main(["正文", "--model_dir", str(model_dir), "--user_dict", str(wrong)])
    shutil.copyfile(wrong, model_dir / "vocab.txt")
    with pytest.raises(DataError, match=message.replace("wrong", "vocab")):
        write_titles.main(["正文", "--model_dir", str(model_dir)])
