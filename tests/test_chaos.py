"""A short chaos run; `python -m tests.chaos` is the same for longer ones."""

import pytest

from tests.chaos.__main__ import main
from tests.chaos.faults import FAULTS
from tests.chaos.plan import make_plan

FAULT_COUNT = 20


def test_a_plan_repeats_with_its_seed_and_holds_every_kind():
    plan = make_plan(7, FAULT_COUNT, list(FAULTS))
    assert plan == make_plan(7, FAULT_COUNT, list(FAULTS))
    assert plan != make_plan(8, FAULT_COUNT, list(FAULTS))
    assert {draw.kind for draw in plan} == set(FAULTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "faults"),
    [((), FAULT_COUNT), (("--drivers", "2", "--runners", "2", "--pack", "3"), FAULT_COUNT // 2)],
)
def test_a_study_ends_exactly_whatever_happens_to_it(capsys, more, faults):
    failed = main(["--storage", "sqlite", "--faults", str(faults), "--seed", "1", *more])
    printed = capsys.readouterr().out
    assert not failed, printed
    assert "ok    the total is exact" in printed and "WRONG" not in printed
