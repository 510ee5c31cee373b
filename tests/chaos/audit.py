"""The audit: each check is a sentence, and what speaks against it."""

from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from hpo.search.ledger.outcomes import CONSEQUENCES
from hpo.search.study.portable import FILE
from hpo.specs import Outcome, TrialConfig, TrialOrder
from tests.chaos import study
from tests.chaos.evidence import Evidence, curve, is_retry, losses, outcome
from tests.chaos.replay import replay

ROUNDING = 1e-4  # of a val loss, where other trials were beside one
REPLAYED = 3  # finished trials with the most attempts
Check = Callable[[Evidence], Iterator[str]]


def every_fault_was_injected(seen: Evidence) -> Iterator[str]:
    if seen.injected < seen.planned:
        yield f"{seen.injected} of {seen.planned}"


def the_total_is_exact(seen: Evidence) -> Iterator[str]:
    wanted = seen.spec.search.trials
    if len(seen.ended) != wanted:
        yield f"{len(seen.ended)} finished trials instead of {wanted}"


def no_trial_is_running_or_waiting(seen: Evidence) -> Iterator[str]:
    for trial in seen.trials:
        if not trial.state.is_finished():
            yield f"trial {trial.number} is {trial.state.name}"


def every_trial_has_one_outcome_that_fits_its_state(seen: Evidence) -> Iterator[str]:
    for trial in seen.trials:
        name = outcome(trial)
        if name not in set(Outcome) or CONSEQUENCES[Outcome(name)].state != trial.state:
            yield f"trial {trial.number} is {trial.state.name} with {name}"


def what_cannot_be_trained_ended_as_oom_or_nan(seen: Evidence) -> Iterator[str]:
    for trial in seen.ended:
        wanted = ["complete", "pruned"]
        if trial.params["batch_size"] == study.TOO_LARGE:
            wanted = ["oom"]
        elif trial.params["learning_rate"] == study.TOO_FAST:
            wanted = ["nan"]
        if outcome(trial) not in wanted:
            yield f"trial {trial.number} ended as {outcome(trial)}, not as {' or '.join(wanted)}"


def no_eval_point_is_missing_or_extra(seen: Evidence) -> Iterator[str]:
    for trial in seen.trials:
        steps = tuple(sorted(trial.intermediate_values))
        whole = trial.state == TrialState.COMPLETE
        if steps != (seen.grid if whole else seen.grid[: len(steps)]):
            yield f"trial {trial.number} ({outcome(trial)}) has {steps} of the grid {seen.grid}"
        elif whole and trial.value != min(trial.intermediate_values.values()):
            yield f"trial {trial.number} has the value {trial.value}, which is not its best"


def no_curve_has_a_gap_or_a_repeat(seen: Evidence) -> Iterator[str]:
    whole = {trial.number for trial in _curves(seen)}
    for trial in seen.ended:
        steps = [int(row["step"]) for row in curve(seen.folder(trial.number))]
        missing = not steps and trial.number in whole
        if missing or steps != list(range(1, len(steps) + 1)):
            yield f"trial {trial.number}: the steps of metrics.csv are {_ranges(steps)}"


def curves_and_database_have_the_same_val_losses(seen: Evidence) -> Iterator[str]:
    for trial in _curves(seen):
        written = losses(curve(seen.folder(trial.number)), seen.grid)
        stored = trial.intermediate_values
        if {point: written.get(point) for point in stored} != stored:
            yield f"trial {trial.number}: {written} in metrics.csv, {stored} in the database"


def retries_repeat_what_earlier_attempts_reported(seen: Evidence) -> Iterator[str]:
    slack = 0.0 if seen.pack == 1 else ROUNDING
    by_number = {trial.number: trial for trial in seen.trials}
    for trial in seen.trials:
        for number in trial.user_attrs.get("earlier", []):
            before = by_number[number].intermediate_values
            for point in before.keys() & trial.intermediate_values.keys():
                if not abs(before[point] - trial.intermediate_values[point]) <= slack:
                    yield f"trials {number} and {trial.number} differ at {point} samples"


def an_attempt_is_tried_again_once_with_the_same_parameters(seen: Evidence) -> Iterator[str]:
    by_number = {trial.number: trial for trial in seen.trials}
    retries = [t for t in seen.trials if is_retry(t) and outcome(t) != Outcome.OVER_BUDGET]
    counts = Counter(trial.user_attrs["retry_of"] for trial in retries)
    for number, count in counts.items():
        if count > 1:
            yield f"trial {number} was tried again {count} times"
    for trial in retries:
        before = by_number[trial.user_attrs["retry_of"]]
        if before.state != TrialState.FAIL:
            yield f"trial {trial.number} repeats {before.number}, which is {before.state.name}"
        if trial.params != before.params:
            yield f"trial {trial.number} has other parameters than {before.number}"


def no_configuration_is_given_up_before_its_tries_are_spent(seen: Evidence) -> Iterator[str]:
    tried_again = {trial.user_attrs.get("retry_of") for trial in seen.trials}
    for trial in seen.trials:
        if trial.state == TrialState.FAIL and trial.number not in tried_again:
            ended = Outcome(outcome(trial))
            lost = ended == Outcome.LOST
            tries = seen.spec.search.attempts if lost else CONSEQUENCES[ended].tries
            if trial.user_attrs.get("spent", {}).get(ended, 0) + 1 < tries:
                yield f"trial {trial.number} ended as {ended} and was not tried again"


def an_uninterrupted_run_gives_the_same_val_losses(seen: Evidence) -> Iterator[str]:
    tried = [trial for trial in _curves(seen) if trial.user_attrs.get("earlier")]
    tried.sort(key=lambda trial: -len(trial.user_attrs["earlier"]))
    chosen = tried[:REPLAYED]
    orders = [_order(trial, seen.logs / "replay") for trial in chosen]
    curves = replay(seen.spec, orders, seen.logs / "replay.log")
    for trial in chosen:
        again = {point: curves[trial.number].get(point) for point in trial.intermediate_values}
        if again != trial.intermediate_values:
            yield f"trial {trial.number}: {again}, interrupted {trial.intermediate_values}"


def no_lease_is_left(seen: Evidence) -> Iterator[str]:
    if seen.leases:
        yield f"{seen.leases} leases"


def the_ledger_of_usage_agrees_with_the_trials(seen: Evidence) -> Iterator[str]:
    trials = Counter(outcome(trial) for trial in seen.trials)
    for name in sorted(trials.keys() | seen.usage.keys()):
        if trials[name] != seen.usage[name]:
            yield f"{name}: {seen.usage[name]} in the ledger, {trials[name]} trials"


def no_process_is_left(seen: Evidence) -> Iterator[str]:
    yield from seen.strays


def no_file_is_left_that_has_no_use(seen: Evidence) -> Iterator[str]:
    for path in sorted(seen.runs.parent.rglob("*")):
        if path.is_file() and not _belongs(path.relative_to(seen.runs.parent)):
            yield str(path.relative_to(seen.runs.parent))


def the_copy_of_the_study_has_every_finished_trial(seen: Evidence) -> Iterator[str]:
    path = seen.runs / FILE
    if not path.is_file():
        yield f"there is no {FILE}"
        return
    copy = optuna.load_study(study_name=study.NAME, storage=f"sqlite:///{path}")
    copied = {trial.number: trial for trial in copy.get_trials()}
    for trial in seen.ended:
        if copied.get(trial.number) != trial:
            yield f"trial {trial.number} is missing or another"


def only_the_best_trials_have_an_adapter(seen: Evidence) -> Iterator[str]:
    complete = [trial for trial in seen.trials if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: (trial.value, trial.number))
    best = {trial.number for trial in complete[: seen.spec.limits.adapters]}
    found = {
        trial.number
        for trial in seen.trials
        if any((seen.folder(trial.number) / "adapter").glob("*.safetensors"))
    }
    if best != found:
        yield f"the best are {sorted(best)}, adapters have {sorted(found)}"


def no_driver_gave_up_while_nothing_was_broken(seen: Evidence) -> Iterator[str]:
    yield from seen.surprises


def no_driver_printed_a_traceback(seen: Evidence) -> Iterator[str]:
    for path in sorted(seen.logs.glob("driver-*.*")):
        for line in path.read_text(errors="replace").splitlines():
            if "Traceback" in line or "this is a bug" in line:
                yield f"{path.name}: {line[-200:]}"


CHECKS: tuple[Check, ...] = (
    every_fault_was_injected,
    the_total_is_exact,
    no_trial_is_running_or_waiting,
    every_trial_has_one_outcome_that_fits_its_state,
    what_cannot_be_trained_ended_as_oom_or_nan,
    no_eval_point_is_missing_or_extra,
    no_curve_has_a_gap_or_a_repeat,
    curves_and_database_have_the_same_val_losses,
    retries_repeat_what_earlier_attempts_reported,
    an_attempt_is_tried_again_once_with_the_same_parameters,
    no_configuration_is_given_up_before_its_tries_are_spent,
    an_uninterrupted_run_gives_the_same_val_losses,
    no_lease_is_left,
    the_ledger_of_usage_agrees_with_the_trials,
    no_process_is_left,
    no_file_is_left_that_has_no_use,
    the_copy_of_the_study_has_every_finished_trial,
    only_the_best_trials_have_an_adapter,
    no_driver_gave_up_while_nothing_was_broken,
    no_driver_printed_a_traceback,
)


TO_THE_BIT = {an_uninterrupted_run_gives_the_same_val_losses}
"""What holds only of trials that are trained one at a time: a pass of others rounds otherwise."""


def audit(seen: Evidence) -> dict[str, list[str]]:
    """Sentence -> what speaks against it."""
    checks = CHECKS if seen.pack == 1 else [check for check in CHECKS if check not in TO_THE_BIT]
    return {check.__name__.replace("_", " "): list(check(seen)) for check in checks}


def _curves(seen: Evidence) -> list[FrozenTrial]:
    """Trials whose curve is whole: those that came to their end, or were pruned for it."""
    wanted = (Outcome.COMPLETE, Outcome.PRUNED)
    return [trial for trial in seen.ended if outcome(trial) in wanted]


def _order(trial: FrozenTrial, folder: Path) -> TrialOrder:
    return TrialOrder(
        number=trial.number,
        seed_number=trial.user_attrs["seed_number"],
        config=TrialConfig.model_validate(trial.params),
        folder=str(folder / f"trial-{trial.number}"),
        checkpoints=False,
    )


def _belongs(path: Path) -> bool:
    """Whether a file of the runs folder is one that a study leaves."""
    kept = (
        "chaos/study.json",
        "chaos/study.db",
        "chaos/trial-*/metrics.csv",
        "chaos/trial-*/adapter/*",
        "chaos/runner-*.log",
        ".features/*.lock",
        ".features/*.json",
        ".features/*.safetensors",
    )
    return any(path.match(pattern) for pattern in kept)


def _ranges(steps: list[int]) -> str:
    """Steps as `1-8, 8-16`."""
    if not steps:
        return "none"
    breaks = [i for i in range(1, len(steps)) if steps[i] != steps[i - 1] + 1]
    edges = zip([0, *breaks], [*breaks, len(steps)], strict=True)
    return ", ".join(f"{steps[begin]}-{steps[end - 1]}" for begin, end in edges)
