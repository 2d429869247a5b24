"""Make centrality.json: PageRank by networkx, and TextRank and LexRank of Chinese texts by networkx and scikit-learn.

    pip install networkx scikit-learn scipy
    python tests/golden/make_centrality.py

scikit-learn's TfidfVectorizer (smooth idf, counts, l2) has the vectors of the continuous LexRank. sumy was tried:
its TextRank gives each sentence an edge to itself, and its LexRank stops when a step moves less than 0.1.
"""

import itertools
import json
import math
import random
import sys
from pathlib import Path

import networkx
import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer

sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent))

from t5_pegasus.data.examples import read_examples
from t5_pegasus.locations import ROOT
from t5_pegasus.systems.extractive import sentences_of, words_of


def pagerank(weights):
    graph = networkx.Graph()
    graph.add_nodes_from(range(len(weights)))
    for one, other in itertools.combinations(range(len(weights)), 2):
        if weights[one][other]:
            graph.add_edge(one, other, weight=weights[one][other])
    ranks = networkx.pagerank(graph, alpha=0.85, tol=1e-14, max_iter=10_000)
    return [ranks[node] for node in range(len(weights))]


def textrank(words):
    weights = np.zeros((len(words), len(words)))
    for one, other in itertools.permutations(range(len(words)), 2):
        norm = math.log(len(words[one]) or 1) + math.log(len(words[other]) or 1)
        weights[one, other] = len(set(words[one]) & set(words[other])) / norm if norm else 0
    return pagerank(weights.tolist())


def lexrank(words):
    vectors = TfidfVectorizer(analyzer=lambda each: each).fit_transform(words)
    weights = (vectors @ vectors.T).toarray()
    np.fill_diagonal(weights, 0)
    return pagerank(weights.tolist())


def graph(choose, nodes, density):
    weights = [[0.0] * nodes for _ in range(nodes)]
    for one, other in itertools.combinations(range(nodes), 2):
        if choose.random() < density:
            weights[one][other] = weights[other][one] = round(choose.random(), 3)
    return weights


choose = random.Random(0)
graphs = [graph(choose, nodes, density) for nodes, density in ((1, 0), (2, 1), (4, 0.5), (7, 0.3), (9, 1))]
rows = []
for example in itertools.islice(read_examples(ROOT / "data" / "test.tsv"), 8):
    sentences = sentences_of(example.content)
    words = [words_of(each) for each in sentences]
    rows.append({"sentences": sentences, "words": words, "textrank": textrank(words), "lexrank": lexrank(words)})
golden = {"graphs": [{"weights": each, "pagerank": pagerank(each)} for each in graphs], "texts": rows}
(ROOT / "tests" / "golden" / "centrality.json").write_text(
    json.dumps(golden, ensure_ascii=False) + "\n", encoding="utf-8"
)
