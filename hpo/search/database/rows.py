"""Trials read from Optuna's tables directly: its object mapping takes ten times the processor."""

import json
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import BaseDistribution, json_to_distribution
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Row, Table, and_, bindparam, select

TRIALS: Table = models.TrialModel.__table__
STUDIES: Table = models.StudyModel.__table__
PARAMS: Table = models.TrialParamModel.__table__
VALUES: Table = models.TrialValueModel.__table__
REPORTS: Table = models.TrialIntermediateValueModel.__table__
USER_ATTRS: Table = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS: Table = models.TrialSystemAttributeModel.__table__
STUDY_ATTRS: Table = models.StudyUserAttributeModel.__table__
CHUNK = 500  # ids in one statement

# made once: to build a statement takes as long as to run it
_SINCE = (
    select(TRIALS.c.trial_id, TRIALS.c.state)
    .where(TRIALS.c.study_id == bindparam("study_id"), TRIALS.c.trial_id >= bindparam("oldest"))
    .order_by(TRIALS.c.trial_id)
)
_OF = {
    table: select(table).where(table.c.trial_id.in_(bindparam("ids", expanding=True))).order_by(key)
    for table, key in (
        (TRIALS, TRIALS.c.trial_id),
        (PARAMS, PARAMS.c.param_id),
        (VALUES, VALUES.c.objective),
        (REPORTS, REPORTS.c.trial_intermediate_value_id),
        (USER_ATTRS, USER_ATTRS.c.trial_user_attribute_id),
        (SYSTEM_ATTRS, SYSTEM_ATTRS.c.trial_system_attribute_id),
    )
}
_WITH = and_(USER_ATTRS.c.trial_id == TRIALS.c.trial_id, USER_ATTRS.c.key == bindparam("attribute"))
_WAITING = (
    select(TRIALS.c.trial_id, TRIALS.c.number, USER_ATTRS.c.key)
    .outerjoin(USER_ATTRS, _WITH)
    .where(TRIALS.c.study_id == bindparam("study_id"), TRIALS.c.state == TrialState.WAITING)
)
_OF_STUDY = select(STUDY_ATTRS).where(STUDY_ATTRS.c.study_id == bindparam("study_id"))


def states(connection: Connection, study_id: int, oldest: int) -> dict[int, TrialState]:
    """States of the study's trials by id, from one id on."""
    found = connection.execute(_SINCE, {"study_id": study_id, "oldest": oldest})
    return {row.trial_id: row.state for row in found}


def waiting(connection: Connection, study_id: int, first: str) -> list[tuple[int, int]]:
    """Ids and numbers of the WAITING trials: with a user attribute first, then by age."""
    found = connection.execute(_WAITING, {"study_id": study_id, "attribute": first}).all()
    ordered = sorted(found, key=lambda row: (row.key is None, row.number))
    return [(row.trial_id, row.number) for row in ordered]


def load(connection: Connection, trial_ids: Iterable[int]) -> list[FrozenTrial]:
    """Trials with all that belongs to them, in the order of their ids."""
    ids = sorted(trial_ids)
    chunks = [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)]
    return [trial for chunk in chunks for trial in _load(connection, chunk)]


def system_attrs(connection: Connection, trial_id: int) -> dict[str, Any]:
    """Optuna's attributes of a trial."""
    found = connection.execute(_OF[SYSTEM_ATTRS], {"ids": [trial_id]})
    return {row.key: json.loads(row.value_json) for row in found}


def study_attrs(connection: Connection, study_id: int) -> dict[str, Any]:
    """User attributes of a study."""
    found = connection.execute(_OF_STUDY, {"study_id": study_id})
    return {row.key: json.loads(row.value_json) for row in found}


def _load(connection: Connection, ids: list[int]) -> list[FrozenTrial]:
    trials, *others = (connection.execute(of, {"ids": ids}).all() for of in _OF.values())
    parts = [_by_trial(rows) for rows in others]
    return [_frozen(row, *(part[row.trial_id] for part in parts)) for row in trials]


def _by_trial(rows: Sequence[Row[Any]]) -> dict[int, list[Row[Any]]]:
    found: dict[int, list[Row[Any]]] = defaultdict(list)
    for row in rows:
        found[row.trial_id].append(row)
    return found


def _frozen(
    trial: Row[Any],
    params: list[Row[Any]],
    values: list[Row[Any]],
    reports: list[Row[Any]],
    user_attrs: list[Row[Any]],
    system_attrs: list[Row[Any]],
) -> FrozenTrial:
    """What Optuna's storage makes of the same rows."""
    value_of = models.TrialValueModel.stored_repr_to_value
    report_of = models.TrialIntermediateValueModel.stored_repr_to_intermediate_value
    distributions = {row.param_name: _distribution(row.distribution_json) for row in params}
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=[value_of(row.value, row.value_type) for row in values] or None,
        datetime_start=_local(trial.datetime_start),
        datetime_complete=_local(trial.datetime_complete),
        params={
            row.param_name: distributions[row.param_name].to_external_repr(row.param_value)
            for row in params
        },
        distributions=distributions,
        user_attrs={row.key: json.loads(row.value_json) for row in user_attrs},
        system_attrs={row.key: json.loads(row.value_json) for row in system_attrs},
        intermediate_values={
            row.step: report_of(row.intermediate_value, row.intermediate_value_type)
            for row in reports
        },
        trial_id=trial.trial_id,
    )


@lru_cache(maxsize=256)
def _distribution(text: str) -> BaseDistribution:
    """Parsed once; distributions are never changed."""
    return json_to_distribution(text)


def _local(utc: datetime | None) -> datetime | None:
    """Optuna stores times in UTC and shows them in this machine's zone."""
    return utc and utc.replace(tzinfo=UTC).astimezone().replace(tzinfo=None)
