"""Pretraining: batches of a plan, going on exactly, and a model directory that others take."""

import csv
import json
import shutil

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given
from hypothesis import strategies as st

import finetune
import pretrain
import pretrain_data
from t5_pegasus import build_model
from t5_pegasus.data.shards import open_shards
from t5_pegasus.errors import CheckpointError, DataError, OptionError
from t5_pegasus.networks.backend import bert4keras, tf
from t5_pegasus.training import pretraining
from t5_pegasus.training.batches import bucket_batches
from t5_pegasus.training.options import PretrainingConfig
from t5_pegasus.training.pairs import EncodedPairs
from t5_pegasus.training.pretraining import Pretrainer, batch_stream
from tests.paths import UNTRAINED_MODEL_DIR


@pytest.fixture(scope="module")
def model_dir(small_model_dir):
    return small_model_dir


@pytest.fixture(scope="module")
def pair_file(tmp_path_factory, sample_pairs):
    path = tmp_path_factory.mktemp("pairs") / "pairs.jsonl"
    lines = [json.dumps({"source": pair.content, "target": pair.title}) for pair in sample_pairs]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def run(model_dir, pair_file, output_dir, *flags, max_steps=6):
    arguments = {
        "--model_dir": model_dir, "--train_file": pair_file, "--output_dir": output_dir, "--max_steps": max_steps,
        "--max_source_length": 48, "--max_target_length": 16, "--batch_tokens": 512, "--pad_to_multiple_of": 16,
        "--learning_rate": 1e-2, "--warmup_steps": 2, "--logging_steps": 2, "--save_steps": 3,
    }  # fmt: skip
    return pretrain.main([str(each) for item in arguments.items() for each in item] + [*map(str, flags)])


def read_log(folder):
    """Return the log without the column that the clock decides."""
    with (folder / "pretraining_log.csv").open() as file:
        return [{name: float(row[name]) for name in row if name != "tokens_per_second"} for row in csv.DictReader(file)]


def weights_of(folder):
    reader = tf.train.load_checkpoint(str(folder / "model.ckpt"))
    return {name: reader.get_tensor(name) for name in reader.get_variable_to_shape_map()}


def assert_equal_weights(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name], err_msg=name)


@given(
    st.lists(st.tuples(st.integers(3, 90), st.integers(3, 40)), min_size=1, max_size=80),
    st.integers(20, 900),
    st.sampled_from([1, 16, 64]),
    st.integers(1, 3),
    st.integers(0, 2**32),
)
def test_every_pair_is_in_one_batch_within_the_budget(lengths, max_tokens, multiple, devices, seed):
    lengths = np.array(lengths)
    batches = bucket_batches(lengths, max_tokens, multiple, np.random.default_rng(seed), devices)
    assert sorted(row for batch in batches for row in batch.rows.tolist()) == list(range(len(lengths)))
    for batch in batches:
        shape = np.array((batch.source_length, batch.target_length))
        assert (shape % multiple == 0).all()
        assert (lengths[batch.rows] <= shape).all()
        assert (lengths[batch.rows] > shape - multiple).all()
        assert batch.size % devices == 0
        assert 0 <= batch.size - len(batch.rows) < devices
        assert batch.size == devices or batch.size // devices * shape.sum() <= max_tokens
    shapes = {(batch.size, batch.source_length, batch.target_length) for batch in batches}
    buckets = {(batch.source_length, batch.target_length) for batch in batches}
    assert len(shapes) <= 2 * len(buckets)
    again = bucket_batches(lengths, max_tokens, multiple, np.random.default_rng(seed), devices)
    assert [batch.rows.tolist() for batch in again] == [batch.rows.tolist() for batch in batches]
    assert len(bucket_batches(lengths, max_tokens, multiple, np.random.default_rng(seed + 1), devices)) == len(batches)


def test_the_stream_goes_on_anywhere_and_each_epoch_has_every_pair_in_another_order():
    random = np.random.default_rng(0)
    lengths = random.integers(3, 60, (50, 2)).tolist()
    pairs = EncodedPairs([([7] * source, [7] * target) for source, target in lengths])
    config = PretrainingConfig(batch_tokens=400, pad_to_multiple_of=32)
    stream = batch_stream(pairs, config, 1, 0)
    first = [next(stream) for _ in range(200)]
    per_epoch = next(count for count in range(1, 200) if sum(len(batch.rows) for batch in first[:count]) == len(pairs))
    orders = [
        np.concatenate([batch.rows for batch in first[epoch * per_epoch : (epoch + 1) * per_epoch]])
        for epoch in range(2)
    ]
    assert all(sorted(order.tolist()) == list(range(50)) for order in orders)
    assert orders[0].tolist() != orders[1].tolist()
    for start in (1, per_epoch - 1, per_epoch, 2 * per_epoch + 3):
        later = batch_stream(pairs, config, 1, start)
        assert [next(later).rows.tolist() for _ in range(20)] == [b.rows.tolist() for b in first[start : start + 20]]


@pytest.fixture(scope="module")
def whole_run(model_dir, pair_file, tmp_path_factory):
    """Return the folder of a run of 6 steps with dropout and two batches a step."""
    folder = tmp_path_factory.mktemp("whole")
    assert run(model_dir, pair_file, folder, "--gradient_accumulation_steps", 2) == 0
    return folder


def test_the_model_directory_is_what_stock_bert4keras_loads(whole_run):
    stock = bert4keras.models.build_transformer_model(
        str(whole_run / "config.json"),
        str(whole_run / "model.ckpt"),
        model="mt5.1.1",
        return_keras_model=False,
        name="T5",
        with_lm=True,
    )
    ours = build_model(whole_run)
    random = np.random.default_rng(0)
    source, target = (random.integers(106, 7000, (2, length)) for length in (9, 5))
    np.testing.assert_allclose(
        stock.model.predict([source, target], verbose=0), ours.model.predict([source, target], verbose=0), atol=1e-6
    )


@pytest.mark.slow
def test_fine_tuning_takes_the_model_directory(whole_run, tmp_path, capsys):
    flags = ["--epochs", "1", "--max_source_length", "32", "--max_eval_samples", "2"]
    assert finetune.main(["--model_dir", str(whole_run), "--output_dir", str(tmp_path), *flags]) == 0
    assert f"starting from {whole_run / 'model.ckpt'}" in capsys.readouterr().out


def test_it_learns(model_dir, pair_file, tmp_path):
    run(model_dir, pair_file, tmp_path, "--dropout_rate", 0, max_steps=40)
    log = read_log(tmp_path)
    assert [row["step"] for row in log] == list(range(2, 41, 2))
    assert log[-1]["loss"] < 0.75 * log[0]["loss"]
    assert log[-1]["accuracy"] > log[0]["accuracy"]
    assert log[0]["learning_rate"] == pytest.approx(1e-2)
    # The number of epochs is that of the pairs seen; no pair is seen more often than another but by one.
    assert log[-1]["epoch"] > 2


def test_a_resumed_run_ends_where_an_uninterrupted_one_does(whole_run, model_dir, pair_file, tmp_path, monkeypatch):
    """Killed after a checkpoint and two steps that are lost; dropout is on, the log's line was begun before."""
    counted = []

    def killed(self, *arguments):
        counted.append(arguments)
        if len(counted) > 5:
            raise KeyboardInterrupt
        return step(self, *arguments)

    step = pretraining.TrainStep.__call__
    flags = ("--gradient_accumulation_steps", 2)
    with monkeypatch.context() as patch:
        patch.setattr(pretraining.TrainStep, "__call__", killed)
        with pytest.raises(KeyboardInterrupt):
            run(model_dir, pair_file, tmp_path, *flags)
    with pytest.raises(OptionError, match="holds a training: go on with --resume"):
        run(model_dir, pair_file, tmp_path, *flags)
    with pytest.raises(OptionError, match=r"other batches: batch_tokens was 512 and is 600"):
        run(model_dir, pair_file, tmp_path, *flags, "--resume", "--batch_tokens", 600)
    assert run(model_dir, pair_file, tmp_path, *flags, "--resume") == 0
    assert read_log(tmp_path) == read_log(whole_run)
    assert_equal_weights(weights_of(tmp_path), weights_of(whole_run))


@pytest.mark.slow
def test_a_run_killed_between_its_state_and_its_weights_goes_on(whole_run, model_dir, pair_file, tmp_path, monkeypatch):
    def killed(*_):
        raise KeyboardInterrupt

    flags = ("--gradient_accumulation_steps", 2, "--resume")
    with monkeypatch.context() as patch:
        patch.setattr(pretraining, "save_weights", killed)
        with pytest.raises(KeyboardInterrupt):
            run(model_dir, pair_file, tmp_path, *flags)
    assert not (tmp_path / "model.ckpt.index").exists()
    run(model_dir, pair_file, tmp_path, *flags)
    assert read_log(tmp_path) == read_log(whole_run)
    assert_equal_weights(weights_of(tmp_path), weights_of(whole_run))


@pytest.mark.slow
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(whole_run, model_dir, pair_file, tmp_path, capsys):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    state = tmp_path / "training_state"
    flags = ("--gradient_accumulation_steps", 2, "--resume")
    last, before = (state / f"ckpt-{number}.data-00000-of-00001" for number in (6, 3))
    last.write_bytes(last.read_bytes()[:-1000])
    run(model_dir, pair_file, tmp_path, *flags)
    captured = capsys.readouterr()
    assert "ckpt-6 cannot be read: going on from " in captured.err
    assert "going on after step 3\n" in captured.out
    assert read_log(tmp_path) == read_log(whole_run)
    assert_equal_weights(weights_of(tmp_path), weights_of(whole_run))

    for damaged in ((last, before), (state / "checkpoint",)):
        for path in damaged:
            path.write_bytes(b"")
        with pytest.raises(CheckpointError, match=r"damaged.*; choose another --output_dir, or remove it to start"):
            run(model_dir, pair_file, tmp_path, *flags)


def test_a_run_goes_on_with_its_pairs_only_and_tells_of_other_options(
    whole_run, model_dir, pair_file, tmp_path, capsys
):
    shutil.copytree(whole_run, tmp_path / "out")
    flags = ("--gradient_accumulation_steps", 2, "--resume")
    lines = pair_file.read_text(encoding="utf-8").splitlines()
    (tmp_path / "reversed.jsonl").write_text("\n".join(lines[::-1]), encoding="utf-8")
    with pytest.raises(OptionError, match=r"other batches: digest of the pairs was \w{16} and is \w{16}$"):
        run(model_dir, tmp_path / "reversed.jsonl", tmp_path / "out", *flags)
    run(model_dir, pair_file, tmp_path / "out", *flags, "--weight_decay", 0.5)
    assert "going on with other options: weight_decay was 0.01 and is 0.5\n" in capsys.readouterr().err


def test_a_model_is_not_overwritten(whole_run, pair_file, tmp_path):
    """In place neither: a run that is killed would start from what it has made of its weights."""
    for name in ("config.json", "vocab.txt", "model.ckpt.index", "model.ckpt.data-00000-of-00001"):
        shutil.copy(whole_run / name, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(OptionError, match=r"model\.ckpt is there, of no training .*; choose another --output_dir"):
        run(tmp_path, pair_file, tmp_path, "--resume")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_a_state_of_another_model_is_not_resumed(whole_run, pair_file, tmp_path):
    shutil.copytree(whole_run, tmp_path, dirs_exist_ok=True)
    flags = ("--gradient_accumulation_steps", 2, "--resume", "--from_scratch")
    with pytest.raises(CheckpointError, match="another model or precision"):
        run(UNTRAINED_MODEL_DIR, pair_file, tmp_path, *flags)


def test_the_last_checkpoints_are_kept_and_no_temporary_file(model_dir, pair_file, tmp_path):
    (tmp_path / ".model.ckpt.0.tmp").mkdir()  # of a run that was killed
    (tmp_path / ".model.ckpt.0.tmp" / "model.ckpt.data-00000-of-00001.tempstate7").write_bytes(b"half")
    run(model_dir, pair_file, tmp_path, "--save_steps", 1, "--save_total_limit", 2, "--resume", max_steps=5)
    names = sorted(path.name for path in (tmp_path / "training_state").iterdir())
    expected = [f"ckpt-{n}.{end}" for n in (4, 5) for end in ("data-00000-of-00001", "index")]
    assert names == ["checkpoint", *expected]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "config.json", "model.ckpt.data-00000-of-00001", "model.ckpt.index", "pretraining_log.csv", "tensorboard",
        "training_state", "vocab.txt",
    ]  # fmt: skip


@pytest.mark.slow
def test_shards_give_the_run_that_their_pairs_give(model_dir, tmp_path):
    """With masks, which are a token in both."""
    flags = ["--sentence_split", "sentences", "--gap_sentence_strategy", "random", "--mask_rates", "0.9,0,0.1,0"]
    to_ids = ["--output_format", "tfrecord", "--vocab_file", str(model_dir / "vocab.txt"), "--pairs_per_shard", "70"]
    lengths = ["--max_source_length", "48", "--max_target_length", "16"]
    for name, more in (("pairs.jsonl", []), ("shards", [*to_ids, *lengths])):
        assert pretrain_data.main(["--output_file", str(tmp_path / name), *flags, *more]) == 0
        run(model_dir, tmp_path / name, tmp_path / f"from_{name}", max_steps=3)
    assert sum(103 in source for source, _ in open_shards(tmp_path / "shards")) > 50
    assert_equal_weights(weights_of(tmp_path / "from_shards"), weights_of(tmp_path / "from_pairs.jsonl"))
    with pytest.raises(OptionError, match="sources of 48 and targets of 16 tokens; raise --max_source_length"):
        run(model_dir, tmp_path / "shards", tmp_path / "cut", "--max_source_length", 32)


def test_a_run_may_start_from_weights_or_leave_them(whole_run, pair_file, tmp_path):
    """With a rate of almost nothing the weights stay what they were at the start."""
    expected = weights_of(whole_run)
    flags = ("--learning_rate", 1e-12, "--weight_decay", 0)
    run(whole_run, pair_file, tmp_path / "from_weights", *flags, max_steps=1)
    for name, value in weights_of(tmp_path / "from_weights").items():
        np.testing.assert_allclose(value, expected[name], atol=1e-8, err_msg=name)
    run(whole_run, pair_file, tmp_path / "from_scratch", *flags, "--from_scratch", "--seed", 7, max_steps=1)
    assert np.abs(weights_of(tmp_path / "from_scratch")["shared/embedding"] - expected["shared/embedding"]).max() > 0.5


@pytest.mark.slow
def test_a_run_may_start_from_the_rows_of_mt5(tmp_path):
    """With a rate of almost nothing: each word has the row of its piece, or the mean of those of its pieces."""
    sentencepiece = pytest.importorskip("sentencepiece")
    from tests.networks.test_mt5 import HUGGING_FACE, make_model_dir, tokens_of, train_pieces

    alphabet = "".join(chr(0x4E00 + index) for index in range(296))
    options = {"vocab_size": 300, "model_type": "char", "character_coverage": 1.0}
    train_pieces(tmp_path / "spiece.model", [alphabet] * 3, **options)
    pieces = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "spiece.model"))
    tokens = [*tokens_of(tmp_path / "spiece.model", shuffled=True), "一丁"]
    model_dir = make_model_dir(tmp_path / "model", tokens)
    (tmp_path / "pairs.jsonl").write_text(json.dumps({"source": alphabet[:40], "target": alphabet[5:9]}))
    mt5 = ("--mt5_weights", HUGGING_FACE, "--mt5_vocab", tmp_path / "spiece.model")
    flags = ("--learning_rate", 1e-12, "--weight_decay", 0)
    run(model_dir, tmp_path / "pairs.jsonl", tmp_path / "out", *mt5, *flags, max_steps=1)

    theirs, ours = safetensors.numpy.load_file(HUGGING_FACE), weights_of(tmp_path / "out")
    special = {"[PAD]": "<pad>", "[CLS]": "<pad>", "[SEP]": "</s>", "[UNK]": "<unk>"}
    rows = [[pieces.piece_to_id(special.get(token, token))] for token in tokens[:-1]]
    rows.append([pieces.piece_to_id(character) for character in "一丁"])
    expected = [theirs["shared.weight"][each].astype(np.float32).mean(axis=0) for each in rows]
    np.testing.assert_allclose(ours["shared/embedding"], expected, atol=1e-6)
    wo = theirs["decoder.block.2.layer.2.DenseReluDense.wo.weight"].astype(np.float32)
    np.testing.assert_allclose(ours["decoder/block_002/layer_002/DenseReluDense/wo/kernel"], wo.T, atol=1e-6)


def test_what_cannot_be_used_is_said(model_dir, tmp_path):
    with pytest.raises(OptionError, match=r"train_file must exist, got .*none\.jsonl"):
        run(model_dir, tmp_path / "none.jsonl", tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="cannot read shards"):
        run(model_dir, tmp_path / "empty", tmp_path / "out")
    with pytest.raises(DataError, match="at least one pair"):
        Pretrainer(None, PretrainingConfig(), tmp_path, model_dir).fit(EncodedPairs([]))
    with pytest.raises(OptionError, match="exclude each other"):
        run(model_dir, model_dir / "vocab.txt", tmp_path, "--from_scratch", "--weights", "x")
    for flag, message in ((("--text_column", "x"), "text_column"), (("--skip_bad_lines",), "skip_bad_lines")):
        with pytest.raises(OptionError, match=f"{message} is only for a file of text"):
            run(model_dir, tmp_path / "empty", tmp_path / "out", *flag)
    with pytest.raises(OptionError, match="mt5_weights and mt5_vocab go together, got x and None"):
        run(model_dir, model_dir / "vocab.txt", tmp_path, "--mt5_weights", "x")


def test_the_default_is_the_official_recipe():
    config = PretrainingConfig()
    assert (config.peak_rate(), config.warmup_steps, config.weight_decay) == (1e-4, 10_000, 0.01)
    # 16 pairs of 384 + 128 tokens on each of 6 devices are the official batch of 96.
    assert config.batch_tokens // (384 + 128) * 6 == 96
