"""The figures after an epoch, each beside a slow, obvious version of it."""

import time

import numpy as np
import pytest

from t5_pegasus import AutoTitle, PegasusTokenizer, score
from t5_pegasus.data.examples import Example
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.training import validation
from t5_pegasus.training.options import TrainingConfig
from t5_pegasus.training.validation import Validation, figure_names

DATA = DataConfig(max_source_length=16, max_target_length=6, source_prefix="丁七")
# Of unlike lengths, some of them cut.
EXAMPLES = [
    Example(*("".join(chr(0x4E00 + 110 + (number * 37 + place) % 180) for place in range(size)) for size in sizes))
    for number, sizes in enumerate([(5, 1), (20, 3), (9, 8), (3, 2), (12, 4)])
]


@pytest.fixture(scope="module")
def tokenizer(random_model_dir):
    return PegasusTokenizer(random_model_dir / "vocab.txt")


@pytest.fixture(scope="module")
def title(random_t5, tokenizer):
    return AutoTitle(random_t5, tokenizer)


@pytest.fixture(scope="module")
def measuring(random_t5, tokenizer, title):
    """Return a function that gives a Validation other options: one for all tests, since its graph takes seconds."""
    validation = Validation(random_t5, title, tokenizer, TrainingConfig(), DATA)

    def measuring(**options):
        validation._config, validation._pairs = TrainingConfig(**options), None
        return validation

    return measuring


def slow_loss(t5, tokenizer, examples):
    """Return the mean over all target tokens, each text by itself and without padding."""
    losses = []
    for example in examples:
        source = tokenizer.encode(DATA.source_prefix + example.content, DATA.max_source_length)
        target = tokenizer.encode(example.title, DATA.max_target_length)
        logits = t5.model([np.array([source]), np.array([target[:-1]])], training=False).numpy()[0].astype(np.float64)
        log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
        losses += [-row[index] for row, index in zip(log_probs, target[1:], strict=True)]
    return np.mean(losses)


def test_the_loss_is_that_of_each_text_alone(random_t5, tokenizer, measuring, monkeypatch):
    expected = pytest.approx(slow_loss(random_t5, tokenizer, EXAMPLES), rel=1e-5)
    for batch_size, logits_at_once in ((2, 2**26), (16, 2**26), (16, 4000)):
        monkeypatch.setattr(validation, "_LOGITS_AT_ONCE", logits_at_once)
        validate = measuring(per_device_train_batch_size=batch_size, label_smoothing_factor=0.1)
        assert [validate._loss(EXAMPLES) for _ in range(2)] == [expected, expected]


@pytest.mark.parametrize("language", ["zh", "en"])
def test_all_figures_are_of_the_first_pairs(random_t5, tokenizer, title, measuring, language, capsys):
    validate = measuring(max_eval_samples=3, eval_num_beams=2, language=language)
    start = time.perf_counter()
    figures = validate(EXAMPLES)
    seconds = time.perf_counter() - start
    assert tuple(figures) == figure_names(language)
    contents = [example.content for example in EXAMPLES[:3]]
    options = {"num_beams": 2, "max_new_tokens": 6, "max_source_length": 16, "source_prefix": DATA.source_prefix}
    found = [best[0] for best in title.generate_n_best(contents, **options)]
    scores = score([each.text for each in found], [example.title for example in EXAMPLES[:3]], language)
    assert {name: figures[name] for name in scores} == scores
    assert figures["gen_len"] == pytest.approx(np.mean([len(each.ids) for each in found]))
    assert figures["eval_loss"] == pytest.approx(slow_loss(random_t5, tokenizer, EXAMPLES[:3]), rel=1e-5)
    assert 0.2 * seconds < figures["eval_runtime"] <= seconds
    assert figures["eval_samples_per_second"] == pytest.approx(3 / figures["eval_runtime"])
    assert capsys.readouterr().err.startswith(
        "2 validation texts were cut to max_source_length 16 or max_target_length 6"
    )
