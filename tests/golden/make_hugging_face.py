"""Make small folders of T5, Flan-T5, mT5 and PEGASUS as transformers writes them, and what transformers computes there.

Run where torch, transformers and sentencepiece are installed (made with torch 2.13.0, transformers 5.23.0,
sentencepiece 0.2.3): `python tests/golden/make_hugging_face.py [NAME ...]`. The tests that read the folders need none
of them. In each folder `golden.npz` has ids, logits, sequences of `generate` and gradients.

The networks learn for some seconds to write the titles of data/train.tsv, so that they end titles by themselves and
their logits are no noise; then their weights are rounded to half precision, as the files hold them.
"""

import csv
import io
import json
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import sentencepiece
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BertTokenizer,
    GenerationConfig,
    MT5Config,
    MT5ForConditionalGeneration,
    PegasusConfig,
    PegasusForConditionalGeneration,
    T5Config,
    T5ForConditionalGeneration,
)

FOLDER = Path(__file__).resolve().parent / "hugging_face"
DATA = FOLDER.parent.parent.parent / "data"

ENGLISH = """Anna and Ben talk about the weekend. They will meet at the station on Saturday morning at nine.
The company says that its new battery lasts twice as long as the old one and costs less to make.
Summarize the following conversation. Summary: She cannot come because her daughter is ill.
Researchers found that people who walk for half an hour each day sleep better than those who do not.
Hi, did you see the message of the landlord? No, what does he want? He will repair the heating tomorrow."""

SIZES = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_heads": 4, "vocab_size": 832}
PEGASUS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 96,
    "vocab_size": 832,
    "scale_embedding": True,
}


def t5(**changes):
    return T5ForConditionalGeneration, T5Config(**{**SIZES, "num_layers": 2, **changes})


def untied(kind, config):
    config.tie_word_embeddings = False  # transformers 5 ties whatever it is told when a config is made
    return kind, config


def mt5(**changes):
    return untied(MT5ForConditionalGeneration, MT5Config(**{**SIZES, **changes}))


# Beyond sizes, the families differ in gates, activations, head, layers of the decoder, buckets, positions.
FAMILIES = {
    "t5": lambda: t5(feed_forward_proj="relu"),
    "flan_t5": lambda: untied(*t5(feed_forward_proj="gated-gelu", num_decoder_layers=3, tie_word_embeddings=False)),
    "mt5": lambda: mt5(num_layers=3, num_decoder_layers=1),
    "t5_variant": lambda: t5(
        feed_forward_proj="gelu",
        num_layers=1,
        num_decoder_layers=2,
        relative_attention_num_buckets=16,
        relative_attention_max_distance=40,
        layer_norm_epsilon=1e-5,
    ),
    "t5_silu": lambda: t5(feed_forward_proj="gated-silu", num_layers=1),
    "pegasus": lambda: (
        PegasusForConditionalGeneration,
        PegasusConfig(**{**PEGASUS, "scale_embedding": False, "activation_function": "gelu"}),
    ),
    "uer_pegasus": lambda: (
        PegasusForConditionalGeneration,
        PegasusConfig(
            **{**PEGASUS, "decoder_layers": 3},
            activation_function="relu",
            decoder_start_token_id=101,
            forced_eos_token_id=102,
            tokenizer_class="BertTokenizer",
        ),
    ),
}
WORDPIECE = ("uer_pegasus",)
WITH_GRADIENTS = ("flan_t5", "uer_pegasus")


def texts() -> list[tuple[str, str]]:
    """Return (content, title) pairs."""
    with open(DATA / "train.tsv", encoding="utf-8") as file:
        return [(content, title) for title, content in csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def train_pieces(path: Path) -> None:
    """Write a spiece.model: T5's special pieces, its normalisation, pieces of Chinese and English."""
    model = io.BytesIO()
    known = {character for character, _ in Counter("".join(map("".join, texts()))).most_common(500)}
    sentences = ["".join(each for each in text if each in known) for pair in texts() for text in pair]
    sentences += ENGLISH.splitlines() * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(sentences),
        model_writer=model,
        vocab_size=720,
        character_coverage=1.0,
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    path.write_bytes(model.getvalue())


def write_vocabulary(path: Path) -> None:
    """Write a vocab.txt in the order of Chinese BERT's: 99 unused tokens after [PAD], special ones from 100 on."""
    characters = Counter("".join(map("".join, texts())).lower())
    common = sorted((each for each in characters if not each.isspace()), key=lambda each: (-characters[each], each))
    tokens = ["[PAD]", *(f"[unused{n}]" for n in range(1, 100)), "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    endings = [f"##{ending}" for ending in ("a", "b", "c", "d", "e", "er", "ing", "n", "o", "r", "s", "t")]
    tokens += [*common[:600], *endings, "the", "com", "ip"]
    path.write_text("".join(f"{token}\n" for token in dict.fromkeys(tokens)), encoding="utf-8")


def interleaved(positions: int, width: int) -> torch.Tensor:
    """Return UER's table, sine and cosine by turns, for Hugging Face's in which the cosines are the second half."""
    angles = np.arange(positions)[:, None] / 10000 ** (np.arange(0, width, 2) / width)
    table = np.empty((positions, width))
    table[:, 0::2], table[:, 1::2] = np.sin(angles), np.cos(angles)
    return torch.tensor(table, dtype=torch.float32)


def batch(tokenizer, pairs, start_id, end_id):
    """Return source ids and target ids, from the start to the end token, padded with 0."""
    sources = [tokenizer(content)["input_ids"] for content, _ in pairs]
    sources = [[*ids[:40], ids[-1]] for ids in sources]
    targets = [tokenizer(title, add_special_tokens=False)["input_ids"] for _, title in pairs]
    targets = [[start_id, *ids[:14], end_id] for ids in targets]
    return tuple(
        torch.nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True)
        for rows in (sources, targets)
    )


def loss_of(model, sources, targets):
    logits = model(input_ids=sources, attention_mask=(sources != 0).long(), decoder_input_ids=targets[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten(), ignore_index=0)


def make(name: str) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    target = FOLDER / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    if name in WORDPIECE:
        write_vocabulary(target / "vocab.txt")
        tokenizer = BertTokenizer(str(target / "vocab.txt"))
        start_id, end_id = tokenizer.cls_token_id, tokenizer.sep_token_id
    else:
        if not (FOLDER / "spiece.model").exists():
            train_pieces(FOLDER / "spiece.model")
        shutil.copyfile(FOLDER / "spiece.model", target / "spiece.model")
        (target / "tokenizer_config.json").write_text('{"tokenizer_class": "T5Tokenizer", "extra_ids": 100}\n')
        tokenizer = AutoTokenizer.from_pretrained(target)
        start_id, end_id = tokenizer.pad_token_id, tokenizer.eos_token_id
    kind, config = FAMILIES[name]()
    config.dropout_rate = config.dropout = 0.0
    model = kind(config)
    if not config.tie_word_embeddings:
        model.set_input_embeddings(model.shared)  # untied, both stacks have come to have tables of their own
    if name == "uer_pegasus":
        for stack in (model.model.encoder, model.model.decoder):
            stack.embed_positions.weight.data = interleaved(96, 32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter_name, parameter in model.named_parameters():
            if "norm" in parameter_name and parameter_name.endswith("weight"):
                parameter.uniform_(0.5, 1.5, generator=generator)
            elif parameter_name.endswith("bias") or "relative_attention_bias" in parameter_name:
                parameter.normal_(std=0.3, generator=generator)
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.normal_(std=0.5, generator=generator)

    pairs = texts()
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=3e-3)
    for step in range(200):
        sources, targets = batch(tokenizer, pairs[step * 8 % 160 :][:8], start_id, end_id)
        optimizer.zero_grad()
        loss = loss_of(model, sources, targets)
        loss.backward()
        optimizer.step()
    with tempfile.TemporaryDirectory() as folder:
        model.generation_config = GenerationConfig.from_model_config(model.config)
        model.half().save_pretrained(folder)
        for file in ("config.json", "generation_config.json", "model.safetensors"):
            shutil.copyfile(Path(folder, file), target / file)
    values = json.loads((target / "config.json").read_text())
    if name == "flan_t5":
        # As the folders of 2022 have it; transformers 5 writes true, and leaves untied what differs.
        values["tie_word_embeddings"] = False
        values.pop("scale_decoder_outputs", None)
    elif name == "mt5":
        values["tie_word_embeddings"] = True
    (target / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    if name == "uer_pegasus":  # the folder of 2022 has none
        (target / "generation_config.json").unlink()

    model = AutoModelForSeq2SeqLM.from_pretrained(target, dtype=torch.float32).eval()
    sources, targets = batch(tokenizer, pairs[160:164], start_id, end_id)
    sources[0, 21:], sources[2, 9:] = 0, 0
    golden = {"source_ids": sources.numpy().astype(np.int32), "target_ids": targets.numpy().astype(np.int32)}
    mask = (sources != 0).long()
    with torch.no_grad():
        logits = model(input_ids=sources, attention_mask=mask, decoder_input_ids=targets).logits.numpy()
        golden["logits"] = logits[:2]  # they take most of the file
        for label, options in GENERATIONS.items():
            found = model.generate(
                input_ids=sources,
                attention_mask=mask,
                decoder_start_token_id=start_id,
                eos_token_id=end_id,
                pad_token_id=0,
                # What is no token, and the unknown one, which rare characters make the likeliest.
                suppress_tokens=[tokenizer.unk_token_id, *range(len(tokenizer), config.vocab_size)],
                use_cache=False,  # for which transformers 5.23 counts the layers of the encoder
                **{"forced_eos_token_id": None, **options},
            )
            golden[label] = found.numpy().astype(np.int32)
    if name in WITH_GRADIENTS:
        model.requires_grad_(True)
        loss = loss_of(model.train(), sources, targets)
        loss.backward()
        golden["loss"] = np.float32(loss.item())
        for parameter_name, parameter in model.named_parameters():
            if parameter.grad is not None and "embed_positions" not in parameter_name:
                golden[f"gradient/{parameter_name}"] = parameter.grad.numpy()
    (target / "spiece.model").unlink(missing_ok=True)  # 250 KB, the same in all folders
    np.savez_compressed(target / "golden.npz", **golden)
    size = sum(path.stat().st_size for path in target.iterdir())
    print(f"{name}: loss {loss.item():.2f}, {size >> 10} KB, {golden['greedy'].tolist()}", golden["logits"].std())


GENERATIONS = {
    "greedy": {"max_new_tokens": 16, "num_beams": 1},
    "greedy_min": {"max_new_tokens": 12, "num_beams": 1, "min_new_tokens": 8},
    "beams": {"max_new_tokens": 16, "num_beams": 4},
    "beams_early": {"max_new_tokens": 16, "num_beams": 4, "early_stopping": True, "length_penalty": 0.6},
    "beams_ngram": {"max_new_tokens": 12, "num_beams": 4, "no_repeat_ngram_size": 2, "length_penalty": 2.0},
    "beams_penalty": {"max_new_tokens": 10, "num_beams": 4, "repetition_penalty": 1.3, "min_new_tokens": 4},
    "beams_forced": {"max_new_tokens": 6, "num_beams": 3, "forced_eos_token_id": 3, "forced_bos_token_id": 4},
}

if __name__ == "__main__":
    for chosen in sys.argv[1:] or FAMILIES:
        make(chosen)
