"""Make tokenizers.json.gz: the ids that transformers gives to texts of every kind, 2,000 made by hypothesis among them.

Run after make_hugging_face.py, where transformers, sentencepiece, protobuf and hypothesis are installed (made with
transformers 5.23.0, tokenizers 0.23.3): `python tests/golden/make_tokenizers.py`. Also writes bert_tokenizer.json, as
transformers 5 saves BERT's tokenizer.
"""

import gzip
import json
import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, BertTokenizer

FOLDER = Path(__file__).resolve().parent
PIECES, VOCABULARY = FOLDER / "hugging_face" / "spiece.model", FOLDER / "hugging_face" / "uer_pegasus" / "vocab.txt"

TEXTS = [
    "",
    " ",
    "今天天气很好，我们去公园。",
    "Summarize the following conversation.\n\nAnna: Hi!\nBen: See you at nine.\n\nSummary: ",
    "我们使用iPhone 15 Pro拍照，Wi-Fi很快。",
    "内容丰富……[MASK]纸箱内……",
    "a <extra_id_0> b<extra_id_99>c <extra_id_100> </s> <pad> <unk>",
    "[CLS] 中 [SEP] [PAD] [UNK] [mask] [unused1]",
    "😀👍🏽👨‍👩‍👧‍👦🇨🇳 emoji ☕️",
    "tab\there\nnew\r\nline\x0bvertical\x0cform\x85next\u2028line\u2029paragraph",
    "\u3000全角　空格\u00a0nbsp\u2003em\u200bzero\ufeffbom\u00adsoft",
    "\x00\x01\x1f\x7f\x80\x9f control \ufffd\ufffe",
    "ＦＵＬＬ　ｗｉｄｔｈ １２３ ﬁ ﬂ ① ㈱ ½ Ⅳ",
    "é e\u0301 ñ Å ö İ ı ß ẞ ς Σ",
    "한국어 カタカナ ひらがな ไทย العربية עברית हिन्दी",
    "𠀀𪚥 𝔘𝔫𝔦 𝟘𝟙",
    "a" * 120,
    "中" * 80,
    "▁under ▁score _ __ ▁▁",
    "  leading and trailing  ",
    "1,234.56% $5 #tag @user http://example.com/a?b=c&d=e",
    "don't can't it's “quotes” ‘single’ —dash– …",
    "</s></s>end",
    "x</s>y",
    "<extra_id_1><extra_id_2>",
]
KINDS = [
    st.text(max_size=20),
    st.text(st.characters(min_codepoint=0x4E00, max_codepoint=0x9FFF), max_size=12),
    st.text(st.sampled_from("今天气很好的是在我们公园 ，。abcetn the"), max_size=30),
    st.text(st.characters(max_codepoint=0x2FF), max_size=20),
    st.text(st.characters(categories=["Zs", "Zl", "Zp", "Cc", "Cf", "Mn", "So"]), max_size=8),
    st.lists(
        st.sampled_from(
            [
                "<extra_id_0>",
                "</s>",
                "[MASK]",
                "[SEP]",
                " ",
                "的",
                "the",
                "\n",
                "\t",
                "。",
                "Anna",
                "😀",
                "é",
                "１",
                "##a",
            ]
        ),
        max_size=8,
    ).map("".join),
]


def hypothesis_texts(count: int) -> list[str]:
    """Return so many different texts."""
    found: dict[str, None] = {}

    @settings(max_examples=3 * count, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(st.one_of(KINDS))
    def collect(text: str) -> None:
        if (len(found) < count and max(text, default="") < "\ud800") or min(text, default="") > "\udfff":
            found[text] = None

    collect()
    return list(found)[:count]


def load(kind: str, folder: Path):
    """Return the tokenizer that transformers makes of a folder's files."""
    if kind == "bert":
        shutil.copyfile(VOCABULARY, folder / "vocab.txt")
        return BertTokenizer(str(folder / "vocab.txt"))
    shutil.copyfile(PIECES, folder / "spiece.model")
    values = {"tokenizer_class": "T5Tokenizer", "extra_ids": 100 if kind == "t5" else 0}
    (folder / "tokenizer_config.json").write_text(json.dumps(values))
    return AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Write the files."""
    texts = list(dict.fromkeys([*TEXTS, *hypothesis_texts(2000)]))
    golden = {"texts": texts}
    for kind in ("t5", "mt5", "bert"):
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = load(kind, Path(folder))
            golden[kind] = [tokenizer(text)["input_ids"] for text in texts]
            golden[f"{kind}_decoded"] = tokenizer.batch_decode(golden[kind], skip_special_tokens=True)
            if kind == "bert":
                tokenizer.save_pretrained(folder)
                shutil.copyfile(Path(folder, "tokenizer.json"), FOLDER / "bert_tokenizer.json")
    with gzip.GzipFile(FOLDER / "tokenizers.json.gz", "wb", mtime=0) as file:
        file.write(json.dumps(golden).encode())
    print(len(texts), "texts")


if __name__ == "__main__":
    main()
