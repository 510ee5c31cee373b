"""The words of the plain lines and of the summary, which all screens for people share."""

from typing import Any

from hpo.plan import Plan
from hpo.protocol import BaseFacts, Cost
from hpo.search.events import TrialEnded
from hpo.search.ledger.diagnosis import DIAGNOSIS
from hpo.search.ledger.summary import Ranked, Summary
from hpo.specs import Outcome
from hpo.units import show_duration, show_size, show_value

SHORT = {
    "learning_rate": "lr",
    "lora_r": "r",
    "lora_alpha": "alpha",
    "lora_dropout": "dropout",
    "scheduler": "",
    "batch_size": "batch",
}
SHOWN_NUMBERS = 8
SHOWN_LABELS = 12


def params(values: dict[str, Any]) -> str:
    """Hyperparameters in one short phrase."""
    parts = []
    for name, value in values.items():
        short = SHORT.get(name, name)
        parts.append(f"{short} {show_value(value)}".strip())
    return ", ".join(parts)


def plan_lines(plan: Plan, finished: int | None) -> list[str]:
    """What will be done."""
    trials = f"{plan.spec.search.trials} trials"
    progress = trials if finished is None else f"{finished} of {trials} finished"
    lines = [f"study {plan.spec.name}: {progress}"]
    lines += [f"  {name}: {value}" for name, value in plan.facts().items()]
    return [*lines, *plan.notes]


def base_lines(facts: BaseFacts, objective: str) -> list[str]:
    """What the first runner found."""
    lines = [f"base loaded on {facts.device}: {facts.base_parameters:,} parameters, frozen"]
    lines += [f"  verified: {check}" for check in facts.checks]
    if facts.zero_shot is not None:
        lines.append(f"  zero-shot {objective} {facts.zero_shot:.4f}")
    return lines


def ended_line(event: TrialEnded, trials: int) -> str:
    """How a trial ended."""
    took = f" in {show_duration(event.seconds)}" if event.seconds is not None else ""
    result = (
        event.reason
        if event.outcome == Outcome.COMPLETE and event.value is not None
        else f"{event.outcome}: {event.reason}"
    )
    return f"trial {event.number} ended{took}: {result} [{event.finished} of {trials}]"


def cost_lines(plan: Plan, costs: tuple[Cost, ...], checks: tuple[str, ...]) -> list[str]:
    """What a trial would cost."""
    lines = ["search space:"]
    lines += [f"  {name}: {value}" for name, value in plan.space().items()]
    lines += [f"verified: {check}" for check in checks]
    lines.append("one trial would cost, extrapolated from one step:")
    lines += [f"  {_cost(cost)}" for cost in costs]
    return [*lines, "dry run: nothing was trained, nothing was stored"]


def _cost(cost: Cost) -> str:
    what = (
        f"r {cost.config.lora_r}, batch {cost.config.batch_size}: "
        f"{cost.trainable_parameters:,} trainable parameters, {cost.steps} steps, "
        f"{cost.samples} samples"
    )
    if cost.problem is not None:
        return f"{what}; {cost.problem}"
    took = show_duration(cost.seconds)
    return f"{what}, about {took}, peak {show_size(cost.peak_memory_bytes)}"


def summary_lines(summary: Summary, commands: list[str], verdict: str) -> list[str]:
    """What came out, and what to type next."""
    counts = ", ".join(f"{count} {outcome}" for outcome, count in summary.counts.items())
    lines = [
        verdict,
        f"{summary.finished} of {summary.trials} trials finished: {counts or 'none yet'}",
        f"{show_duration(summary.usage.total_s)} of device time{_by_outcome(summary)}",
    ]
    if summary.best:
        lines.append("best configurations:")
        lines += [
            f"  {_ranked(summary.objective, place, row)}"
            for place, row in enumerate(summary.best, 1)
        ]
        lines.append(_against_zero_shot(summary))
        best = summary.best[0]
        if best.diagnosis:
            lines.append(f"  its curve: {best.diagnosis}")
        lines.append(f"adapter and curve of the best: {summary.folder}/trial-{best.number:05d}/")
        lines += _label_lines(best)
    if summary.diagnoses:
        counts = ", ".join(f"{count} {kind}" for kind, count in summary.diagnoses.items())
        lines.append(f"curves: {counts}; each trial's attribute `{DIAGNOSIS}` says what to try")
    if summary.copy:
        lines.append(f"the study as one SQLite file: {summary.copy}")
    for failure in summary.failures:
        numbers = ", ".join(str(n) for n in failure.numbers[:SHOWN_NUMBERS])
        more = ", ..." if failure.count > SHOWN_NUMBERS else ""
        lines.append(
            f"{failure.count} {failure.outcome} (trials {numbers}{more}): {failure.reason}"
        )
        if failure.advice:
            lines.append(f"  what to do: {failure.advice}")
    return [*lines, "next:", *(f"  {command}" for command in commands)]


def _label_lines(row: Ranked) -> list[str]:
    """Which label each output of a trial's head stands for; none where there are no labels."""
    parts = [f"{output} {label!r}" for output, label in row.id2label.items()]
    if not parts:
        return []
    more = f" and {len(parts) - SHOWN_LABELS} more" if len(parts) > SHOWN_LABELS else ""
    return [f"  its outputs are {', '.join(parts[:SHOWN_LABELS])}{more} (adapter/labels.json)"]


def _by_outcome(summary: Summary) -> str:
    parts = sorted(summary.usage.by_outcome.items(), key=lambda part: -part[1])
    shown = ", ".join(f"{show_duration(seconds)} {outcome}" for outcome, seconds in parts)
    return f": {shown}" if len(parts) > 1 else ""


def _ranked(name: str, place: int, row: Ranked) -> str:
    cost = f", {show_duration(row.seconds)}" if row.seconds is not None else ""
    return f"{place}. {name} {row.value:.4f}  trial {row.number}{cost}: {params(row.params)}"


def _against_zero_shot(summary: Summary) -> str:
    best = f"best {summary.objective} {summary.best[0].value:.4f}"
    if summary.zero_shot is None:
        return best
    if not summary.zero_shot:
        return f"{best} against 0 zero-shot"
    change = 100 * (summary.best[0].value / summary.zero_shot - 1)
    return f"{best} against {summary.zero_shot:.4f} zero-shot ({change:+.0f}%)"
