"""The reference search against brute force, bert4keras and the full decoder."""

import itertools

import numpy as np
import pytest

from t5_pegasus import AutoTitle
from t5_pegasus.config import GenerationConfig
from t5_pegasus.decoding.inputs import Source
from t5_pegasus.engines.reference import ReferenceDecoder
from t5_pegasus.errors import OptionError
from t5_pegasus.networks.backend import bert4keras

START, END = 1, 0
ANY = Source.whole([1])  # for decoders that have no model
wraps = bert4keras.snippets.AutoRegressiveDecoder.wraps


@pytest.fixture(scope="module")
def trained_reference(trained_dir):
    return AutoTitle.load(trained_dir, trained_dir / "best_model.weights", engine="reference")


class ToyDecoder(ReferenceDecoder):
    """A decoder of four tokens whose next-token probabilities depend on the two before; no model behind it."""

    def __init__(self, seed, maxlen=5, unused_ids=()):
        bert4keras.snippets.AutoRegressiveDecoder.__init__(self, START, END, maxlen)
        self.unused_ids = unused_ids
        random = np.random.default_rng(seed)
        self.table = random.dirichlet(np.full(4, 0.7), size=(4, 4))

    def encode(self, source):
        return np.zeros((len(source), 1))

    @wraps(default_rtype="probas")
    def predict(self, inputs, output_ids, states):
        before = output_ids[:, -2] if output_ids.shape[1] > 1 else np.zeros(len(output_ids), int)
        return self.table[before, output_ids[:, -1]]

    def brute_force(self, config):
        """Return the score of every title there is, computed one by one."""
        scores = {}
        for length in range(1, config.max_new_tokens + 1):
            for ids in itertools.product(range(4), repeat=length):
                ended = ids[-1] == END
                if END in ids[:-1] or not (ended or length == config.max_new_tokens):
                    continue
                if ended and length - 1 < config.min_new_tokens:
                    continue
                size = config.no_repeat_ngram_size
                grams = [ids[n : n + size] for n in range(length - size + 1)] if size else []
                if len(set(grams)) < len(grams):
                    continue
                if set(ids) & set(config.suppress_tokens):
                    continue
                prefix, total = [0, START], 0.0
                for token in ids:
                    log_prob = np.log(self.table[prefix[-2], prefix[-1]][token] + 1e-12)
                    total += log_prob * (config.repetition_penalty if token in prefix[2:] else 1)
                    prefix.append(token)
                scores[ids] = total / length**config.length_penalty
        return scores


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_return_sequences": 7},
        {"min_new_tokens": 3},
        {"length_penalty": 1.0, "num_return_sequences": 3},
        {"length_penalty": 2.5},
        {"length_penalty": -1.0, "num_return_sequences": 2},
        {"no_repeat_ngram_size": 1},
        {"no_repeat_ngram_size": 2, "min_new_tokens": 4, "length_penalty": 0.6, "num_return_sequences": 4},
        {"repetition_penalty": 1.3, "suppress_tokens": (3,), "num_return_sequences": 2},
    ],
    ids=str,
)
def test_a_beam_as_wide_as_all_titles_finds_the_best_of_all(seed, options):
    decoder = ToyDecoder(seed)
    config = GenerationConfig(num_beams=4**5, max_new_tokens=5, **options)
    found = decoder.search(ANY, config)
    scores = decoder.brute_force(config)
    best = sorted(scores.values(), reverse=True)[: config.num_return_sequences]
    assert len({title.ids for title in found}) == len(best)
    # By their scores, since titles of the same steps in another order are equally good.
    np.testing.assert_allclose([scores[title.ids] for title in found], best, rtol=1e-9)
    np.testing.assert_allclose([title.score for title in found], best, rtol=1e-9)


def stock_search(decoder, source, topk):
    """Return what bert4keras's own beam search returns, and whether it dropped a finished beam on the way."""
    widths = []
    predict = decoder.predict

    def watched(inputs, output_ids, *args):
        widths.append(len(output_ids))
        return predict(inputs, output_ids, *args)

    decoder.predict = watched
    try:
        ids = decoder.beam_search([decoder.encode(source)], topk)
    finally:
        decoder.predict = predict
    return tuple(ids[1:].tolist()), min(widths[1:], default=topk) < topk


def test_the_search_equals_stock_on_random_chains_but_keeps_what_stock_drops():
    dropped = better = 0
    for seed in range(300):
        decoder = ToyDecoder(seed, maxlen=8)
        greedy, _ = stock_search(decoder, ANY, 1)
        assert decoder.search(ANY, GenerationConfig(max_new_tokens=8))[0].ids == greedy
        beams, lost_one = stock_search(decoder, ANY, 3)
        ours = decoder.search(ANY, GenerationConfig(num_beams=3, max_new_tokens=8))[0]
        if lost_one:
            dropped += 1
            better += ours.ids != beams
        else:
            assert ours.ids == beams
    assert dropped > 20, "the chains are to be such that stock drops beams"
    assert better > 0, "keeping finished beams is to make a difference"


def test_the_search_equals_stock_on_the_trained_model(trained_reference, sample_pairs, monkeypatch):
    """For so few tokens that some titles end and others do not."""
    decoder, tokenizer = trained_reference.decoder, trained_reference.tokenizer
    monkeypatch.setattr(decoder, "maxlen", 16)
    kept = 0
    for example in sample_pairs[:8]:
        source = Source.whole(tokenizer.encode(example.content, 256))
        greedy, _ = stock_search(decoder, source, 1)
        assert decoder.search(source, GenerationConfig(max_new_tokens=16))[0].ids == greedy
        beams, lost_one = stock_search(decoder, source, 3)
        if not lost_one:
            kept += 1
            assert decoder.search(source, GenerationConfig(num_beams=3, max_new_tokens=16))[0].ids == beams
    assert kept, "some search of stock's is to lose no beam"


def test_rescoring_a_title_gives_its_score(trained_reference, sample_pairs):
    decoder, tokenizer = trained_reference.decoder, trained_reference.tokenizer
    config = GenerationConfig(num_beams=4, num_return_sequences=4, length_penalty=0.8, no_repeat_ngram_size=2)
    for example in sample_pairs[:3]:
        source = Source.whole(tokenizer.encode(example.content, 256))
        titles = decoder.search(source, config)
        assert len({title.ids for title in titles}) == 4
        for title in titles:
            context = decoder.encode(source)[None]
            prefixes = np.array([[tokenizer.start_id, *title.ids[:-1]]])
            log_probs = np.log(decoder.t5.model([np.array([source.ids]), prefixes])[0].numpy())
            assert context.shape[1] == len(source)
            total = log_probs[np.arange(len(title.ids)), list(title.ids)].sum()
            assert title.score == pytest.approx(total / len(title.ids) ** 0.8, abs=1e-4)


def test_the_end_token_is_forbidden_before_min_new_tokens(trained_reference, sample_pairs):
    decoder, tokenizer = trained_reference.decoder, trained_reference.tokenizer
    sources = map(Source.whole, tokenizer.encode_batch([example.content for example in sample_pairs], 256))
    found = ((source, decoder.search(source, GenerationConfig())[0]) for source in sources)
    source, free = next((source, title) for source, title in found if len(title.ids) < 29)
    longer = decoder.search(source, GenerationConfig(min_new_tokens=len(free.ids) + 3))[0]
    assert tokenizer.end_id not in longer.ids[: len(free.ids) + 3]


@pytest.mark.parametrize(
    "options", [{"do_sample": True}, {"num_beams": 2, "num_beam_groups": 2, "diversity_penalty": 1}]
)
def test_what_bert4keras_has_not_is_refused(options):
    with pytest.raises(OptionError, match="engine reference has bert4keras's beam search only"):
        ToyDecoder(0).search(ANY, GenerationConfig(**options))


def test_return_sequences_need_as_many_beams():
    with pytest.raises(OptionError, match="num_return_sequences must be at most num_beams"):
        GenerationConfig(num_return_sequences=2)
