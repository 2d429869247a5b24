"""AutoTitle over a trained model."""

import itertools
import json

import numpy as np
import pytest

from t5_pegasus import AutoTitle, PegasusTokenizer, build_model
from t5_pegasus.config import GenerationConfig, ModelConfig
from t5_pegasus.decoding.inputs import LONG_TEXT
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import CheckpointError, OptionError
from t5_pegasus.networks.backend import bert4keras
from t5_pegasus.networks.checkpoints import named_variables
from tests.paths import UNTRAINED_MODEL_DIR


def test_a_list_gets_the_titles_of_its_texts_in_order(trained_title, sample_pairs):
    texts = [example.content for example in sample_pairs[:6]]
    alone = [trained_title.generate(text) for text in texts]
    assert trained_title.generate(texts) == alone
    assert trained_title.generate(texts[::-1]) == alone[::-1]
    assert len(set(alone)) > 1


def test_topk_is_num_beams(trained_title, sample_pairs):
    text = sample_pairs[3].content
    assert trained_title.generate(text, topk=4) == trained_title.generate(text, num_beams=4)


def test_an_empty_text_has_an_empty_title(trained_title):
    assert trained_title.generate(["", " \n\t", "　"]) == ["", "", ""]
    assert trained_title.generate([]) == []


def test_hypotheses_hold_text_score_and_ids(trained_title, sample_pairs):
    text = sample_pairs[0].content
    best = trained_title.generate_n_best([text], num_beams=3, num_return_sequences=3)[0]
    assert [hypothesis.score for hypothesis in best] == sorted((h.score for h in best), reverse=True)
    for hypothesis in best:
        assert trained_title.tokenizer.decode(hypothesis.ids) == hypothesis.text
    assert best[0].text == trained_title.generate(text, topk=3)


def test_a_text_is_read_to_max_source_length_only(trained_title, sample_pairs):
    text = sample_pairs[0].content
    cut = trained_title.generate_n_best([text + "。" + text], max_source_length=40)
    assert cut == trained_title.generate_n_best([text], max_source_length=40)


def test_answers_say_how_much_of_a_text_was_read(trained_title, sample_pairs):
    text, config = sample_pairs[0].content, GenerationConfig()
    whole = len(trained_title.tokenizer.encode(text))
    for long_text in LONG_TEXT:
        for max_source_length in (whole - 1, whole):
            data = DataConfig(max_source_length=max_source_length, long_text=long_text)
            is_read = max_source_length == whole or long_text == "window"
            empty, answer = trained_title.iterate(["", text], config, data)
            assert empty == ([("", 0.0, ())], 0, False)
            assert answer[1:] == ((whole, False) if is_read else (whole - 1, True))
            assert [answer.titles] == trained_title.generate_n_best([text], max_source_length, long_text)


def test_a_batch_is_decoded_as_each_text_alone_and_reports_titles_on_the_way(trained_title, sample_pairs):
    """It reports each title once, and a text that is no longer wanted is given up."""
    texts, config = [example.content for example in sample_pairs[:3]], GenerationConfig(num_beams=2)
    sources = [trained_title.encode(text, DataConfig()) for text in texts]
    reported = {0: [], 2: []}
    answers = trained_title.decode_batch(
        sources, config, (), lambda index: index != 1, {index: titles.append for index, titles in reported.items()}
    )
    alone = trained_title.generate_n_best(texts, num_beams=2)
    for index in (0, 2):
        (found,), (expected,) = answers[index].titles, alone[index]
        assert (found.text, found.ids) == (expected.text, expected.ids)
        assert found.score == pytest.approx(expected.score, abs=1e-4)
    assert answers[1].titles[0].ids == ()
    assert [answer.source_tokens for answer in answers] == list(map(len, sources))
    for index, titles in reported.items():
        assert titles[-1].ids == answers[index].titles[0].ids
        assert all(before.ids != after.ids for before, after in itertools.pairwise(titles))
        texts_on_the_way = [text for text, _ in itertools.groupby(title.text for title in titles)]
        assert texts_on_the_way == [title.text for title in trained_title.stream(texts[index], num_beams=2)]


@pytest.mark.parametrize("engine", ["keras", "onnx", "reference"])
def test_rows_beyond_the_vocabulary_are_never_written(random_model_dir, tmp_path, engine):
    """In a model that would write hardly anything else."""
    config = json.loads((random_model_dir / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps({**config, "vocab_size": 320}), encoding="utf-8")
    (tmp_path / "vocab.txt").write_bytes((random_model_dir / "vocab.txt").read_bytes())
    t5 = build_model(tmp_path)
    head = named_variables(t5)["decoder/logits/kernel"]  # [hidden_size, vocab_size]
    head.assign(np.random.default_rng(1).normal(size=head.shape) * np.where(np.arange(320) < 300, 1, 9))
    tokenizer = PegasusTokenizer(tmp_path / "vocab.txt")
    title = AutoTitle(t5, tokenizer, engine)
    source = title.encode("一丁丂七丄丅丆万丈三", DataConfig())
    first = t5.model([np.array([source.ids]), np.array([[tokenizer.start_id]])])[0, 0].numpy()
    assert first.argmax() >= 300
    options = {"num_beams": 3, "num_return_sequences": 3, "max_new_tokens": 6}
    samples = {"do_sample": True, "num_return_sequences": 20, "seed": 2, "top_k": 0, "max_new_tokens": 6}
    for generation in (options, {"max_new_tokens": 6}, *([] if engine == "reference" else [samples])):
        for hypothesis in title.generate_n_best(["一丁丂七丄丅丆万丈三"], **generation)[0]:
            assert len(hypothesis.ids) > 0
            assert max(hypothesis.ids) < 300


def test_a_stock_bert4keras_model_gives_the_same_titles(trained_dir, trained_title, sample_pairs):
    """The weights file is read by Keras itself here, into bert4keras's own T5, which gives probabilities."""
    config = ModelConfig.load(trained_dir)
    stock = bert4keras.models.build_transformer_model(
        model="mt5.1.1", return_keras_model=False, name="T5", **config.to_dict()
    )
    stock.model.load_weights(str(trained_dir / "best_model.weights"), by_name=True)
    title = AutoTitle(stock, trained_title.tokenizer)
    texts = [example.content for example in sample_pairs[:4]]
    assert title.generate(texts, topk=2) == trained_title.generate(texts, topk=2)


def test_any_batch_is_each_text_alone(trained_title, sample_pairs):
    texts = [example.content[: 7 * number + 1] for number, example in enumerate(sample_pairs[:20])]
    expected = trained_title.generate(texts, topk=2, batch_tokens=1)
    for batch_tokens in (300, 1000, 100_000):
        assert trained_title.generate(texts, topk=2, batch_tokens=batch_tokens) == expected


@pytest.mark.parametrize("text", ["a", "😀" * 50, "\0\x01", "[CLS][SEP]", "很" * 5000])
def test_odd_texts_get_some_title(trained_title, text):
    assert isinstance(trained_title.generate(text, max_new_tokens=3), str)


def test_wrong_options_are_named(trained_title):
    with pytest.raises(OptionError, match="num_beams must be at least 1, got 0"):
        trained_title.generate("标题", num_beams=0)
    with pytest.raises(OptionError, match="got beam_width"):
        trained_title.generate("标题", beam_width=3)
    with pytest.raises(OptionError, match="engine must be one of auto, keras, onnx, reference, got fast"):
        AutoTitle(None, trained_title.tokenizer, engine="fast")


def test_without_weights_the_command_that_makes_them_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"python finetune\.py --model_dir"):
        AutoTitle.load(UNTRAINED_MODEL_DIR, output_dir=tmp_path)


def test_a_model_that_gives_logits_serves_as_well(trained_dir, trained_title, sample_pairs):
    t5 = build_model(trained_dir, trained_dir / "best_model.weights", with_lm="linear")
    title = AutoTitle(t5, PegasusTokenizer(trained_dir / "vocab.txt"))
    text = sample_pairs[1].content
    assert title.generate(text) == trained_title.generate(text)


def test_a_stream_ends_in_the_title(trained_title, sample_pairs):
    text = sample_pairs[0].content
    for options in ({}, {"num_beams": 3}, {"do_sample": True, "seed": 4}):
        *partial, final = trained_title.stream(text, **options)
        assert final == trained_title.generate_n_best([text], **options)[0][0]
        assert all(before.text != after.text for before, after in itertools.pairwise((*partial, final)))
        assert len(partial) > 2
    greedy = [hypothesis.text for hypothesis in trained_title.stream(text)]
    assert all(after.startswith(before) for before, after in itertools.pairwise(greedy))
    assert [hypothesis.text for hypothesis in trained_title.stream(" \n")] == [""]
    with pytest.raises(OptionError, match="num_beams must be at least 1"):
        trained_title.stream(text, num_beams=0)


def test_titles_begin_with_the_prefix(trained_title, sample_pairs):
    texts = [example.content for example in sample_pairs[:5]]
    for titles in trained_title.generate_n_best(texts, title_prefix="关于新的", num_beams=3, num_return_sequences=3):
        assert all(hypothesis.text.startswith("关于新的") for hypothesis in titles)
    with pytest.raises(OptionError, match="max_new_tokens must be more than title_prefix has"):
        trained_title.generate(texts[0], title_prefix="关于新的方法和理论", max_new_tokens=2)
    for prefix in ("😀标题", " "):
        with pytest.raises(OptionError, match="title_prefix must be made of what the vocabulary has"):
            trained_title.generate(texts[0], title_prefix=prefix)
    token = trained_title.tokenizer.encode("关于")[1]
    with pytest.raises(OptionError, match="title_prefix must hold none of suppress_tokens"):
        trained_title.generate(texts[0], title_prefix="关于", suppress_tokens=[token])


def test_suppressed_tokens_are_never_written(trained_title, sample_pairs):
    text = sample_pairs[2].content
    free = trained_title.generate_n_best([text])[0][0].ids
    banned = trained_title.generate_n_best([text], suppress_tokens=free[:3])[0][0].ids
    assert not set(free[:3]) & set(banned)
    with pytest.raises(OptionError, match="suppress_tokens must be ids below"):
        trained_title.generate(text, suppress_tokens=[10**6])


def test_samples_of_the_same_seed_are_the_same_in_any_batch(trained_title, sample_pairs):
    texts = [example.content for example in sample_pairs[:4]]
    options = {"do_sample": True, "seed": 11, "num_return_sequences": 3, "temperature": 1.2}
    together = trained_title.generate_n_best(texts, **options)
    assert [[h.ids for h in trained_title.generate_n_best([text], **options)[0]] for text in texts] == [
        [h.ids for h in titles] for titles in together
    ]
    assert len({hypothesis.ids for titles in together for hypothesis in titles}) > 4


def test_a_long_text_can_be_read_by_its_ends_or_whole(trained_title, sample_pairs):
    first, second = sample_pairs[0].content, sample_pairs[1].content
    for long_text in ("truncate", "head_tail", "window"):
        assert trained_title.generate_n_best([first], 300, long_text) == trained_title.generate_n_best([first], 300)
    both = first + second
    scores = [trained_title.generate_n_best([both], 60, name)[0][0].score for name in LONG_TEXT]
    assert len(set(scores)) == 3
    with pytest.raises(OptionError, match="long_text must be one of truncate, head_tail, window, got tail"):
        trained_title.generate_n_best([first], long_text="tail")
    with pytest.raises(OptionError, match="max_source_length must be a whole number, got '300'"):
        trained_title.generate_n_best([first], "300")
