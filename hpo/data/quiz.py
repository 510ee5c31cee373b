"""Drawn questions about drawn aerial scenes: endless, without a file, the same on every machine.

Every scene is asked about once in each stage, so that none is easier on one side of the split.
`data.stages` may name the stages or kinds of questions of `hpo.mini.questions`.
"""

import hashlib
from functools import cache, partial
from pathlib import Path

import numpy as np

from hpo.data.examples import Example, Examples, split
from hpo.data.scenes import ALBUM, scene_digest
from hpo.data.stages import Labelled, check_sides, staged
from hpo.errors import DataError
from hpo.mini import questions
from hpo.mini.drawing import SIZE
from hpo.mini.questions import STAGES, Question, ask, shown
from hpo.mini.scenes import picture, scene_facts
from hpo.specs import DataSpec

DEFAULT_SAMPLES = 600
WHERE = "drawn questions"


def read(data: DataSpec) -> Examples:
    """`data.samples` questions in their stages; all about one scene stay on one side."""
    count = data.samples or DEFAULT_SAMPLES
    stages = data.stages or tuple(STAGES)
    rows = staged([_row(index) for index in range(count)], stages, where=WHERE)
    if len({row.group for row in rows}) < 2:
        raise DataError(
            f"{WHERE}: data.samples = {count} are questions about fewer than two scenes; a split "
            f"needs two, so give at least {2 * len(STAGES)}"
        )
    train, val = split(rows, data.val_share)
    check_sides(train, val, stages, where=WHERE)
    return Examples(
        train=train,
        val=val,
        total=count,
        digest=f"questions album {ALBUM} {_hand()}",
        source=WHERE,
        stages=stages if len(stages) > 1 else (),
    )


@cache
def _hand() -> str:
    """What asks: another hand asks other questions."""
    return hashlib.sha256(Path(questions.__file__).read_bytes()).hexdigest()[:16]


def _row(index: int) -> Labelled:
    scene, slot = divmod(index, len(STAGES))
    stage = tuple(STAGES)[slot]
    question = _question(scene, slot, STAGES[stage])
    example = Example(
        name=f"question {index}",
        picture=f"scene {scene}",
        group=str(scene),
        prompt=question.text,
        target=question.answer,
        content=partial(scene_digest, scene),
        image=partial(picture, ALBUM, scene),
        size=lambda: (SIZE, SIZE),
    )
    return Labelled(example=example, labels=(stage, question.kind))


def _question(scene: int, slot: int, kinds: tuple[str, ...]) -> Question:
    rng = np.random.default_rng([ALBUM, scene, slot])
    return ask(rng, str(rng.choice(kinds)), shown(scene_facts(ALBUM, scene)))
