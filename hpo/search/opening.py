"""Opens or resumes a study: storage, sampler, pruner, fingerprint, what is to be tried first."""

import json
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import URL

from hpo.errors import StorageError
from hpo.search.database import tables
from hpo.search.database.cached import StudyStorage
from hpo.search.database.leases import Leases
from hpo.search.database.redaction import redacted
from hpo.search.database.storage import connect, exclusive
from hpo.search.ledger.retries import enqueue_mended
from hpo.search.study import fingerprint
from hpo.search.study.budget import begin_contents, wall_clock, write_budget
from hpo.search.study.pruner import MedianPruner
from hpo.search.study.sampler import GatedTPESampler
from hpo.search.study.space import distributions
from hpo.specs import ConstantParam, StudySpec

FINGERPRINT = "fingerprint"
SPEC = "spec"


def open_study(
    spec: StudySpec,
    url: URL,
    prints: dict[str, Any],
    *,
    samples: int,
    former: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> tuple[optuna.Study, Leases]:
    """The study of that name in the database, made if it is not there, and its leases.

    Args:
        prints: what makes its values comparable (`fingerprint.fingerprint`).
        samples: samples that a trial sees in all, for the pruner's warm-up.
        former: orders of stages and labels by the rules of earlier versions.
        say: receives one line on what could not be compared, or was replaced.

    Raises:
        StorageError: the database cannot be used.
        FingerprintError: the study is there with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    storage = connect(url)
    with exclusive(url):
        study = optuna.create_study(
            storage=StudyStorage(storage),
            study_name=spec.name,
            direction=spec.objective.direction,
            load_if_exists=True,
            sampler=GatedTPESampler(
                distributions(spec.space),
                seed=spec.search.seed,
                startup_trials=spec.search.startup_trials,
            ),
            pruner=MedianPruner(
                startup_trials=spec.pruner.startup_trials,
                min_trials=spec.pruner.min_trials,
                warmup_steps=_after_warmup(spec, samples),
            ),
        )
        tables.create(storage.engine)
        new = FINGERPRINT not in study.user_attrs
        tables.begin_study(storage.engine, study._study_id, new=new)
        if note := _hold_fingerprint(study, spec, prints, former or {}, redacted(url)):
            say(note)
        write_budget(study, spec, wall_clock)
        with warnings.catch_warnings():  # experimental in Optuna; a name for the dashboard's axis
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([spec.objective.metric])
        _enqueue_known(study, spec)
        enqueue_mended(study, spec.search.trials)
        leases = Leases(storage, study, lease_s=spec.limits.hang_seconds)
    return study, leases


def find_study(
    spec: StudySpec,
    url: URL,
    prints: dict[str, Any],
    *,
    former: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> optuna.Study:
    """The study of that name, which is there already; nothing is made or changed.

    Args:
        prints, former, say: as for `open_study`.

    Raises:
        StorageError: the database cannot be used, or there is no such study in it.
        FingerprintError: the study is there with other settings.
    """
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    where = redacted(url)
    missing = StorageError(
        f"there is no study {spec.name} in {where}; run it first with python -m hpo.run, or give "
        "its --name, --scale and --storage"
    )
    if url.get_backend_name() == "sqlite" and not Path(url.database or "").exists():
        raise missing
    try:
        study = optuna.load_study(study_name=spec.name, storage=StudyStorage(connect(url)))
    except KeyError:
        raise missing from None
    stored = study.user_attrs.get(FINGERPRINT)
    if stored is None:
        raise StorageError(_not_ours(spec, where))
    if note := fingerprint.hold(stored, prints, name=spec.name, where=where, former=former):
        say(note)
    return study


def _not_ours(spec: StudySpec, where: str) -> str:
    return f"study {spec.name} in {where} was not made by hpo; use --name NAME for another"


def _after_warmup(spec: StudySpec, samples: int) -> int:
    """The first number of samples seen at which a trial may be pruned."""
    warmup = spec.trial.eval_grid(samples)[: spec.pruner.warmup_evals]
    return warmup[-1] + 1 if warmup else 0


def _hold_fingerprint(
    study: optuna.Study,
    spec: StudySpec,
    prints: dict[str, Any],
    former: Mapping[str, Any],
    where: str,
) -> str:
    """Compares what is stored with ours and stores ours; what there is to say of it, or nothing.

    Other contents take the place of those stored while no trial has a value that they explain:
    a broken image can be mended before the first trial has ended.
    """
    stored = study.user_attrs.get(FINGERPRINT)
    trials = study.get_trials(deepcopy=False)
    if stored is None and (trials or not _points_our_way(study, spec)):
        raise StorageError(_not_ours(spec, where))
    note = ""
    if stored is not None:
        found = fingerprint.differences(stored, prints, former)
        replaced = bool(found) and found.keys() <= fingerprint.CONTENTS
        if found and not (replaced and not any(map(_has_value, trials))):
            raise fingerprint.refusal(found, name=spec.name, where=where)
        if replaced:
            note = (
                f"study {spec.name}: {'; '.join(found.values())}; no trial has a value yet, so the "
                "study continues with what is there now"
            )
        else:
            note = fingerprint.not_compared(stored, prints, former, name=spec.name)
        if replaced or fingerprint.renumbered(stored, prints, former):
            begin_contents(study)
    study.set_user_attr(FINGERPRINT, json.loads(json.dumps(prints)))
    study.set_user_attr(SPEC, json.loads(spec.model_dump_json(exclude_defaults=True)))
    return note


def _has_value(trial: FrozenTrial) -> bool:
    """Whether something was measured of it, or is about to be: an OOM may come before any value."""
    if trial.state == TrialState.PRUNED:
        return bool(trial.intermediate_values)
    return trial.state in (TrialState.COMPLETE, TrialState.RUNNING)


def _points_our_way(study: optuna.Study, spec: StudySpec) -> bool:
    """Whether it has one objective in our direction: an empty study may be anybody's."""
    return [d.name.lower() for d in study.directions] == [spec.objective.direction]


def _enqueue_known(study: optuna.Study, spec: StudySpec) -> None:
    """Enqueues known configurations, no more than the study has trials."""
    done = sum("known" in t.user_attrs for t in study.get_trials(deepcopy=False))
    for config in spec.known[done : spec.search.trials]:
        constants = {n for n, p in spec.space.items() if isinstance(p, ConstantParam)}
        params = {name: value for name, value in config.items() if name not in constants}
        study.enqueue_trial(params, user_attrs={"known": True})
