"""What makes the values of a study comparable, and the comparison on resume."""

import json
from collections.abc import Mapping
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
WHOLE = ("model files", "processor files", "images", "stages", "labels")
"""Keys that studies lack which were made before whole files and orders were compared."""
CONTENTS = {"data", "model weights", *WHOLE}
"""Keys of what `hpo.contents` reads; all others are settings."""

TOKENS = "names of special tokens in texts"
READ_OTHERWISE = f"rotated, transparent and 16-bit images, and {TOKENS},"


def fingerprint(
    spec: StudySpec,
    *,
    data_digest: str,
    weights_digest: str,
    whole: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Setting by dotted key: task, model, data, objective, trial and search space.

    Paths are left out, contents are in: another node may hold the same data elsewhere. A switch
    that is off, or a list that is empty, is left out: studies from before it was there go on.

    Args:
        whole: values of the keys `WHOLE` that there are.
    """
    tables = json.loads(spec.model_dump_json())
    found: dict[str, Any] = {"task": spec.task}
    for table in ("objective", "model", "data", "trial", "space"):
        for key, value in tables[table].items():
            if (table, key) not in LEFT_OUT and value is not False and value != []:
                found[f"{table}.{key}"] = value
    return {**found, "data": data_digest, "model weights": weights_digest, **(whole or {})}


def hold(
    stored: dict[str, Any],
    ours: dict[str, Any],
    *,
    name: str,
    where: str,
    former: Mapping[str, Any] | None = None,
) -> str:
    """Compares the stored fingerprint with ours; what could not be compared, or nothing.

    Args:
        former: orders of stages and labels by the rules of earlier versions.

    Raises:
        FingerprintError: with every difference.
    """
    if found := differences(stored, ours, former or {}):
        raise refusal(found, name=name, where=where)
    return not_compared(stored, ours, former or {}, name=name)


def differences(
    stored: dict[str, Any], ours: dict[str, Any], former: Mapping[str, Any]
) -> dict[str, str]:
    """In words by key. What a study of earlier versions did not store is no difference."""
    found = {
        key: _difference(key, stored.get(key), ours.get(key))
        for key in sorted(stored.keys() | ours.keys())
        if stored.get(key) != ours.get(key)
    }
    if _is_former(stored, ours):
        found = {key: text for key, text in found.items() if key not in WHOLE}
        _compare_former_stages(found, stored, ours, former)
    return found


def refusal(found: Mapping[str, str], *, name: str, where: str) -> FingerprintError:
    """The error that names all differences."""
    return FingerprintError(
        f"study {name} in {where} was made with other settings, so its values are not "
        f"comparable: {'; '.join(found.values())}; use --name NAME for a study beside it, or "
        "another --storage"
    )


def not_compared(
    stored: dict[str, Any], ours: dict[str, Any], former: Mapping[str, Any], *, name: str
) -> str:
    """One sentence on what a study of earlier versions did not store; nothing for all others."""
    if not _is_former(stored, ours):
        return ""
    kinds = [key for key in WHOLE[:3] if key in ours]
    text = (
        f"study {name} was made before {_and(kinds)} were compared as a whole: whether they have "
        "changed since could not be checked; from now on they are compared. This version reads "
        f"{READ_OTHERWISE if 'images' in ours else TOKENS} as earlier ones did not: where the data "
        "has such, values of new trials differ a little from those of earlier ones"
    )
    if renumbered(stored, ours, former):
        text += (
            f"; its labels were numbered in the order {_short(former['labels'])} until now, which "
            "the adapters of its earlier trials keep"
        )
    return text


def renumbered(stored: dict[str, Any], ours: dict[str, Any], former: Mapping[str, Any]) -> bool:
    """Whether trials of a study of earlier versions numbered the labels in another order."""
    return _is_former(stored, ours) and "labels" in former and former["labels"] != ours["labels"]


def _is_former(stored: dict[str, Any], ours: dict[str, Any]) -> bool:
    """Whether the stored study is of a version that did not store whole contents."""
    return WHOLE[0] in ours and WHOLE[0] not in stored


def _compare_former_stages(
    found: dict[str, str],
    stored: dict[str, Any],
    ours: dict[str, Any],
    former: Mapping[str, Any],
) -> None:
    """Stages that nobody gave had the order of their names, which decided on the objective."""
    if "data.stages" in stored or "stages" not in former:
        return
    found.pop("data.stages", None)
    if ours.get("stages") == former["stages"]:
        return
    found["stages"] = (
        f"the order of its stages was {_short(former['stages'])}, now "
        f"{_short(ours.get('stages'))}; to continue with the old order, give "
        f"--set 'data.stages={json.dumps(former['stages'], ensure_ascii=False)}'"
    )


def _difference(key: str, theirs: Any, ours: Any) -> str:
    if key in CONTENTS and isinstance(theirs, dict) and isinstance(ours, dict):
        return "; ".join(
            f"{key} {name} was {_short(theirs.get(name))}, now {_short(ours.get(name))}"
            for name in sorted(theirs.keys() | ours.keys())
            if theirs.get(name) != ours.get(name)
        )
    return f"{key} was {_short(theirs)}, now {_short(ours)}"


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k} {v}" for k, v in value.items() if k != "type")
    return "not set" if value is None else str(value)


def _and(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last
