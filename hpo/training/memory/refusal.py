"""Refuses trials that surely cannot fit into the memory, and learns from those that were tried."""

from hpo.protocol import Finished
from hpo.specs import Demand, Fault, Observation, Outcome, TrialOrder, TrialStats
from hpo.training.memory.footprint import BACKWARD
from hpo.training.memory.gauge import is_out_of_memory, requested_bytes
from hpo.training.trial.trial import Bench, course


def demand_of(bench: Bench, order: TrialOrder) -> Demand:
    """What a trial will ask of the memory: its batches are known before it starts."""
    config = order.config
    longest = course(bench, order).longest()
    return bench.memory.footprint.demand(
        rows=min(len(longest), bench.study.trial.max_micro_batch or len(longest)),
        length=max(bench.train[i].length for i in longest),
        rank=config.lora_r,
        dropout=config.lora_dropout,
        trainable=bench.base.trainable(config.lora_r, config.last_n),
    )


def refuse(bench: Bench, order: TrialOrder) -> Finished | None:
    """The end of a trial that surely cannot fit; None if it is to be tried.

    One that goes on from an earlier attempt is always tried: it fitted once. So is one that
    adapts the last layers only: what is counted holds for backward passes through all of them.
    """
    if order.earlier or not bench.study.limits.predict_oom or order.config.last_n is not None:
        return None
    refusal = bench.memory.refusal(demand_of(bench, order))
    if refusal is None:
        return None
    fault = Fault(
        outcome=Outcome.OOM,
        reason=refusal.reason,
        needed_bytes=refusal.needed_bytes,
        capacity_bytes=bench.memory.capacity_bytes,
        predicted=True,
    )
    trainable = bench.base.trainable(order.config.lora_r, order.config.last_n)
    return Finished(
        number=order.number, stats=TrialStats(trainable_parameters=trainable), fault=fault
    )


def observation_of(
    bench: Bench, order: TrialOrder, *, error: Exception | None = None, peak_bytes: int = 0
) -> Observation | None:
    """What a trial that had the device alone has shown of the memory; None if nothing.

    Args:
        error: why it ended, unless it fitted from its longest batch to an evaluation.
    """
    if order.config.last_n is not None:  # others hold more, layer for layer
        return None
    demand, fitted = demand_of(bench, order), error is None
    if error is None:
        known = not order.earlier  # or else its longest batch was trained elsewhere
    else:
        known = is_out_of_memory(error) and bench.gauge.was_filled(requested_bytes(error))
        # with what earlier trials had left behind, a little more might have fitted
        more = demand.activation_bytes + round(bench.gauge.lost_bytes / BACKWARD)
        demand = Demand(activation_bytes=more, trainable=demand.trainable)
    if not known:
        return None
    capacity_bytes = bench.memory.capacity_bytes
    return Observation(
        demand=demand,
        base_bytes=bench.memory.footprint.base_bytes,
        capacity_bytes=capacity_bytes,
        fitted=fitted,
        peak_bytes=peak_bytes,
    )
