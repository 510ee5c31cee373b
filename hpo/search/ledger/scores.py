"""Scores of generated answers: which trials get them, and where they stay.

They are all that is written of a trial after its end; nothing that a search decides rests on them.
"""

from collections.abc import Callable, Iterable
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial

from hpo.protocol import ADAPTER
from hpo.search.database.cached import storage_of
from hpo.search.ledger.keeper import best
from hpo.search.study.space import config_of
from hpo.specs import StudySpec, TrialOrder

PREFIX = "score:"  # of trial attributes


def with_adapters(
    trials: Iterable[FrozenTrial], spec: StudySpec, folder: Callable[[int], Path]
) -> list[FrozenTrial]:
    """The COMPLETE trials whose adapters are on this disk, best first."""
    ranked = best(trials, spec.objective)
    return [trial for trial in ranked if (folder(trial.number) / ADAPTER).is_dir()]


def order_of(trial: FrozenTrial, spec: StudySpec, folder: Path) -> TrialOrder:
    """A trained trial as a runner gets it."""
    config = config_of(trial, spec.space)
    return TrialOrder(
        number=trial.number, seed_number=trial.number, config=config, folder=str(folder)
    )


def keep(study: optuna.Study, trial: FrozenTrial, scores: dict[str, float]) -> None:
    """Writes the scores as attributes of their trial, over those of before."""
    attributes = {f"{PREFIX}{name}": value for name, value in scores.items()}
    storage_of(study).annotate(trial._trial_id, attributes)
