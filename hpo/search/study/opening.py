"""Opens or resumes a study: storage, sampler, pruner, fingerprint, what is to be tried first."""

import json
import warnings
from pathlib import Path
from typing import Any

import optuna
from sqlalchemy import URL

from hpo.errors import StorageError
from hpo.search.database import tables
from hpo.search.database.cached import StudyStorage
from hpo.search.database.leases import Leases
from hpo.search.database.storage import connect, exclusive
from hpo.search.database.urls import redacted
from hpo.search.ledger.retries import enqueue_mended
from hpo.search.study import fingerprint
from hpo.search.study.budget import wall_clock, write_budget
from hpo.search.study.pruner import MedianPruner
from hpo.search.study.sampler import GatedTPESampler
from hpo.search.study.space import distributions
from hpo.specs import ConstantParam, StudySpec

FINGERPRINT = "fingerprint"
SPEC = "spec"


def open_study(
    spec: StudySpec, url: URL, prints: dict[str, Any], *, samples: int
) -> tuple[optuna.Study, Leases]:
    """The study of that name in the database, made if it is not there, and its leases.

    Args:
        prints: what makes its values comparable (`fingerprint.fingerprint`).
        samples: samples that a trial sees in all, for the pruner's warm-up.

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
        _hold_fingerprint(study, spec, prints, redacted(url))
        write_budget(study, spec, wall_clock)
        with warnings.catch_warnings():  # experimental in Optuna; a name for the dashboard's axis
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            study.set_metric_names([spec.objective.metric])
        _enqueue_known(study, spec)
        enqueue_mended(study, spec.search.trials)
        leases = Leases(storage, study, lease_s=spec.limits.hang_seconds)
    return study, leases


def find_study(spec: StudySpec, url: URL, prints: dict[str, Any]) -> optuna.Study:
    """The study of that name, which is there already; nothing is made or changed.

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
    fingerprint.hold(stored, prints, name=spec.name, where=where)
    return study


def _not_ours(spec: StudySpec, where: str) -> str:
    return f"study {spec.name} in {where} was not made by hpo; use --name NAME for another"


def _after_warmup(spec: StudySpec, samples: int) -> int:
    """The first number of samples seen at which a trial may be pruned."""
    warmup = spec.trial.eval_grid(samples)[: spec.pruner.warmup_evals]
    return warmup[-1] + 1 if warmup else 0


def _hold_fingerprint(
    study: optuna.Study, spec: StudySpec, prints: dict[str, Any], where: str
) -> None:
    """Holds what is stored against ours, or stores ours."""
    stored = study.user_attrs.get(FINGERPRINT)
    if stored is not None:
        fingerprint.hold(stored, prints, name=spec.name, where=where)
    elif study.get_trials(deepcopy=False):
        raise StorageError(_not_ours(spec, where))
    study.set_user_attr(FINGERPRINT, json.loads(json.dumps(prints)))
    study.set_user_attr(SPEC, json.loads(spec.model_dump_json(exclude_defaults=True)))


def _enqueue_known(study: optuna.Study, spec: StudySpec) -> None:
    """Enqueues known configurations, no more than the study has trials."""
    done = sum("known" in t.user_attrs for t in study.get_trials(deepcopy=False))
    for config in spec.known[done : spec.search.trials]:
        constants = {n for n, p in spec.space.items() if isinstance(p, ConstantParam)}
        params = {name: value for name, value in config.items() if name not in constants}
        study.enqueue_trial(params, user_attrs={"known": True})
