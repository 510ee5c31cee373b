"""TPE, seeded by trial number, with its random start-up gated on COMPLETE trials."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState


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
        tpe = TPESampler(
            n_startup_trials=0,
            multivariate=True,
            constant_liar=True,
            seed=_seed(self._seed, trial.number),
        )
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


def _seed(study_seed: int, number: int) -> int:
    """32 bits for one trial of one study seed."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])


def median_pruner(
    *, startup_trials: int, min_trials: int, warmup_steps: int
) -> optuna.pruners.BasePruner:
    """Optuna's median pruner; steps are samples seen (Golovin et al. 2017)."""
    return optuna.pruners.MedianPruner(
        n_startup_trials=startup_trials, n_warmup_steps=warmup_steps, n_min_trials=min_trials
    )
