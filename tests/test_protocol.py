"""Every message survives the way through the pipe, bit for bit."""

import math
import random
import struct
from typing import get_args

import pytest
from pydantic import ValidationError

from hpo import protocol
from hpo.protocol import (
    BaseFacts,
    Checkpointed,
    Cost,
    Evaluated,
    Finished,
    Inspect,
    Inspected,
    Progress,
    Quit,
    Ready,
    Resumed,
    Run,
    Score,
    Scored,
    Setup,
    SetupFailed,
    StartedOver,
    Stop,
    read_command,
    read_event,
    to_line,
)
from hpo.specs import EvalPoint, Fault, Outcome, TrialConfig, TrialOrder, TrialStats

HARD = 0.1 + 0.2  # has no short decimal form
TINY = 5e-324
CONFIG = TrialConfig(
    learning_rate=1e-4 / 3, lora_r=24, lora_alpha=64, lora_dropout=HARD, batch_size=8
)
TEXT = 'two\nlines, a \u2028 separator, \x00, 遥感 and a "quote"'


def commands(study):
    return [
        Setup(study=study, memory_limit_bytes=None, gpu=True, zero_shot=True),
        Setup(study=study, memory_limit_bytes=(1 << 63) + 1, gpu=False, zero_shot=False),
        Inspect(configs=(CONFIG, CONFIG)),
        Run(order=TrialOrder(number=3, seed_number=1, config=CONFIG, folder="runs/a b/trial-3")),
        Score(order=TrialOrder(number=3, seed_number=3, config=CONFIG, folder="runs/trial-3")),
        Stop(number=7),
        Stop(number=7, checkpoint=True),
        Quit(),
    ]


EVENTS = [
    Ready(
        facts=BaseFacts(
            device=TEXT,
            memory_capacity_bytes=None,
            base_parameters=4_022_000_000,
            adapted_layers=120,
            train_samples=32,
            val_samples=8,
            checks=("one", "two"),
            versions={"torch": "2.13.0+cpu"},
            zero_shot=HARD,
        )
    ),
    SetupFailed(message=TEXT),
    Inspected(
        costs=(
            Cost(
                config=CONFIG,
                trainable_parameters=2_420_736,
                steps=4,
                samples=32,
                seconds=1 / 3,
                peak_memory_bytes=0,
                problem=TEXT,
            ),
        )
    ),
    Scored(number=4, samples=16, scores={"cider": HARD, "bleu_4": TINY}),
    Scored(number=4, problem=TEXT),
    Progress(number=1, samples_seen=8, samples=32, train_loss=TINY, samples_per_s=-0.0),
    Progress(number=1, samples_seen=8, samples=32, train_loss=math.nan, samples_per_s=math.inf),
    Evaluated(number=0, point=EvalPoint(samples_seen=16, step=2, val_loss=1.7976931348623157e308)),
    Evaluated(
        number=0, point=EvalPoint(samples_seen=16, step=2, val_loss=HARD, last=True), replayed=True
    ),
    Resumed(number=5, samples_seen=16, seconds=HARD),
    StartedOver(number=5, reason=TEXT),
    Checkpointed(number=5, samples_seen=16, size_bytes=1 << 33),
    Finished(number=0, stats=TrialStats()),
    Finished(
        number=2,
        stats=TrialStats(seconds=HARD, samples_per_s=1e22, peak_memory_bytes=1 << 40, steps=3),
        stopped=True,
        fault=Fault(
            outcome=Outcome.OOM,
            reason=TEXT,
            step=1,
            where="backward",
            needed_bytes=1 << 36,
            capacity_bytes=1 << 35,
            traceback=TEXT,
        ),
        clean=False,
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: event.kind)
def test_events_come_back_as_they_were(event):
    line = to_line(event)
    assert line.count(b"\n") == 1
    assert repr(read_event(line)) == repr(event)


def test_commands_come_back_as_they_were(mini_study):
    for command in commands(mini_study):
        line = to_line(command)
        assert line.count(b"\n") == 1
        assert repr(read_command(line)) == repr(command)


def test_no_message_is_left_out_here(mini_study):
    for union, tried in ((protocol.Command, commands(mini_study)), (protocol.Event, EVENTS)):
        assert {type(message) for message in tried} == set(get_args(get_args(union)[0]))


def test_any_finite_float_keeps_all_its_bits():
    rng = random.Random(0)
    patterns = [struct.unpack("<d", rng.randbytes(8))[0] for _ in range(2000)]
    for value in filter(math.isfinite, patterns):
        point = EvalPoint(samples_seen=1, step=1, val_loss=value)
        event = read_event(to_line(Evaluated(number=0, point=point)))
        assert struct.pack("<d", event.point.val_loss) == struct.pack("<d", value)


def test_whole_numbers_and_floats_are_told_apart(mini_study):
    known = ({"lora_r": 8, "learning_rate": 1.0, "scheduler": "cosine"},)
    study = mini_study.model_copy(update={"known": known})
    setup = Setup(study=study, memory_limit_bytes=None, gpu=False, zero_shot=False)
    assert repr(read_command(to_line(setup)).study.known) == repr(known)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"",
        b"not json",
        b'{"kind": "dance"}',
        b'{"kind": "stop"}',
        b'{"kind": "stop", "number": "3"}',
        b'{"kind": "stop", "number": 3, "more": 1}',
    ],
)
def test_what_is_no_command_is_refused(line):
    with pytest.raises(ValidationError):
        read_command(line)


def test_a_message_of_the_other_direction_is_refused():
    with pytest.raises(ValidationError):
        read_event(to_line(Quit()))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_point_of_a_curve_is_always_finite(value):
    with pytest.raises(ValidationError):
        EvalPoint(samples_seen=1, step=1, val_loss=value)


def test_names_of_other_bytes_and_half_pairs_are_spelled_out_in_a_message():
    failed = SetupFailed(message="d\udcffr, \ud800 and \N{SNOWMAN}")
    assert read_event(to_line(failed)).message == "d\\udcffr, \\ud800 and \N{SNOWMAN}"
    fault = Fault(outcome=Outcome.CRASHED, reason="\udcff", traceback="\udfff")
    finished = Finished(number=1, stats=TrialStats(), fault=fault)
    assert read_event(to_line(finished)) == finished
