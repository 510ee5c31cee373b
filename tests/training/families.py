"""Tiny models of many families with random weights, as folders that `save_pretrained` wrote."""

import csv

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    AlbertConfig,
    AutoModel,
    AutoModelForSequenceClassification,
    BertConfig,
    BloomConfig,
    DebertaV2Config,
    DistilBertConfig,
    ElectraConfig,
    FalconConfig,
    Gemma2Config,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    ModernBertConfig,
    MPNetConfig,
    OPTConfig,
    Phi3Config,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
    RobertaConfig,
    XLMRobertaConfig,
)

WORDS = {
    "win": ("prize", "winner", "cash", "claim", "free"),
    "home": ("dinner", "mother", "garden", "cat", "sofa"),
    "work": ("meeting", "report", "boss", "office", "deadline"),
}
FILLERS = ("please", "now", "today", "the", "and", "we", "you", "see", "soon", "again")
SPECIAL = ("<pad>", "<unk>", "<s>", "</s>")
VOCABULARY = (*SPECIAL, *FILLERS, *(word for words in WORDS.values() for word in words))
BYTE_LEVEL = 400  # ids of a byte-level vocabulary at most
BLOCKS = 2
SIZES = {
    "vocab_size": len(VOCABULARY),
    "hidden_size": 32,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
}
GROUPED = {**SIZES, "num_key_value_heads": 1}
GPT = {"vocab_size": len(VOCABULARY), "n_embd": 32, "n_head": 2, "n_layer": BLOCKS}
IDS = {"pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}
DEBERTA = {
    "relative_attention": True,
    "position_biased_input": False,
    "pos_att_type": ["p2c", "c2p"],
    "max_relative_positions": 16,
}


def configs():
    """The configurations by family, anew."""
    few = {"vocab_size": len(VOCABULARY), "num_attention_heads": 2, "num_hidden_layers": BLOCKS}
    return {
        "bert": BertConfig(**SIZES, **IDS),
        "distilbert": DistilBertConfig(
            vocab_size=len(VOCABULARY), dim=32, n_heads=2, hidden_dim=48, n_layers=BLOCKS, **IDS
        ),
        "roberta": RobertaConfig(**SIZES, **IDS),
        "xlm-roberta": XLMRobertaConfig(**SIZES, **IDS),
        "deberta-v2": DebertaV2Config(**SIZES, **DEBERTA, share_att_key=False, **IDS),
        "electra": ElectraConfig(**SIZES, embedding_size=16, **IDS),
        "albert": AlbertConfig(**SIZES, embedding_size=16, **IDS),
        "mpnet": MPNetConfig(**SIZES, **IDS),
        "modernbert": ModernBertConfig(
            **SIZES, global_attn_every_n_layers=2, local_attention=8, **IDS
        ),
        "gpt2": GPT2Config(**GPT, **IDS),
        "gpt-neox": GPTNeoXConfig(**SIZES, **IDS),
        "bloom": BloomConfig(
            vocab_size=len(VOCABULARY), hidden_size=32, n_head=2, n_layer=BLOCKS, **IDS
        ),
        "falcon": FalconConfig(**few, hidden_size=32, **IDS),
        "opt": OPTConfig(**few, hidden_size=32, ffn_dim=48, word_embed_proj_dim=16, **IDS),
        "llama": LlamaConfig(**GROUPED, **IDS),
        "mistral": MistralConfig(**GROUPED, sliding_window=8, **IDS),
        "qwen2": Qwen2Config(**{**GROUPED, "vocab_size": BYTE_LEVEL}, **IDS),
        "qwen3": Qwen3Config(**GROUPED, head_dim=16, **IDS),
        "gemma2": Gemma2Config(**GROUPED, head_dim=16, sliding_window=8, **IDS),
        "phi3": Phi3Config(**GROUPED, **IDS),
    }


FAMILIES = tuple(configs())


def write_tokenizer(folder, *, pad=True, in_bytes=False):
    """Words apart by blanks, ids by their places in the vocabulary.

    Args:
        in_bytes: a byte-level BPE instead, which alone is read for a Qwen2.
    """
    ids = {word: place for place, word in enumerate(VOCABULARY)}
    words = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    if in_bytes:
        words = Tokenizer(models.BPE())
        words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        words.train_from_iterator(
            [" ".join(VOCABULARY[len(SPECIAL) :])],
            trainers.BpeTrainer(
                vocab_size=BYTE_LEVEL,
                special_tokens=list(SPECIAL),
                initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
                show_progress=False,
            ),
        )
    PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="<pad>" if pad else None,
    ).save_pretrained(folder)


def write_model(folder, config, *, labels=None, pad=True):
    """A model of random weights with its tokenizer; without a head, as backbones are published.

    Args:
        labels: `id2label` of a checkpoint with a head.
    """
    torch.manual_seed(0)
    for name in ("initializer_range", "init_std"):  # wide, so that words differ
        if hasattr(config, name):
            setattr(config, name, 0.2)
    if labels is not None:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
    kind = AutoModelForSequenceClassification if labels else AutoModel
    model = kind.from_config(config)
    model.save_pretrained(folder)
    write_tokenizer(folder, pad=pad, in_bytes=config.model_type == "qwen2")
    return model


def write_table(path, labels=None, rows=120):
    """Texts of which every other word says the label; `labels` by the names of `WORDS`."""
    drawn = torch.Generator().manual_seed(0)
    labels = labels or {name: name for name in WORDS}

    def pick(words):
        return words[int(torch.randint(len(words), (1,), generator=drawn))]

    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(("text", "label"))
        for number in range(rows):
            name = list(labels)[number % len(labels)]
            kinds = [FILLERS if place % 2 else WORDS[name] for place in range(4 + number % 9)]
            writer.writerow((" ".join(map(pick, kinds)), labels[name]))
    return path
