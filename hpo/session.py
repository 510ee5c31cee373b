"""Wires one run of a study: plan, open, drive, summarise."""

import os
import socket
import time
from contextlib import closing, suppress
from dataclasses import replace

from sqlalchemy import URL

from hpo import slurm, streams
from hpo.data import read_examples
from hpo.data.images import check_pixels
from hpo.hints import Command, next_commands
from hpo.plan import Plan
from hpo.protocol import Inspect, Inspected, Ready
from hpo.screen import Screen
from hpo.search.database.outage import insist
from hpo.search.database.storage import translated
from hpo.search.driver import Close, Driver
from hpo.search.events import Note
from hpo.search.ledger.keeper import Keeper, own_folder
from hpo.search.ledger.ledger import Ledger
from hpo.search.ledger.summary import Summary, summarise
from hpo.search.opening import open_study
from hpo.search.runners.consult import consult
from hpo.search.runners.pool import Pool
from hpo.search.study import portable
from hpo.search.study.fingerprint import fingerprint
from hpo.search.study.loss import loss_explained
from hpo.specs import CategoricalParam, ConstantParam, Param, Scalar, TrialConfig

ASK_OTHERS_S = 1.0
EXIT_CODES = {
    Close.COMPLETE: 0,
    Close.BUDGET: 0,
    Close.TIMEOUT: 0,
    Close.BROKEN: 1,
    Close.INTERRUPTED: 130,
}


def run_study(
    plan: Plan, url: URL, screen: Screen, command: Command, *, timeout_s: float | None
) -> int:
    """Trains until the study is complete or something ends it; the exit code.

    Raises:
        HpoError: what the user can mend.
    """
    with translated(url):
        return _run_study(plan, url, screen, command, timeout_s)


def _run_study(
    plan: Plan, url: URL, screen: Screen, command: Command, timeout_s: float | None
) -> int:
    spec = plan.spec
    contents, notes = plan.contents, list(plan.notes)
    prints = fingerprint(
        spec, data_digest=contents.data, weights_digest=contents.weights, whole=contents.whole
    )
    study, leases = open_study(
        spec,
        url,
        prints,
        samples=plan.samples_per_trial,
        former=contents.former,
        say=notes.append,
    )
    plan = replace(plan, notes=tuple(notes))
    ledger = Ledger(study, spec, leases)
    own_folder(plan.runs_dir, ledger.identity)
    streams.log_to(plan.runs_dir / f"driver-{socket.gethostname()}-{os.getpid()}.log")
    with loss_explained(study, url, plan.runs_dir):
        return _trained(plan, url, ledger, screen, command, timeout_s)


def _trained(
    plan: Plan,
    url: URL,
    ledger: Ledger,
    screen: Screen,
    command: Command,
    timeout_s: float | None,
) -> int:
    """Trains, and sums up the study; the exit code."""
    spec, study = plan.spec, ledger.study
    limits = spec.limits
    quota_bytes = limits.disk_gb * (1 << 30)
    keeper = Keeper(
        plan.runs_dir,
        adapters=limits.adapters,
        quota_bytes=quota_bytes,
        objective=spec.objective,
    )
    ledger.reap()
    screen.plan(plan, ledger.finished())
    close, verdict = _drive(plan, ledger, keeper, screen, timeout_s)

    def end() -> Summary:
        if close in (Close.COMPLETE, Close.BUDGET):
            _end_silent_trials(ledger, screen)
        if close == Close.COMPLETE:
            ledger.close()
        keeper.sweep(ledger.trials, now=True)
        usage, total = ledger.leases.usage(), ledger.budget.trials
        return summarise(study, spec, usage, total=total, folder=str(plan.runs_dir))

    summary = insist(end, patience_s=limits.outage_seconds, say=lambda text: _note(screen, text))
    if problem := portable.write_copy(study, plan.runs_dir):
        _note(screen, problem)
    else:
        summary = replace(summary, copy=str(plan.runs_dir / portable.FILE))
    screen.summary(summary, next_commands(plan, url, command, summary), verdict)
    return EXIT_CODES[close]


def _drive(
    plan: Plan, ledger: Ledger, keeper: Keeper, screen: Screen, timeout_s: float | None
) -> tuple[Close, str]:
    """Trains what is to be trained; why it ended, and the verdict in words."""
    spec = plan.spec
    if ledger.is_complete():
        return Close.COMPLETE, f"study {spec.name} is complete: nothing left to do"
    if spent := ledger.exhausted()[0]:
        return Close.BUDGET, _verdict(Close.BUDGET, spec.name, spent)
    pool = Pool(
        spec,
        plan.placement,
        plan.runs_dir,
        zero_shot_known=ledger.knows_zero_shot(),
        contents=plan.contents.parts,
    )
    driver = Driver(spec, ledger, pool, screen, keeper, timeout_s=timeout_s)
    try:
        with screen.running():
            close = driver.run()
    except BaseException:
        if driver.wants_requeue:
            slurm.requeue()
        raise
    verdict = _verdict(close, spec.name, driver.reason)
    if close == Close.INTERRUPTED and driver.wants_requeue and slurm.requeue():
        verdict += "; Slurm was asked to run this job again"
    return close, verdict


def _end_silent_trials(ledger: Ledger, screen: Screen) -> None:
    """Waits until what others train is seen to get on, or is ended as lost."""
    waits = False
    while not ledger.others_are_alive():
        if not waits:
            _note(screen, "other workers hold trials; waiting until they get on or are given up")
        waits = True
        time.sleep(ASK_OTHERS_S)
        for number in ledger.reap():
            _note(screen, f"trial {number}: its worker is gone or silent")


def _note(screen: Screen, text: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        screen.show(Note(text=text))


def _verdict(close: Close, name: str, reason: str) -> str:
    match close:
        case Close.COMPLETE:
            return f"study {name} is complete"
        case Close.BUDGET:
            return f"study {name} ends: {reason}; running trials are handed back"
        case Close.TIMEOUT:
            return f"study {name}: the time is up (--timeout); the same command goes on"
        case Close.INTERRUPTED:
            return (
                f"study {name}: interrupted, running trials are handed back; "
                "the same command goes on"
            )
    return f"study {name} stopped itself: {reason}"


def dry_run(plan: Plan, screen: Screen) -> int:
    """Decodes every image, loads the base in one runner, says what a trial costs; stores nothing.

    Raises:
        HpoError: what the user can mend.
    """
    screen.plan(plan, None)
    examples = read_examples(plan.spec.data)
    images = check_pixels([*examples.train, *examples.val])  # a runner may have a cache of them
    asked = [Inspect(configs=_corners(plan))]
    with closing(consult(plan.spec, plan.placement, plan.runs_dir, asked)) as events:
        for event in events:
            match event:
                case Ready():
                    checks = event.facts.checks
                    if images:
                        checks = (f"{images} images decoded", *checks)
                case Inspected():
                    screen.costs(plan, event.costs, checks)
                    break
    return 0


def _corners(plan: Plan) -> tuple[TrialConfig, ...]:
    """The cheapest and the most expensive configuration of the space."""
    space = plan.spec.space
    low = {name: _end(param, 0) for name, param in space.items()}
    high = {name: _end(param, -1) for name, param in space.items()}
    return TrialConfig.model_validate(low), TrialConfig.model_validate(high)


def _end(param: Param, index: int) -> Scalar:
    match param:
        case CategoricalParam():
            numbers = sorted(c for c in param.choices if not isinstance(c, str))
            return numbers[index] if numbers else param.choices[index]
        case ConstantParam():
            return param.value
    return (param.low, param.high)[index]
