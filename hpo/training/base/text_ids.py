"""Token ids of users' texts, in which the names of special tokens are text like any other.

A stock tokenizer reads "</s>" or "<image>" in a text as the control token of that name: a target
would end in its middle, a question would have two images. Its own `split_special_tokens` is not
enough: it does not reach chat templates, and Unigram and WordLevel models hold the names in their
vocabulary. Texts without such a name have exactly the ids of the stock tokenizer.
"""

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from tokenizers import Tokenizer

from hpo.errors import DataError

OPEN, CLOSE = "\ufdd0", "\ufdd1"  # noncharacters of Unicode: no text may hold them
BYTE = re.compile("<0x[0-9A-F]{2}>")
MARK = re.compile(f"{OPEN}[0-9]+{CLOSE}")
ALIAS = "qzspecialtokenqz"  # letters only: whatever a normalizer does, it stays as it is


@dataclass(kw_only=True)
class TokenCounts:
    """What a tokenizer made of the texts so far, without the tokens that frame a text."""

    tokens: int = 0
    unknown: int = 0
    """Tokens that stand for something which the vocabulary lacks."""
    texts: int = 0
    empty: int = 0
    """Texts with letters in them that gave no token at all."""
    largest: int = -1
    """The largest id, those of frames included."""

    @property
    def unknown_share(self) -> float:
        """Of the tokens; a text that gave none counts as one unknown token."""
        return (self.unknown + self.empty) / max(1, self.tokens + self.empty)


class TextTokenizer:
    """A stock tokenizer, fast or slow, for users' texts; counts what it makes of them."""

    def __init__(self, tokenizer: Any, special: Iterable[str] = ()) -> None:
        """`special`: names of control tokens that the tokenizer itself may not know as such."""
        self.stock = tokenizer
        """As transformers has it."""
        self._control = control_tokens(tokenizer, special)
        names = sorted(self._control, key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, names)) or "(?!)")
        self._aliases = {name: ALIAS + _letters(place) for place, name in enumerate(names)}
        self._fast = hasattr(tokenizer, "backend_tokenizer")
        self._unknown = tokenizer.unk_token_id
        self._ids = {*self._control.values()} - {self._unknown}
        self.counts = TokenCounts()

    def ids(
        self, text: str, *, add_special_tokens: bool = True, max_length: int | None = None
    ) -> list[int]:
        """Token ids of a text, framed as the tokenizer does it, cut to `max_length`.

        Raises:
            DataError: the tokenizer can read a name in the text as its control token only.
        """
        options: dict[str, Any] = {"add_special_tokens": add_special_tokens}
        if max_length is not None:
            options |= {"truncation": True, "max_length": max_length}
        ids, own = self._encoded(text, options)
        if self._pattern.search(text) or not self._ids.isdisjoint(own):
            ids, own = self._as_text(text, options)
            self._refuse_control(text, own)
        self._count(text, ids, own)
        return ids

    def masked(self, text: str) -> str:
        """The text for a chat template: the names of special tokens give way to marks."""
        names = list(self._aliases)
        return self._pattern.sub(lambda found: f"{OPEN}{names.index(found[0])}{CLOSE}", text)

    def rendered_ids(self, rendered: str) -> list[int]:
        """Token ids of what a chat template wrote around masked texts.

        Raises:
            DataError: a text has the name of a special token, and the tokenizer is a slow one.
        """
        options: dict[str, Any] = {"add_special_tokens": False}
        if OPEN not in rendered:
            ids, own = self._encoded(rendered, options)
        else:
            named = self._pattern.sub(lambda found: self._aliases[found[0]], rendered)
            names = list(self._aliases)
            marks = {f"{OPEN}{place}{CLOSE}": name for place, name in enumerate(names)}
            plain = MARK.sub(lambda found: marks.get(found[0], found[0]), named)
            self._refuse_slow(plain)
            ids = own = self._plain.encode(plain, add_special_tokens=False).ids
        self._count(rendered, ids, own)
        return ids

    def _encoded(self, text: str, options: dict[str, Any]) -> tuple[list[int], list[int]]:
        """(ids, those of them that are of the text) by the stock tokenizer."""
        if not self._fast:
            bare = self.stock(text, **options | {"add_special_tokens": False})
            return list(self.stock(text, **options).input_ids), list(bare.input_ids)
        found = self.stock(text, return_special_tokens_mask=True, **options)
        pairs = zip(found.input_ids, found.special_tokens_mask, strict=True)
        return list(found.input_ids), [token for token, frames in pairs if not frames]

    def _as_text(self, text: str, options: dict[str, Any]) -> tuple[list[int], list[int]]:
        """The same, whatever the text says."""
        if not self._fast:
            return self._encoded(text, options | {"split_special_tokens": True})
        if "max_length" in options:
            side = self.stock.truncation_side
            self._plain.enable_truncation(options["max_length"], direction=side)
        found = self._plain.encode(text, add_special_tokens=options["add_special_tokens"])
        self._plain.no_truncation()
        pairs = zip(found.ids, found.special_tokens_mask, strict=True)
        return list(found.ids), [token for token, frames in pairs if not frames]

    def _refuse_control(self, text: str, own: Sequence[int]) -> None:
        for name, token in self._control.items():
            if token in own and token in self._ids:
                raise DataError(
                    f"{text[:60]!r}: {name} in it is a control token of "
                    f"{type(self.stock).__name__}, which cannot read it as text; "
                    "take it out of the data"
                )

    def _refuse_slow(self, text: str) -> None:
        if not self._fast:
            raise DataError(
                f"{text[:60]!r}: it has the name of a special token in it, and "
                f"{type(self.stock).__name__} is a slow tokenizer, which cannot read that as text "
                "in a chat; take it out of the data"
            )

    def _count(self, text: str, ids: Sequence[int], own: Sequence[int]) -> None:
        counts = self.counts
        counts.texts += 1
        counts.tokens += len(own)
        counts.empty += not own and any(map(str.isalnum, text))
        counts.largest = max(counts.largest, *ids, -1)
        if self._unknown is not None:
            counts.unknown += sum(token == self._unknown for token in own)

    @cached_property
    def _plain(self) -> Tokenizer:
        """The stock tokenizer's backend with other names for its special tokens."""
        found = json.loads(self.stock.backend_tokenizer.to_str())
        renamed(found, self._aliases)
        plain = Tokenizer.from_str(json.dumps(found))
        plain.no_truncation()
        plain.no_padding()
        return plain


def control_tokens(tokenizer: Any, special: Iterable[str] = ()) -> dict[str, int]:
    """Names and ids of the tokens that steer a model and are never meant by a text.

    Those that are special to the tokenizer, those that its chat template writes, and `special`.
    Single characters are text even where a tokenizer pads with "!", and so are the bytes of
    SentencePiece, "<0x0A>", which stand for what the vocabulary lacks.
    """
    added = tokenizer.added_tokens_decoder.values()
    names = {*special, *tokenizer.all_special_tokens}
    names |= {token.content for token in added if token.special}
    template = getattr(tokenizer, "chat_template", None)
    if isinstance(template, str):
        names |= {token.content for token in added if token.content in template}
    vocabulary = tokenizer.get_vocab()
    long = (name for name in sorted(names) if len(name.strip()) > 1 and not BYTE.fullmatch(name))
    return {name: vocabulary[name] for name in long if name in vocabulary}


def renamed(found: dict[str, Any], aliases: dict[str, str]) -> None:
    """Gives tokens of a tokenizer.json other names, in place; ids and all else stay."""
    model = found["model"]
    if isinstance(model["vocab"], list):  # Unigram: [[piece, score], ...]
        model["vocab"] = [[aliases.get(name, name), score] for name, score in model["vocab"]]
    else:
        model["vocab"] = {aliases.get(name, name): token for name, token in model["vocab"].items()}
    if "unk_token" in model:
        model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _makes(merge, aliases)]
    for token in found["added_tokens"]:
        token["content"] = aliases.get(token["content"], token["content"])


def _makes(merge: Any, aliases: dict[str, str]) -> bool:
    """Whether a merge of BPE makes, or takes, one of the tokens."""
    parts = merge.split(" ") if isinstance(merge, str) else merge
    return "".join(parts) in aliases or any(part in aliases for part in parts)


def _letters(number: int) -> str:
    """A number in letters, framed so that no alias begins another."""
    return "".join(chr(ord("a") + int(digit)) for digit in str(number)) + "zq"
