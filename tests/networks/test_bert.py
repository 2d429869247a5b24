"""BERTScore over bert4keras's BERT against bert-score's own numbers, on a small random BERT (tests/golden)."""

import json
from pathlib import Path

import numpy as np
import pytest

import compare
from t5_pegasus.errors import CheckpointError, DataError, OptionError
from t5_pegasus.metrics.bert_score import bert_score, best_f
from t5_pegasus.networks.backend import tf
from t5_pegasus.networks.bert import BertEncoder


@pytest.fixture(scope="module")
def golden():
    return np.load(Path(__file__).parent.parent / "golden" / "bert_score.npz")


@pytest.fixture(scope="module")
def folder(golden, tmp_path_factory):
    """Return a BERT directory in Google's format."""
    folder = tmp_path_factory.mktemp("bert")
    size = dict(
        zip(
            *(
                ("vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size"),
                golden["config"].tolist()[:5],
            ),
            strict=True,
        )
    )
    rest = {"max_position_embeddings": int(golden["config"][5]), "type_vocab_size": 2, "hidden_act": "gelu"}
    rates = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "initializer_range": 0.3}
    (folder / "bert_config.json").write_text(json.dumps({**size, **rest, **rates}), encoding="utf-8")
    (folder / "vocab.txt").write_text("\n".join(golden["tokens"].tolist()), encoding="utf-8")
    names = [name for name in golden.files if name.startswith("weight:")]
    tf.raw_ops.SaveV2(
        prefix=str(folder / "bert_model.ckpt"),
        tensor_names=[name.removeprefix("weight:") for name in names],
        shape_and_slices=[""] * len(names),
        tensors=[tf.constant(golden[name]) for name in names],
    )
    return folder


def test_scores_are_those_of_bert_score(golden, folder):
    encoder = BertEncoder(folder)
    assert encoder.layer == golden["layer"] == 2
    hypotheses, references = (encoder.encode(golden["pairs"][:, side].tolist()) for side in (0, 1))
    found = [bert_score(*pair) for pair in zip(hypotheses, references, strict=True)]
    assert np.array(found) == pytest.approx(golden["scores"], abs=2e-5)
    assert best_f(hypotheses[0], references) == max(bert_score(hypotheses[0], each)[2] for each in references)


@pytest.mark.slow
def test_a_text_alone_has_the_vectors_that_it_has_in_a_batch(golden, folder):
    encoder = BertEncoder(folder, 3)
    texts = [*golden["pairs"][:, 0].tolist(), "", "图" * 100]
    together = encoder.encode(texts)
    for text, vectors in zip(texts, together, strict=True):
        assert encoder.encode([text])[0] == pytest.approx(vectors, abs=1e-5)
        assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)
    assert [len(vectors) for vectors in together[-2:]] == [2, 64]
    assert bert_score(together[0], together[-2]) == (0, 0, 0)


def test_a_comparison_has_it_beside_the_other_scores(golden, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.tsv").write_text("单车预测方法\t单车预测方法研究。\n图网络\t基于图网络。\n", encoding="utf-8")
    (tmp_path / "titles.txt").write_text("单车需求\n图网络\n", encoding="utf-8")
    flags = ["--test_file", "pairs.tsv", "--system", "predictions:titles.txt?name=x", "--encoder_dir", str(folder)]
    assert compare.main([*flags, "--resamples", "100"]) == 0
    out = capsys.readouterr().out.splitlines()
    encoder = BertEncoder(folder)
    first, second, same = (encoder.encode([text])[0] for text in ("单车需求", "单车预测方法", "图网络"))
    expected = (bert_score(first, second)[2] + bert_score(same, same)[2]) / 2
    assert json.loads(out[-1])["bertscore"]["x"][0] == pytest.approx(expected, abs=1e-5)
    assert any(line.startswith("bertscore|f|idf:no") and "|layer:2|" in line for line in out)


def test_what_a_folder_lacks_is_told(folder, tmp_path):
    with pytest.raises(OptionError, match="encoder_layer must be from 1 to 3, got 4"):
        BertEncoder(folder, 4)
    with pytest.raises(DataError, match=r"cannot read .*bert_config\.json"):
        BertEncoder(tmp_path)
    (tmp_path / "bert_config.json").write_text("{}")
    with pytest.raises(DataError, match="is not the config of a BERT"):
        BertEncoder(tmp_path)
    (tmp_path / "bert_config.json").write_bytes((folder / "bert_config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"no bert_model\.ckpt\.index in"):
        BertEncoder(tmp_path)
