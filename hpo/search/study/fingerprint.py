"""What makes the values of a study comparable, and the guard that holds it on resume."""

import json
from typing import Any

from hpo.errors import FingerprintError
from hpo.specs import StudySpec

LEFT_OUT = {
    ("trial", "max_seconds"),
    ("trial", "keep_epochs"),
    ("model", "name"),
    ("model", "device"),
    ("data", "root"),
}


def fingerprint(spec: StudySpec, *, data_digest: str, weights_digest: str) -> dict[str, Any]:
    """Setting by dotted key: task, model, data, objective, trial and search space.

    Paths are left out, contents are in: another node may hold the same data elsewhere. A switch
    that is off, or a list that is empty, is left out: studies from before it was there go on.
    """
    tables = json.loads(spec.model_dump_json())
    found: dict[str, Any] = {"task": spec.task}
    for table in ("objective", "model", "data", "trial", "space"):
        for key, value in tables[table].items():
            if (table, key) not in LEFT_OUT and value is not False and value != []:
                found[f"{table}.{key}"] = value
    return {**found, "data": data_digest, "model weights": weights_digest}


def hold(stored: dict[str, Any], ours: dict[str, Any], *, name: str, where: str) -> None:
    """Raises FingerprintError with every difference, if there is one."""
    differences = [
        f"{key} was {_short(stored.get(key))}, now {_short(ours.get(key))}"
        for key in sorted(stored.keys() | ours.keys())
        if stored.get(key) != ours.get(key)
    ]
    if differences:
        raise FingerprintError(
            f"study {name} in {where} was made with other settings, so its values are not "
            f"comparable: {'; '.join(differences)}; use --name NAME for a study beside it, or "
            "another --storage"
        )


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if k != "type")
    return "not set" if value is None else str(value)
