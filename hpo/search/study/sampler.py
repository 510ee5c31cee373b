"""TPE, seeded by trial number, with its random start-up gated on COMPLETE trials."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

Rows = dict[int, tuple[float, ...]]
"""Parameters of ended trials by id, as TPE represents them; empty where one is missing."""


class GatedTPESampler(BaseSampler):
    """Multivariate TPE with constant liar (Bergstra et al. 2011; Watanabe 2023, arXiv:2304.11127).

    Optuna's own start-up counts PRUNED trials too: ten OOMs would use it up and teach nothing.
    Seeds come from study seed and trial number, so that two workers never draw the same, and a
    resumed study goes on instead of repeating itself. The search space is the declared one, not
    the intersection of past trials.
    """

    def __init__(
        self, space: dict[str, BaseDistribution], *, seed: int, startup_trials: int
    ) -> None:
        self._space = {name: d for name, d in space.items() if not d.single()}
        self._seed = seed
        self._startup_trials = startup_trials
        self._independent: tuple[int, RandomSampler] | None = None
        self._rows: Rows = {}

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The declared space once enough trials are COMPLETE, else nothing."""
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        return self._space if len(complete) >= max(1, self._startup_trials) else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All parameters jointly, by TPE."""
        if not search_space:
            return {}
        tpe = _TPE(_seed(self._seed, trial.number), self._rows)
        return tpe.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """One parameter at random: during start-up, and where a known configuration leaves one."""
        if self._independent is None or self._independent[0] != trial.number:
            sampler = RandomSampler(seed=_seed(self._seed, trial.number))
            self._independent = trial.number, sampler
        return self._independent[1].sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Nothing: constraints are set by the ledger."""


class _TPE(TPESampler):
    """Optuna's, with the parameters of an ended trial represented once, not for every fit."""

    def __init__(self, seed: int, rows: Rows) -> None:
        super().__init__(n_startup_trials=0, multivariate=True, constant_liar=True, seed=seed)
        self._rows = rows

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sample(study, trial, search_space)  # the start-up is over

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        found = [row for trial in trials if (row := self._row(trial, search_space, study))]
        columns = np.array(found, dtype=float).reshape(-1, len(search_space)).T
        return dict(zip(search_space, columns, strict=True))

    def _row(
        self, trial: FrozenTrial, space: dict[str, BaseDistribution], study: Study
    ) -> tuple[float, ...]:
        row = self._rows.get(trial._trial_id)
        if row is None:
            params = self._get_params(trial, study)
            there = space.keys() <= params.keys()
            row = tuple(d.to_internal_repr(params[name]) for name, d in space.items() if there)
            if trial.state.is_finished():
                self._rows[trial._trial_id] = row
        return row


def _seed(study_seed: int, number: int) -> int:
    """32 bits for one trial of one study seed."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])
