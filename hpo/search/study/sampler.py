"""TPE, seeded by trial number, with its random start-up gated on COMPLETE trials."""

from bisect import insort
from collections.abc import Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.samplers._tpe.sampler import (
    _get_infeasible_trial_score,
    _get_pruned_trial_score,
    default_gamma,
)
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

KNOWN = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.RUNNING)
Row = tuple[float, ...]
"""Parameters of a trial, as TPE represents them; empty where one is missing."""
Rank = tuple[float, ...]
"""The better a trial that has ended, the less."""


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
        self._begun = False
        """Whether enough trials are COMPLETE; they stay so."""
        self._tpe = _TPE()

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """The declared space once enough trials are COMPLETE, else nothing."""
        if not self._begun:
            complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
            self._begun = len(complete) >= max(1, self._startup_trials)
        return self._space if self._begun else {}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """All parameters jointly, by TPE."""
        if not search_space:
            return {}
        self._tpe.seed(_seed(self._seed, trial.number))
        return self._tpe.sample_relative(study, trial, search_space)

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
    """Optuna's, with what a fit needs of an ended trial worked out once. Of one study."""

    def __init__(self) -> None:
        super().__init__(n_startup_trials=0, multivariate=True, constant_liar=True)
        self._rows: dict[int, Row] = {}
        """Of the ended trials, by id."""
        self._ranking: list[tuple[Rank, int, int]] = []
        """Rank, number and id of each of them, best first."""

    def seed(self, seed: int) -> None:
        """What is drawn next is what a new sampler with this seed would draw."""
        self._rng.rng.seed(seed)

    def _sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The candidate that is likelier among the best trials than among the others."""
        trials = study.get_trials(deepcopy=False, states=KNOWN)
        self._learn(study, trials, search_space)
        count = default_gamma(len(self._ranking))  # a tenth, and 25 at most
        best = {trial_id for *_, trial_id in self._ranking[:count]}
        below = [t for t in trials if t._trial_id in best]
        apart = best | {trial._trial_id}
        above = [t for t in trials if t._trial_id not in apart]
        good = self._build_parzen_estimator(study, search_space, below, handle_below=True)
        bad = self._build_parzen_estimator(study, search_space, above, handle_below=False)
        candidates = good.sample(self._rng.rng, self._n_ei_candidates)
        gains = self._compute_acquisition_func(candidates, good, bad)
        chosen = self._compare(candidates, gains)
        return {name: d.to_external_repr(chosen[name]) for name, d in search_space.items()}

    def _learn(
        self, study: Study, trials: list[FrozenTrial], space: dict[str, BaseDistribution]
    ) -> None:
        """Takes in those that have ended since the last fit."""
        for trial in trials:
            if trial._trial_id not in self._rows and trial.state.is_finished():
                self._rows[trial._trial_id] = self._row(trial, space, study)
                insort(self._ranking, (_rank(study, trial), trial.number, trial._trial_id))

    def _get_internal_repr(
        self, trials: list[FrozenTrial], search_space: dict[str, BaseDistribution], study: Study
    ) -> dict[str, np.ndarray]:
        rows = (self._rows.get(t._trial_id) or self._row(t, search_space, study) for t in trials)
        found = [row for row in rows if row]
        columns = np.array(found, dtype=float).reshape(-1, len(search_space)).T
        return dict(zip(search_space, columns, strict=True))

    def _row(self, trial: FrozenTrial, space: dict[str, BaseDistribution], study: Study) -> Row:
        params = self._get_params(trial, study)
        there = space.keys() <= params.keys()
        return tuple(d.to_internal_repr(params[name]) for name, d in space.items() if there)


def _rank(study: Study, trial: FrozenTrial) -> Rank:
    """COMPLETE trials by value, then PRUNED ones by how far they got, then infeasible ones."""
    violation = _get_infeasible_trial_score(trial)
    if violation > 0:
        return 2, violation
    if trial.state == TrialState.PRUNED:
        return 1, *_get_pruned_trial_score(trial, study)
    assert trial.value is not None
    return 0, trial.value if study.direction == StudyDirection.MINIMIZE else -trial.value


def _seed(study_seed: int, number: int) -> int:
    """32 bits for one trial of one study seed."""
    return int(np.random.SeedSequence([study_seed, number]).generate_state(1)[0])
