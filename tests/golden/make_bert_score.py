"""Make bert_score.npz: a small random BERT, texts, and what bert-score 0.3.13 gives for them.

    pip install bert-score==0.3.13 torch transformers
    python tests/golden/make_bert_score.py

The weights are under the names of Google's checkpoints, which bert4keras reads.
"""

import collections
import re
import tempfile
from pathlib import Path

import numpy as np
import torch
from bert_score.utils import bert_cos_score_idf
from transformers import BertConfig, BertModel, BertTokenizer

GOLDEN = Path(__file__).resolve().parent
LAYERS, LAYER = 3, 2
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"基于图网络的单车需求预测方法研究，。ab1", "##b", "##1", "ab"]
PAIRS = [
    ("基于图网络的预测方法", "单车需求预测方法研究"),
    ("单车", "单车"),
    ("ab1图网络，未知字", "基于abab1的图网络。"),
    ("预测" * 9, "需求"),
    ("，", "单车"),
]


def google_name(name):
    """Return the name in Google's checkpoints of a weight of Hugging Face's."""
    name = re.sub(r"encoder\.layer\.(\d+)", r"encoder/layer_\1", name).replace(".", "/")
    name = name.replace("LayerNorm/weight", "LayerNorm/gamma").replace("LayerNorm/bias", "LayerNorm/beta")
    name = re.sub(r"(embeddings)/weight$", r"\1", name)
    return f"bert/{re.sub('/weight$', '/kernel', name)}"


torch.manual_seed(0)
config = BertConfig(
    vocab_size=len(TOKENS),
    hidden_size=32,
    num_hidden_layers=LAYERS,
    num_attention_heads=4,
    intermediate_size=48,
    max_position_embeddings=64,
    initializer_range=0.3,
)
model = BertModel(config, add_pooling_layer=False).eval()
weights = {}
for name, value in model.state_dict().items():
    if "position_ids" in name:
        continue
    array = value.numpy()
    is_kernel = name.endswith("weight") and array.ndim == 2 and "embeddings" not in name
    weights[google_name(name)] = array.T if is_kernel else array
model.encoder.layer = torch.nn.ModuleList(list(model.encoder.layer[:LAYER]))
with tempfile.TemporaryDirectory() as folder:
    vocabulary = Path(folder) / "vocab.txt"
    vocabulary.write_text("\n".join(TOKENS), encoding="utf-8")
    tokenizer = BertTokenizer(str(vocabulary), do_lower_case=True)
    tokenizer.model_max_length = 64
    idf = collections.defaultdict(lambda: 1.0)
    idf[tokenizer.sep_token_id] = idf[tokenizer.cls_token_id] = 0
    hypotheses, references = ([pair[side] for pair in PAIRS] for side in (0, 1))
    scores = bert_cos_score_idf(model, references, hypotheses, tokenizer, idf, batch_size=8, device="cpu")
np.savez_compressed(
    GOLDEN / "bert_score.npz",
    tokens=np.array(TOKENS),
    pairs=np.array(PAIRS),
    scores=scores.numpy(),
    layer=LAYER,
    config=np.array([len(TOKENS), 32, LAYERS, 4, 48, 64]),
    **{f"weight:{name}": value for name, value in weights.items()},
)
print(scores)
