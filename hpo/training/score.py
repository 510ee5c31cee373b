"""How well a trained trial answers: its adapter, read back, generates for all validation rows."""

import json
import os
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file

from hpo.data import Example, read_examples
from hpo.errors import HpoError, MissingError
from hpo.protocol import ADAPTER, ANSWERS, Scored
from hpo.specs import TrialOrder
from hpo.training.base.adapter import Adapter
from hpo.training.memory.gauge import is_out_of_memory
from hpo.training.trial.export import named
from hpo.training.trial.trial import Bench, new_adapter

WEIGHTS = "adapter_model.safetensors"


def score(bench: Bench, order: TrialOrder) -> Scored:
    """Generates, writes the answers into the trial's folder, and scores them."""
    try:
        scores = _score(bench, order)
    except HpoError as error:
        return Scored(number=order.number, problem=str(error))
    except OSError as error:
        why = f"{error.filename or order.folder}: {error.strerror}"
        return Scored(number=order.number, problem=why)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return Scored(
            number=order.number,
            problem="its answers do not fit into the memory; close other programs on the device",
        )
    return Scored(number=order.number, samples=len(bench.val), scores=scores)


def _score(bench: Bench, order: TrialOrder) -> dict[str, float]:
    if not bench.task.generates:
        measured = ", ".join(bench.task.metrics)
        raise MissingError(
            f"study {bench.study.name} generates no texts to score: {measured} are measured at "
            "every evaluation already, and stand in each trial's metrics.csv"
        )
    scorer = bench.task.scorer()  # first: what it lacks is known before anything is generated
    answers = generate(bench, read_back(bench, order))
    examples = read_examples(bench.study.data).val
    _write(Path(order.folder) / ANSWERS, examples, answers)
    return scorer(examples, answers)


def read_back(bench: Bench, order: TrialOrder) -> Adapter:
    """The adapter that the trial has left in its folder.

    Raises:
        MissingError: it is not there, damaged, or of other layers or another rank.
    """
    path = Path(order.folder) / ADAPTER / WEIGHTS
    adapter = new_adapter(bench, order)
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise MissingError(f"{path}: cannot be read ({error}); train the trial anew") from error
    wanted = named(bench.base, adapter, adapter.flat)
    shapes = ({name: one.shape for name, one in tensors.items()} for tensors in (found, wanted))
    if len({str(sorted(shape.items())) for shape in shapes}) > 1:
        raise MissingError(
            f"{path}: is not the adapter of trial {order.number}: its layers or its rank are "
            "others; give the --runs-dir that the study was run with"
        )
    for own, name in zip(adapter.tensors(adapter.flat.detach()), wanted, strict=True):
        own.copy_(found[name])
    return adapter


def generate(bench: Bench, adapter: Adapter | None) -> list[str]:
    """An answer to every validation row; by the base alone where there is no adapter."""
    size, found = bench.study.trial.eval_batch_size, list[str]()
    for first in range(0, len(bench.val), size):
        rows = bench.val[first : first + size]
        with bench.base.attached([adapter] if adapter else [], [len(rows)], learns=False):
            found += bench.task.answers(rows)
    return found


def _write(path: Path, examples: tuple[Example, ...], answers: list[str]) -> None:
    """One JSON object a row, in the place of those of before: all of it or nothing."""
    scratch = path.with_suffix(".writing")
    with scratch.open("w", encoding="utf-8") as file:
        for example, answer in zip(examples, answers, strict=True):
            row = {
                "name": example.name,
                "prompt": example.prompt,
                "target": example.target,
                "answer": answer,
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
    os.replace(scratch, path)
