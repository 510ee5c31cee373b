"""`transformers.Trainer.hyperparameter_search(backend="optuna")`.

`python -m tests.benchmarks.peers.search JOB.json TRIALS N_JOBS STORAGE RESULTS.json`, where STORAGE
is `memory` or a journal file that several processes share. Trials are those of a fixed list, to
their ends, where the job has configurations; else sampled and pruned as is its default.
"""

import copy
import sys

import optuna
import torch
import transformers
from optuna.storages import InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from transformers import Trainer, TrainingArguments

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

STUDY = "peer"


def open_journal(path):
    """The storage that several processes share."""
    return JournalStorage(JournalFileBackend(str(path)))


def enqueue(storage, configs):
    """Makes the study, with the fixed list of configurations to be tried in order."""
    study = optuna.create_study(storage=storage, study_name=STUDY, direction="minimize")
    for config in configs:
        study.enqueue_trial(config)


def suggest(trial, space):
    """A configuration from the search space."""
    return {name: suggest_one(trial, name, param) for name, param in space.items()}


def suggest_one(trial, name, param):
    """One parameter; enqueued trials give their own value."""
    if param["type"] == "categorical":
        return trial.suggest_categorical(name, param["choices"])
    return trial.suggest_float(name, param["low"], param["high"], log=param["log"])


def lowest(space):
    """A configuration without a trial."""
    return {
        n: p["choices"][0] if p["type"] == "categorical" else p["low"] for n, p in space.items()
    }


class JobTrainer(Trainer):
    """A Trainer that takes batches in the order of the job and weighs val loss by tokens."""

    def __init__(self, job):
        processor = load_processor(job)
        train, val = (Rows(job[side], processor, job["max_length"]) for side in ("train", "val"))
        self.job, self.trial_number, self.results = job, 0, {}
        self.config = lowest(job["space"])
        self._base = load_base(job)
        self._total, self._tokens, self._rows = 0.0, 0, 0
        super().__init__(
            model_init=self.start_trial,
            args=arguments(job),
            data_collator=collate,
            train_dataset=train,
            eval_dataset=val,
        )

    def start_trial(self, trial):
        """A fresh adapter on a copy of the base; without a trial, any."""
        if trial is not None:  # it comes before `hp_space`, which is told the same again
            self.trial_number, self.config = trial.number, suggest(trial, self.job["space"])
        seed = self.job["trials"][self.trial_number]["seed"]
        return adapted(copy.deepcopy(self._base), self.job, self.config, seed)

    def hp_space(self, trial):
        """What of a trial are training arguments."""
        config = suggest(trial, self.job["space"])
        fixed = self.job["trials"][trial.number]["config"]
        assert fixed in (None, config), "the trial is not the one that was enqueued"
        plan = self.plan(trial.number)
        return {
            "learning_rate": config["learning_rate"],
            "per_device_train_batch_size": config["batch_size"],
            "lr_scheduler_type": SCHEDULES[config["scheduler"]],
            "warmup_steps": plan["warmup"],
            "eval_steps": plan["eval_steps"],
        }

    def plan(self, number):
        """Batches of the trial, for the batch size that it has."""
        return self.job["trials"][number]["plans"][str(self.config["batch_size"])]

    def get_train_dataloader(self):
        """The batches of the trial; every epoch goes on where the last one ended."""
        batches = self.plan(self.trial_number)["batches"]
        sampler = Epochs(batches, int(self.args.num_train_epochs))
        return torch.utils.data.DataLoader(
            self.train_dataset, batch_sampler=sampler, collate_fn=collate
        )

    def prediction_step(self, model, inputs, *others, **named):
        """Adds the batch to the sums of val loss: the stock figure is a mean over batches."""
        count = count_targets(inputs)
        loss, *rest = super().prediction_step(model, inputs, *others, **named)
        self._total += loss.item() * count
        self._tokens += count
        self._rows += len(inputs["labels"])
        return loss, *rest

    def val_loss(self, metrics):
        """Mean loss per target token of the evaluation that has just ended."""
        result = self.results.setdefault(str(self.trial_number), {"losses": [], "rows": 0})
        result["losses"].append(self._total / self._tokens)
        result["rows"] += self._rows
        result["steps"] = self.state.global_step
        self._total, self._tokens, self._rows = 0.0, 0, 0
        return result["losses"][-1]


class Epochs:
    """Batches of all epochs, handed out epoch by epoch."""

    def __init__(self, batches, epochs):
        self._rest, self._length = iter(batches), len(batches) // epochs

    def __len__(self):
        return self._length

    def __iter__(self):
        return (next(self._rest) for _ in range(self._length))


def arguments(job):
    """Nothing that costs time without being asked for: no checkpoints, logs or bars."""
    return TrainingArguments(
        output_dir=job["folder"],
        use_cpu=job["device"] == "cpu",
        num_train_epochs=job["epochs"],
        per_device_eval_batch_size=job["eval_batch_size"],
        max_grad_norm=job["max_grad_norm"],
        weight_decay=job["weight_decay"],
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )


def search(job, trials, n_jobs, storage):
    """Trains that many trials; what came out, and when the first began and the last ended."""
    shared = storage != "memory"
    store = open_journal(storage) if shared else InMemoryStorage()
    configs = [trial["config"] for trial in job["trials"] if trial["config"]]
    if configs and not shared:
        enqueue(store, configs)
    never = {"pruner": optuna.pruners.NopPruner()}
    own = never if configs else {"sampler": optuna.samplers.TPESampler(seed=job["seed"])}
    trainer = JobTrainer(job)
    trainer.hyperparameter_search(
        hp_space=trainer.hp_space,
        compute_objective=trainer.val_loss,
        n_trials=trials,
        n_jobs=n_jobs,
        backend="optuna",
        direction="minimize",
        storage=store,
        study_name=STUDY,
        load_if_exists=True,
        **own,
    )
    frozen = optuna.load_study(study_name=STUDY, storage=store).get_trials(deepcopy=False)
    done = [trial for trial in frozen if trial.datetime_complete is not None]
    return {
        "trials": trainer.results,
        "began": min(trial.datetime_start for trial in done).timestamp(),
        "ended": max(trial.datetime_complete for trial in done).timestamp(),
        "ends": {
            t.number: {
                "state": t.state.name,
                "at": t.datetime_complete.timestamp(),
                "params": t.params,
            }
            for t in done
        },
    }


if __name__ == "__main__":
    path, trials, n_jobs, storage, out = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    transformers.logging.set_verbosity_error()
    job = read_job(path)
    write_results(out, search(job, int(trials), int(n_jobs), storage))
