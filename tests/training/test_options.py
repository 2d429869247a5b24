"""The options of training, and the rates that both trainers start from."""

import functools
import subprocess
import sys

import pytest

from t5_pegasus import PegasusTokenizer, build_model
from t5_pegasus.data.examples import Example
from t5_pegasus.decoding.options import DataConfig
from t5_pegasus.errors import OptionError
from t5_pegasus.locations import ROOT, Weights
from t5_pegasus.metrics import score
from t5_pegasus.networks.checkpoints import load_weights, save_weights
from t5_pegasus.training import EncodedPairs, Pretrainer, Trainer, finetuning, pretraining
from t5_pegasus.training.options import PretrainingConfig, TrainingConfig
from tests.paths import UNTRAINED_MODEL_DIR

SMALL = {"hidden_size": 8, "num_hidden_layers": 1, "intermediate_size": 8, "num_attention_heads": 1}
# (config, from scratch, scale_parameter): peak rate
RATES = {
    (TrainingConfig, False, False): 2e-4,
    (TrainingConfig, True, False): 1e-3,
    (TrainingConfig, False, True): 2e-3,
    (TrainingConfig, True, True): 1e-2,
    (PretrainingConfig, False, False): 1e-4,
    (PretrainingConfig, True, False): 1e-4,
    (PretrainingConfig, False, True): 1e-2,
    (PretrainingConfig, True, True): 1e-2,
}


@pytest.mark.parametrize(("case", "rate"), RATES.items())
def test_the_usual_rates(case, rate):
    config, from_scratch, scale = case
    assert config(scale_parameter=scale).peak_rate(from_scratch) == pytest.approx(rate)
    assert config(scale_parameter=scale, learning_rate=0.5).peak_rate(from_scratch) == 0.5


class PeakError(Exception):
    """Ends a training as soon as its rate is known."""


@pytest.mark.parametrize("from_scratch", [False, True])
@pytest.mark.parametrize("config", [TrainingConfig, PretrainingConfig])
def test_a_trainer_starts_from_the_usual_rate_of_its_model(monkeypatch, tmp_path, config, from_scratch):
    """The library as the scripts: the model itself says whether its weights are random."""

    def end(peak, *_):
        raise PeakError(peak)

    for module in (finetuning, pretraining):
        monkeypatch.setattr(module, "WarmupLinearDecay", end)
    t5 = build_model(UNTRAINED_MODEL_DIR, Weights.RANDOM, with_lm="linear", **SMALL)
    assert t5.from_scratch
    if not from_scratch:
        save_weights(t5, tmp_path / "weights.safetensors")
        load_weights(t5, tmp_path / "weights.safetensors")
    tokenizer = PegasusTokenizer(UNTRAINED_MODEL_DIR / "vocab.txt")
    if config is TrainingConfig:
        examples = [Example("一段正文", "题")]
        fit = functools.partial(Trainer(t5, tokenizer, config(), DataConfig(), tmp_path).fit, examples, examples)
    else:
        pairs = EncodedPairs([([101, 7, 102], [101, 8, 102])])
        fit = functools.partial(Pretrainer(t5, config(), tmp_path, UNTRAINED_MODEL_DIR).fit, pairs)
    with pytest.raises(PeakError) as caught:
        fit()
    assert caught.value.args == (RATES[config, from_scratch, False],)


def test_every_score_can_choose_the_best_model():
    for name in score(["题"], ["题"]):
        TrainingConfig(metric_for_best_model=name)
    with pytest.raises(OptionError, match=r"^metric_for_best_model must be one of rouge-1, .*, got rouge$"):
        TrainingConfig(metric_for_best_model="rouge")
    for name in score(["A title"], ["A title"], "en"):
        TrainingConfig(metric_for_best_model=name, language="en")
    with pytest.raises(OptionError, match=r"must be one of rouge-1, .*, bleu for language zh, got rouge-lsum$"):
        TrainingConfig(metric_for_best_model="rouge-lsum")
    with pytest.raises(OptionError, match="language must be one of zh, en, got fr"):
        TrainingConfig(language="fr")


def test_a_seed_that_keras_cannot_take_is_refused():
    assert TrainingConfig(seed=2**32 - 1).seed == 2**32 - 1
    with pytest.raises(OptionError, match="seed must be from 0 to 4294967295, got 4294967296"):
        TrainingConfig(seed=2**32)


def test_options_are_read_without_tensorflow():
    code = "import sys, finetune, pretrain; assert not {'tensorflow', 'keras', 'tf_keras'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
