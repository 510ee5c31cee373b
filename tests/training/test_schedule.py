"""The schedules, against those of transformers."""

import pytest
import torch
from transformers import (
    get_constant_schedule_with_warmup,
    get_cosine_schedule_with_warmup,
    get_linear_schedule_with_warmup,
)

from hpo.training.trial.schedule import factor

STEPS, WARMUP = 40, 4
THEIRS = {
    "linear": lambda o: get_linear_schedule_with_warmup(o, WARMUP, STEPS),
    "cosine": lambda o: get_cosine_schedule_with_warmup(o, WARMUP, STEPS),
    "constant": lambda o: get_constant_schedule_with_warmup(o, WARMUP),
}


@pytest.mark.parametrize("kind", THEIRS)
def test_factor_is_that_of_transformers(kind):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = THEIRS[kind](optimizer)
    for step in range(STEPS):
        assert factor(kind, step, STEPS, WARMUP) == pytest.approx(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
