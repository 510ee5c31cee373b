"""What a trial would cost, from one step that changes nothing."""

import time

from hpo.protocol import Cost
from hpo.specs import TrialConfig, TrialOrder
from hpo.training.base.forward import compute
from hpo.training.trial.faults import classify
from hpo.training.trial.loop import learning
from hpo.training.trial.trial import Bench, Run, new_adapter


def cost(bench: Bench, config: TrialConfig) -> Cost:
    """Times one forward and backward pass and one evaluation batch, and extrapolates."""
    order = TrialOrder(number=0, seed_number=0, config=config, folder="")
    run = Run(bench=bench, order=order, adapter=new_adapter(bench, order))
    bench.gauge.reset_peak()
    step_s, problem = 0.0, None
    try:
        for _ in range(2):  # the first pass warms up
            step_s = _timed_step(run)
    except Exception as error:  # whatever it is, the other configurations are still of interest
        problem = classify(bench, order, run, error).reason
    spec = bench.study.trial
    evals = len(spec.eval_grid(run.samples))
    eval_steps = -(-len(bench.val) // spec.eval_batch_size) * evals
    scale = spec.eval_batch_size / config.batch_size / 3  # a forward is a third of a step
    return Cost(
        config=config,
        trainable_parameters=bench.base.trainable(config.lora_r, config.last_n),
        steps=run.course.steps,
        samples=run.samples,
        seconds=round(step_s * (run.course.steps + eval_steps * scale), 1),
        peak_memory_bytes=bench.gauge.peak_bytes(),
        problem=problem,
    )


def _timed_step(run: Run) -> float:
    rows = [run.bench.train[i] for i in run.course.longest()]
    began = time.monotonic()
    for asked in learning(run, rows):
        compute(run.bench.task, run.bench.base, [asked])[0].check()
    run.adapter.flat.grad = None
    return time.monotonic() - began
