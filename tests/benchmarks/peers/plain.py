"""One trial in a process of its own, as a training script of transformers and PEFT does it.

`python -m tests.benchmarks.peers.plain JOB.json NUMBER RESULTS.json`
"""

import sys

import torch
from transformers import get_scheduler

from tests.benchmarks.peers.common import (
    SCHEDULES,
    Rows,
    adapted,
    collate,
    count_targets,
    load_base,
    load_processor,
    read_job,
    write_results,
)


def train(job, trial):
    """Trains to the end; steps, val losses of the grid, rows evaluated."""
    processor = load_processor(job)
    rows, val = (Rows(job[side], processor, job["max_length"]) for side in ("train", "val"))
    config = trial["config"]
    plan = trial["plans"][str(config["batch_size"])]
    model = adapted(load_base(job), job, config, trial["seed"])
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=config["learning_rate"], weight_decay=job["weight_decay"]
    )
    schedule = get_scheduler(
        SCHEDULES[config["scheduler"]], optimizer, plan["warmup"], len(plan["batches"])
    )
    losses, evaluated = [], 0
    for step, batch in enumerate(plan["batches"], 1):
        loss = model(**send(collate([rows[i] for i in batch]), model)).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, job["max_grad_norm"])
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % plan["eval_steps"] == 0:
            losses.append(evaluate(model, val, job["eval_batch_size"]))
            evaluated += len(val)
    return {"steps": step, "losses": losses, "rows": evaluated}


def send(batch, model):
    """The batch where the model is."""
    return {name: values.to(model.device) for name, values in batch.items()}


@torch.no_grad()
def evaluate(model, val, batch_size):
    """Mean loss per target token."""
    model.eval()
    total, tokens = 0.0, 0
    for first in range(0, len(val), batch_size):
        batch = collate([val[i] for i in range(first, min(first + batch_size, len(val)))])
        count = count_targets(batch)
        total += model(**send(batch, model)).loss.item() * count
        tokens += count
    model.train()
    return total / tokens


if __name__ == "__main__":
    path, number, out = sys.argv[1:]
    job = read_job(path)
    write_results(out, {number: train(job, job["trials"][int(number)])})
