"""Makes the embedded language model: `python -m hpo.mini.pretrain_classifier --out FOLDER`.

A tiny `LlamaForCausalLM`, trained to go on with drawn-up text (`hpo.mini.stories`) and with the
prose in Python's own docstrings and help (PSF License), so that it meets English that nobody drew
up. No text says what class a message is of. Saved with its tokenizer in half precision; it differs
a little from one version of Python to the next.
"""

import argparse
import ast
import pydoc_data.topics
import re
import sysconfig
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from hpo.mini.stories import note, story, typed, unlabelled

VOCABULARY = 4096
WIDTH = 128
LONGEST = 96  # tokens of a text; longer ones are cut
SHARES = {"story": 0.5, "message": 0.15, "note": 0.1, "prose": 0.25}
POOL = 40  # batches that are sorted by length together, so that little is padding


def prose() -> list[str]:
    """Paragraphs of English from Python's standard library, in an order that never changes."""
    texts = [text for _, text in sorted(pydoc_data.topics.topics.items())]
    for path in sorted(Path(sysconfig.get_paths()["stdlib"]).glob("**/*.py")):
        if not {"test", "tests", "site-packages", "idlelib"} & set(path.parts):
            texts += _docstrings(path)
    found = (re.sub(r"\s+", " ", p).strip() for text in texts for p in re.split(r"\n\s*\n", text))
    return [text for text in dict.fromkeys(found) if _is_prose(text)]


def _docstrings(path: Path) -> Iterator[str]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            yield ast.get_docstring(node) or ""


def _is_prose(text: str) -> bool:
    words = sum(c.isalpha() or c == " " for c in text)
    return len(text) > 40 and text[0].isupper() and words > 0.93 * len(text) and text[-1] in ".?!"


class Corpus:
    """Endless text: each kind with its share."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.prose = prose()

    def draw(self, kind: str) -> str:
        """A text of that kind."""
        match kind:
            case "story":
                return story(self.rng)
            case "message":
                return unlabelled(self.rng)
            case "note":
                return note(self.rng)
        return typed(self.rng, self.prose[int(self.rng.integers(len(self.prose)))])

    def texts(self, count: int) -> list[str]:
        """So many texts of all kinds."""
        kinds = self.rng.choice(list(SHARES), count, p=list(SHARES.values()))
        return [self.draw(str(kind)) for kind in kinds]


def build_tokenizer(corpus: Corpus) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer: `<s>` before every text, padding to the right."""
    texts = [*corpus.texts(10_000), *corpus.prose]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=VOCABULARY,
            special_tokens=["<pad>", "<s>", "</s>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        padding_side="right",
        model_max_length=512,
    )


def build_model(tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """The tiny Llama, freshly initialised; grouped queries and tied embeddings as in Llama 3.2."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    return LlamaForCausalLM(config)


def batch(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> dict[str, torch.Tensor]:
    """Token ids, mask and labels (B, T) of texts that end with `</s>`; -100 on padding."""
    ended = [f"{text}{tokenizer.eos_token}" for text in texts]
    encoded = tokenizer(
        ended, padding=True, truncation=True, max_length=LONGEST, return_tensors="pt"
    )
    ids, mask = encoded["input_ids"], encoded["attention_mask"]
    return {
        "input_ids": ids,
        "attention_mask": mask,
        "labels": ids.masked_fill(mask == 0, -100),
    }


def batches(
    tokenizer: PreTrainedTokenizerFast, corpus: Corpus, size: int
) -> Iterator[dict[str, torch.Tensor]]:
    """Endless batches of `size` texts of about the same length."""
    while True:
        texts = sorted(corpus.texts(size * POOL), key=len)
        for index in corpus.rng.permutation(POOL):
            yield batch(tokenizer, texts[index * size : (index + 1) * size])


def pretrain(out: Path, *, steps: int, size: int, rate: float, seed: int) -> None:
    """AdamW with one cycle over `steps` batches of `size` texts; writes to `out`."""
    torch.manual_seed(seed)
    corpus = Corpus(seed)
    tokenizer = build_tokenizer(corpus)
    model = build_model(tokenizer).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, rate, steps, pct_start=0.05)
    begin, recent = time.process_time(), []
    for step, inputs in zip(range(1, steps + 1), batches(tokenizer, corpus, size), strict=False):
        optimizer.zero_grad()
        loss = model(**inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        recent.append(loss.item())
        if step % 200 == 0 or step == steps:
            print(f"{step} {np.mean(recent):.4f} {time.process_time() - begin:.0f} s", flush=True)
            recent.clear()
    save(model, tokenizer, out)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, out: Path) -> None:
    """Writes weights (half precision), configuration and tokenizer."""
    model.half().save_pretrained(out)
    tokenizer.save_pretrained(out)


def main() -> None:
    """Parses the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=4_000)
    parser.add_argument("--size", type=int, default=32, help="texts in a batch")
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(1)
    pretrain(args.out, steps=args.steps, size=args.size, rate=args.rate, seed=args.seed)


if __name__ == "__main__":
    main()
