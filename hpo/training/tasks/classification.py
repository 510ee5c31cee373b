"""Sequence classification: any `AutoModelForSequenceClassification` whose head ends in a Linear.

Every trial trains a head of its own next to its adapter, from the same first weights on: the last
Linear, and whatever else of the head or pooler the checkpoint lacks.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoTokenizer

from hpo.data import Example
from hpo.data.labels import labels
from hpo.errors import DataError, MissingError
from hpo.specs import TrialConfig
from hpo.training.base.batch import send
from hpo.training.base.blocks import Known, adaptable, blocks_before, put, stand_in
from hpo.training.base.classifier import ClassifierLoader, Head
from hpo.training.base.conv1d import replace_conv1d
from hpo.training.base.features import SLOT, Features, Prefix
from hpo.training.base.fit import check_vocabulary, positions_of
from hpo.training.base.losses import Losses, row_sums
from hpo.training.base.pretrained import identity_of, load_pretrained
from hpo.training.base.scores import f_beta, scores
from hpo.training.base.targets import complete
from hpo.training.base.text_ids import TextTokenizer
from hpo.training.tasks import Row, Scorer, Source, require, targets_of

ATTENTION = (
    r"^(?:.*\.)?(?:(?:self_attn|attention|attn)\.(?:[qkvo]_proj|out_proj)"
    r"|attention\.(?:self\.(?:query|key|value)|output\.dense|[qkv]_lin|out_lin))$"
)
MLP = r"^(?:.*\.)?(?:mlp\.(?:gate|up|down)_proj|(?:intermediate|output)\.dense)$"
EXACT, ROUGH = 1e-4, 0.05  # difference of a loss in float32, and in half precision
TARGETS = {"attention": ATTENTION, "attention+mlp": f"(?:{ATTENTION})|(?:{MLP})"}


@dataclass(frozen=True, kw_only=True)
class TextRow:
    """A text as token ids, and the number of its label."""

    example: Example
    ids: list[int]
    label: int
    targets: int = 1
    stage: int = 0

    @property
    def length(self) -> int:
        """Tokens."""
        return len(self.ids)


class Classification:
    """A frozen backbone, its head and its tokenizer."""

    target_scope = ""
    metrics = ("accuracy", "macro_f1", "f_beta")
    generates = False

    def __init__(self, model: Any, tokenizer: Any, head: Head, source: Source) -> None:
        self.model: nn.Module = model.eval().requires_grad_(False)
        self.target_pattern = _targets(model, source.model.adapt)
        self.heads, self.label_names = head.modules, head.labels
        self.longest = 0
        names = list(adaptable(model, self.target_pattern, source.last_n, heads=self.heads))
        fast = hasattr(tokenizer, "backend_tokenizer")  # others cannot be told apart
        self.prefix = blocks_before(names) if fast else ()
        self._features: Features | None = None
        self._known = Known()
        self._stock, self._tokenizer = model, tokenizer
        self._positions, self._asked_length = positions_of(model), source.data.max_length
        self._max_length = min(self._asked_length, self._positions or self._asked_length)
        self._texts = TextTokenizer(tokenizer)
        self.labels = {name: number for number, name in enumerate(head.labels)}
        self._origin, self._name = head.origin, source.model.name
        self._tried: list[TextRow] = []
        """The shortest and the longest text that were encoded first."""
        counts = [0] * len(self.labels)
        for example in source.examples.train:
            counts[self.labels[example.target]] += 1
        self._counts = torch.tensor(counts, dtype=torch.float32)

    @property
    def held_bytes(self) -> int:
        """Nothing."""
        return 0

    def encode(self, examples: Sequence[Example]) -> list[Row]:
        """Token ids of the texts, cut at `data.max_length` tokens, or as many as it can read."""
        rows = [
            TextRow(example=example, ids=self._ids(example), label=self.labels[example.target])
            for example in examples
        ]
        self.longest = max(self.longest, *(row.length for row in rows))
        self._tried = self._tried or [f(rows, key=lambda row: row.length) for f in (min, max)]
        return list(rows)

    def _ids(self, example: Example) -> list[int]:
        ids = self._texts.ids(example.prompt, max_length=self._max_length)
        if not ids:
            raise DataError(
                f"{example.name}: its text {example.prompt[:60]!r} gives no token; take it out of "
                "the data"
            )
        return ids

    def collate(self, rows: Sequence[TextRow]) -> dict[str, Tensor]:
        """input_ids (B, T) padded on the right, attention_mask (B, T), labels (B,).

        And `states` (B, T, D), what the first blocks made of the texts, where that is known.
        """
        batch = dict(self._padded([row.ids for row in rows]))
        batch["labels"] = torch.tensor([row.label for row in rows])
        if self._features is not None:
            states = self._features.get([row.example for row in rows])
            batch["states"] = pad_sequence(states, batch_first=True)
        return send(batch, self._stock.device)

    def _padded(self, ids: Sequence[list[int]]) -> Any:
        return self._tokenizer.pad({"input_ids": list(ids)}, padding=True, return_tensors="pt")

    def expect(self, rows: Sequence[TextRow]) -> None:
        """Texts are read."""

    def frozen_prefix(self) -> Prefix:
        """The blocks before the first adapted one, and the ids that go into them."""
        backbone, known = self._stock.base_model, self._tokenizer.backend_tokenizer.to_str()

        def forward(ids: Sequence[list[int]]) -> Sequence[Tensor]:
            batch = self._padded(ids).to(self._stock.device)
            made = backbone(**batch, output_hidden_states=True, use_cache=False).hidden_states
            states_BTD = made[len(self.prefix)]
            return [row[: len(own)].clone() for row, own in zip(states_BTD, ids, strict=True)]

        identity = identity_of(
            backbone,
            self._stock.config,
            hashlib.sha256(known.encode()).hexdigest(),
            together=f"{SLOT} texts",
            blocks=str(len(self.prefix)),
            longest=str(self._max_length),
            special_tokens="read as text",
        )
        return Prefix(identity=identity, read=self._ids, forward=forward)

    def use(self, features: Features) -> Callable[[], None]:
        """From now on outputs of the first blocks come from here; their weights are let go of."""
        blocks = [self._stock.get_submodule(name) for name in self.prefix]
        self._features, self._known = features, stand_in(self._stock, self.prefix)

        def undo() -> None:
            self._features = None
            put(self._stock, dict(zip(self.prefix, blocks, strict=True)))

        return undo

    def losses(self, batch: dict[str, Tensor]) -> Losses:
        """Cross entropy of every row, not weighted, and the label that is answered."""
        with self._known.as_of(batch.get("states")):
            logits_BC = self._stock(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                use_cache=False,
            ).logits.float()
        return Losses(
            rows=functional.cross_entropy(logits_BC, batch["labels"], reduction="none"),
            places={"logits": row_sums(logits_BC)},
            predictions=logits_BC.detach().argmax(1),
        )

    def weights(self, rows: Sequence[TextRow], config: TrialConfig) -> Tensor | None:
        """By label: (mean count / its count) to the power of `class_weight`."""
        if config.class_weight == 0.0:
            return None
        inverse = self._counts.mean() / self._counts.clamp(min=1.0)
        return inverse.pow(config.class_weight)[[row.label for row in rows]]

    def measure(self, rows: Sequence[TextRow], predictions: Tensor) -> dict[str, float]:
        """Accuracy, mean F1 over labels, and F-beta: of the rarer one of two labels."""
        truth = torch.tensor([row.label for row in rows])
        found = scores(truth, predictions, len(self._counts))
        rare = int(self._counts.argmin()) if len(self._counts) == 2 else None
        return {
            "accuracy": found.accuracy,
            "macro_f1": f_beta(found, beta=1.0),
            "f_beta": f_beta(found, beta=3.0, label=rare),
        }

    def answers(self, rows: Sequence[TextRow]) -> list[str]:
        """Labels are not generated."""
        raise NotImplementedError

    def scorer(self) -> Scorer:
        """Every evaluation measures the labels that are answered."""
        raise NotImplementedError

    def verify(self) -> list[str]:
        """What could silently be wrong, each held; raises HpoError where it is not."""
        require(
            self._stock.config.pad_token_id == self._tokenizer.pad_token_id,
            f"the model pads with {self._stock.config.pad_token_id}, its tokenizer with "
            f"{self._tokenizer.pad_token_id}: the wrong token would be classified",
        )
        lines = check_vocabulary(
            self._texts,
            self._stock.get_input_embeddings(),
            what="the tokenizer",
            special={"padding": self._tokenizer.pad_token_id},
        )
        if self._positions is not None and self._max_length == self._positions < self._asked_length:
            lines.append(
                f"texts cut at {self._positions} tokens, for which the model has positions, and "
                f"not at data.max_length = {self._asked_length}"
            )
        least, most = int(self._counts.min()), int(self._counts.max())
        found = [
            *lines,
            f"head: {self._origin}",
            f"{len(self._counts)} labels with {least} to {most} training texts each",
        ]
        if self._tried and self._reads_padding():
            found.append("this model reads padding: losses depend on the other texts of a batch")
        return found

    @torch.no_grad()
    def _reads_padding(self) -> bool:
        """Whether the loss of a text depends on the padding after it."""
        try:
            alone = self.losses(self.collate(self._tried[:1])).rows
            padded = self.losses(self.collate(self._tried)).rows[:1]
        except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
            why = (str(error) or type(error).__name__).splitlines()[0]
            raise MissingError(
                f"model {self._name}: it cannot classify the shortest and the longest text of the "
                f"data ({why}); give another model by --model"
            ) from error
        exact = EXACT if self._stock.dtype == torch.float32 else ROUGH
        both = bool(alone.isfinite().all() and padded.isfinite().all())
        return both and not torch.allclose(alone, padded, rtol=exact, atol=exact)


def load(source: Source) -> Classification:
    """Loads backbone and tokenizer from this machine; the head is drawn from the study's seed.

    Raises:
        MissingError: weights or tokenizer are not there, the head does not end in a Linear, or
            `model.adapt` does not mean the same in every block.
        DataError: there are fewer than two labels, or hardly a text for each.
    """
    names, model = labels(source.examples), source.model
    texts = len(source.examples.train)
    if not 2 <= len(names) <= texts // 2:
        raise DataError(
            f"{source.examples.source}: {len(names)} labels for {texts} training texts; there must "
            "be two labels at least, with two texts each; give a table of texts and labels"
        )
    loader = ClassifierLoader(names)
    with _quiet():
        stock, tokenizer = load_pretrained(
            model,
            loader,
            AutoTokenizer,
            dtype=source.dtype,
            what="model for sequence classification",
        )
    assert loader.head is not None
    replace_conv1d(stock)
    _pad_with(stock, tokenizer, model.name)
    return Classification(stock.to(source.device), tokenizer, loader.head, source)


def _targets(model: nn.Module, adapt: str) -> str:
    """The regular expression that `model.adapt` stands for; of a name, verified for this model."""
    expression = targets_of(adapt, TARGETS)
    if adapt not in TARGETS:
        return expression
    return complete(model, expression, adapt.split("+"), adapt=adapt)


def _pad_with(stock: Any, tokenizer: Any, name: str) -> None:
    """Has model and tokenizer pad on the right with one token: with the end where there is none."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if tokenizer.pad_token_id is None:
        raise MissingError(
            f"model {name}: its tokenizer has neither a padding nor an end token; name a "
            "pad_token in its tokenizer_config.json"
        )
    tokenizer.padding_side = "right"
    for config in {id(c): c for c in (stock.config, stock.config.get_text_config())}.values():
        config.pad_token_id = tokenizer.pad_token_id


@contextmanager
def _quiet() -> Iterator[None]:
    """That a head is fresh is what is wanted: no warning of it."""
    before = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers.logging.set_verbosity(before)
