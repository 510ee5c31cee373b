"""How well generated texts match the wanted ones: BLEU, CIDEr and ROUGE-L, and exact match."""

import re
from collections.abc import Callable, Mapping, Sequence

from hpo.errors import MissingError

WORD = re.compile(r"\w+(?:[-'.,]\w+)*")
BLEU_ORDER = 4

CaptionScorer = Callable[[Mapping[str, list[str]], Mapping[str, str]], dict[str, float]]
"""(captions by image, the generated one by image) -> scores by name."""


def caption_scorer() -> CaptionScorer:
    """BLEU (Papineni et al. 2002), CIDEr (Vedantam et al. 2015) and ROUGE-L (Lin 2004).

    As pycocoevalcap computes them. CIDEr weighs words by how rare they are among the captions at
    hand, so it compares trials of one study only, not studies.

    Raises:
        MissingError: the library is not installed.
    """
    try:
        from pycocoevalcap.bleu.bleu import Bleu
        from pycocoevalcap.cider.cider import Cider
        from pycocoevalcap.rouge.rouge import Rouge
    except ImportError as error:
        raise MissingError(
            "captions are scored by pycocoevalcap, which is not installed; run pip install "
            "pycocoevalcap"
        ) from error

    def score(wanted: Mapping[str, list[str]], generated: Mapping[str, str]) -> dict[str, float]:
        references = {name: [words(text) for text in wanted[name]] for name in wanted}
        candidates = {name: [words(generated[name])] for name in wanted}
        bleu, _ = Bleu(BLEU_ORDER).compute_score(references, candidates, verbose=0)
        found = {f"bleu_{order}": float(value) for order, value in enumerate(bleu, 1)}
        found["cider"] = float(Cider().compute_score(references, candidates)[0])
        found["rouge_l"] = float(Rouge().compute_score(references, candidates)[0])
        return found

    return score


def words(text: str) -> str:
    """Lower case, words and numbers apart by single spaces, without punctuation.

    As the Penn Treebank tokenizer of the COCO captions leaves them, contractions aside.
    """
    return " ".join(WORD.findall(text.lower()))


def exact_match(wanted: Sequence[str], generated: Sequence[str]) -> float:
    """Share of the texts that are the wanted ones but for case, spaces and a final full stop."""
    pairs = zip(wanted, generated, strict=True)
    return sum(plain(one) == plain(other) for one, other in pairs) / len(wanted)


def exact_matches(
    wanted: Sequence[str], generated: Sequence[str], stages: Sequence[int]
) -> dict[str, float]:
    """`exact_match` of all texts; where they are of several stages, also `exact_match_1` etc."""
    found = {"exact_match": exact_match(wanted, generated)}
    for stage in sorted(set(stages)) if len(set(stages)) > 1 else ():
        own = [index for index, of in enumerate(stages) if of == stage]
        found[f"exact_match_{stage + 1}"] = exact_match(
            [wanted[index] for index in own], [generated[index] for index in own]
        )
    return found


def plain(text: str) -> str:
    """Lower case, single spaces, no final full stop."""
    return " ".join(text.lower().split()).removesuffix(".").rstrip()
