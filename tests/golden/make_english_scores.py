"""Make english_scores.json: what rouge-score, nltk and sacrebleu say of some English summaries.

Run where the three are installed (made with rouge-score 0.1.2, nltk 3.10.4 and sacrebleu 2.6.0):
`python tests/golden/make_english_scores.py`. Sentences are divided here by hand, for ROUGE-Lsum.
"""

import importlib.metadata
import json
from pathlib import Path

from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.tokenizers.tokenizer_13a import Tokenizer13a

# Sentences of a prediction and of its reference.
PAIRS = [
    (["The dogs were running in the park."], ["A dog runs through the park."]),
    (
        ["Dr. Lee will send the report by 3.30 p.m.", "She asks Tom to book a room for the U.S. team."],
        ["Tom books a room for the team.", "Dr. Lee sends the report this afternoon.", "Nobody objects!"],
    ),
    (["The bridge reopens on Monday."], ["The bridge reopens on Monday."]),
    (["Profits rose."], ["Shares fell 3.5% after the company's results, e.g. weaker sales in May."]),
    (["the the the the the the the"], ["the cat is on the mat"]),
    (["Anna: \"I'm moving house on Saturday; can't you help?\"", "Ben will."], ["Ben helps Anna to move on Saturday."]),
    (["Café owners in São Paulo can't agree."], ["Cafe owners in Sao Paulo cannot agree."]),
    (["No word of this is there."], ["Another sentence altogether"]),
    (["一个中文标题"], ["一个中文标题"]),
    (["It rained.", "It rained again.", "Then the match was called off."], ["The match was called off; it rained."]),
]


def main() -> None:
    """Score the pairs and write the file."""
    types = {"rouge-1": "rouge1", "rouge-2": "rouge2", "rouge-l": "rougeL", "rouge-lsum": "rougeLsum"}
    scorer = RougeScorer(list(types.values()), use_stemmer=True)
    tokenize, smoothing = Tokenizer13a(), SmoothingFunction().method1
    rows = []
    for prediction, reference in PAIRS:
        found = scorer.score("\n".join(reference), "\n".join(prediction))
        scores = {name: float(found[kind].fmeasure) for name, kind in types.items()}
        words, reference_words = (tokenize(" ".join(text).lower()).split() for text in (prediction, reference))
        scores["bleu"] = float(sentence_bleu([reference_words], words, smoothing_function=smoothing))
        rows.append({"prediction": " ".join(prediction), "reference": " ".join(reference), "scores": scores})
    corpus = BLEU(tokenize="13a").corpus_score(
        [row["prediction"] for row in rows], [[row["reference"] for row in rows]]
    )
    versions = {name: importlib.metadata.version(name) for name in ("rouge-score", "nltk", "sacrebleu")}
    result = {"versions": versions, "corpus BLEU": corpus.score, "rows": rows}
    path = Path(__file__).with_name("english_scores.json")
    path.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
