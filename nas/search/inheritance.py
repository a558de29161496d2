"""Inherited weights of a study's runs: a trained baseline and a bank per seed, made when the first run needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nas.bank.artifacts import ArtifactObserver, ArtifactStore, Baseline, Worker
from nas.bank.jobs import Candidate
from nas.bank.store import SwapBank
from nas.data.assigned import assigned_words
from nas.errors import (
    STOPPED,
    ArtifactError,
    BaselineNotTrained,
    LockError,
    NasError,
    OutOfMemory,
    SeedExcluded,
)
from nas.ranking.race import rules_of
from nas.search.schedule import Job
from nas.solver.facts import STORED
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.study.leases import LeaseLost
from nas.study.settings import PER_SEED
from nas.study.study import Study
from nas.training.scores import EpochScore
from nas.workers.parallel import DeviceLock
from nas.yardstick.store import pruned_weights

_T = TypeVar("_T")
_MAX_EXCLUDED = 3
"""Number of excluded seeds after which the search fails: so many bad baselines are not chance."""
_PAUSE_S = 0.5


class Inheritance:
    """Prepares the weights that the runs of one worker inherit, and ensures that all workers of a study use the same.

    If each seed has its own baseline, a further seed whose baseline diverges or does not learn is excluded: that tells
    nothing about any variant, and the next seed can replace it.
    """

    def __init__(
        self, study: Study, weights: ArtifactStore, device_lock: DeviceLock, observer: ArtifactObserver
    ) -> None:
        """Prepare.

        Args:
            study: The study.
            weights: Makes the weights, or finds those that exist.
            device_lock: Lock of the device on which they are made.
            observer: Called on progress.
        """
        self.study, self.weights, self.device_lock, self.observer = study, weights, device_lock, observer
        self.recipe, self.first = study.settings.recipe, study.settings.seed
        self.banks: dict[int, SwapBank] = {}
        self._seen: set[int] = set()

    def prepare(self) -> SearchSpace:
        """Make the weights of the study's first seed, and return the space without swaps that could not be distilled.

        Raises:
            ArtifactError: They cannot be made, or are not those of the study.
        """
        space = self.study.settings.space
        if self.recipe.init in ("baseline", "bank"):
            self.make_first_baseline()
        if self.recipe.init == "bank":
            bank = self.banks[self.first] = self.weights.bank(self.recipe, self.first)
            for failed in bank.failures:
                swap = f"{failed.candidate.slot}={failed.candidate.label}"
                self.observer.note(f"kept out of the search: {swap}: {failed.failure}")
            space = _without(space, bank)
            if bank.levels and "levels" not in self.study.bank:
                self.observer.note(f"the baseline is trained: {assigned_words(bank.levels)}")
            kept = {key: facts for key, facts in self.study.bank.items() if key == STORED}
            self.study.store_bank(bank, **kept)
        return space

    def make_first_baseline(self) -> None:
        """Make the baseline of the study's first seed, unless it is there.

        Raises:
            ArtifactError: It cannot be made, or is not that of the study.
        """
        made = self.make_parallel(lambda: self.weights.baseline(self.recipe), "the baseline")
        self._keep(made, self.first)
        self._seen.add(self.first)

    def lacks(self, job: Job, variant: Variant) -> bool:
        """Return whether this worker has yet to make or find weights that a run inherits."""
        if self.recipe.init not in ("bank", "baseline"):
            return False
        return (self.weights.per_seed and job.seed not in self._seen) or self._lacks_swaps(job, variant)

    def _lacks_swaps(self, job: Job, variant: Variant) -> bool:
        held = self.banks.get(job.seed)
        return self.recipe.init == "bank" and not (held.candidates.keys() if held else set()) >= set(variant.swaps)

    def bank_of(self, job: Job, variant: Variant) -> SwapBank | None:
        """Return the bank of a run's seed after distilling missing swaps; None if the run takes nothing from a bank.

        The seed of a run is also that of its bank, as in `nas.calibration.calibrator`, so that the variance of
        distillation is part of the error. It is also that of its trained baseline, unless one is shared.

        Raises:
            SeedExcluded: The seed has its own baseline, which has not learnt; the seed is excluded from now on.
            ArtifactError: The bank or the baseline cannot be made.
        """
        if self.recipe.init not in ("bank", "baseline"):
            return None
        if self.weights.per_seed and job.seed not in self._seen:
            self._wait_for(job.seed)
            self.make_baseline(job.seed)
        if self.recipe.init != "bank" or not variant.swaps:
            return None
        if self._lacks_swaps(job, variant):
            wanted = [Candidate(*swap) for v in job.distil_with for swap in v.swaps]
            self.banks[job.seed] = self.make_parallel(
                lambda: self.weights.bank(self.recipe, job.seed, tuple(dict.fromkeys(wanted)) or None),
                f"the bank of seed {job.seed}",
            )
        return self.banks[job.seed]

    def pruned(self, yardstick: Variant, seed: int) -> tuple[str, ...]:
        """Return the file of a yardstick's initial weights, after pruning the baseline of the seed if it is missing.

        Nothing is pruned where nothing is inherited.

        Raises:
            SeedExcluded, ArtifactError: As `bank_of`; or the pruning fails.
        """
        self.bank_of(Job({}, seed), Variant(yardstick.base, yardstick.scale))  # makes the baseline of the seed
        if self.recipe.init == "scratch":
            return ()
        made = self.make_parallel(
            lambda: pruned_weights(self.weights, yardstick, self.recipe, seed), f"the yardstick of seed {seed}"
        )
        return (str(made),)

    def make_parallel(self, make: Callable[[], _T], what: str) -> _T:
        """Make weights in parallel with other trainings; after an out-of-memory error, make them again alone."""
        try:
            with self.device_lock.shared() as company:
                return make()
        except OutOfMemory:
            if self.weights.stopped.is_set() or not company():
                raise
        self.observer.note(f"{what}: out of memory in parallel with other trainings; it is made again alone")
        with self.device_lock.exclusive():
            return make()

    def _wait_for(self, seed: int) -> None:
        """Wait while another worker makes the baseline of a seed; meanwhile make those of the next seeds."""
        rules = rules_of(self.study)
        count = max(rules.screened, rules.confirm.seeds if rules.confirm.top else 1)
        ahead = [other for other in rules.seeds(count) if other > seed]
        noted, waited = False, False
        while self.weights.is_being_made(self.recipe, seed):
            if ahead:
                other = ahead.pop(0)
                if not self.weights.is_being_made(self.recipe, other):
                    with contextlib.suppress(NasError):  # it is reported when its turn comes
                        self.make_baseline(other)
            elif not noted:
                noted = True
                self.observer.note(f"another worker or search is making the baseline of seed {seed}; waiting for it")
            waited = True
            if self.weights.stopped.wait(_PAUSE_S):
                raise LockError(STOPPED)
        if waited:  # if the other worker failed, it is about to exclude the seed
            self.weights.stopped.wait(_PAUSE_S)

    def make_baseline(self, seed: int) -> None:
        """Make the baseline of a seed, and check that it is the one of the study.

        Raises:
            SeedExcluded: It has not learnt, and its seed is excluded.
            ArtifactError: It cannot be made, or is not that of the study; or several others have not learnt.
        """
        excluded = self.study.excluded_seeds
        if seed in excluded:  # by the worker that this one waited for
            raise SeedExcluded(excluded[seed])
        if len(excluded) >= _MAX_EXCLUDED and not self.study.baseline_training_of(seed):
            raise ArtifactError(
                f"the baselines of {len(excluded)} seeds could not be used, which is not chance; of seed "
                f"{max(excluded)}: {excluded[max(excluded)]}\ncreate another study with a longer --base-epochs, with "
                "trained --weights or with --one-baseline; this one can finish without further seeds: "
                "`--seeds 1 --confirm 0`"
            )
        make = self.weights.teacher if seed != self.first else self.weights.baseline
        name = f"the baseline of seed {seed}"
        try:
            made = self.make_parallel(lambda: make(self.recipe, seed), name)
        except BaselineNotTrained as error:
            if seed == self.first:
                raise
            self._exclude(seed, str(error))
            raise SeedExcluded(str(error)) from None
        except ArtifactError as error:
            if seed == self.first or self.weights.stopped.is_set():
                raise
            raise ArtifactError(
                f"{name}: {error}\nwithout it nothing can be trained under that seed; "
                "`--seeds 1 --confirm 0` needs no further seeds"
            ) from None
        self._keep(made, seed)
        self._seen.add(seed)

    def _exclude(self, seed: int, why: str) -> None:
        """Exclude a seed from the study.

        Raises:
            ArtifactError: Another worker has made its baseline.
        """

        def exclude() -> None:
            if self.study.baseline_training_of(seed):
                raise ArtifactError(f"the baseline of seed {seed} was made elsewhere, and cannot be made here: {why}")
            self.study.exclude_seed(seed, why)

        known = seed in self.study.excluded_seeds  # excluded by another worker, which waited for it too
        self._under_lock(exclude)
        if not known:
            self.observer.note(f"seed {seed} is left out, and the next one takes its place: {why}")

    def _keep(self, baseline: Baseline, seed: int) -> None:
        """Store the curve of the baseline whose weights runs of a seed inherit, or compare it with the stored one.

        Raises:
            SeedExcluded: Another worker has excluded the seed.
            ArtifactError: It is not the baseline of the study, as on another machine that does not share its weights.
        """

        def keep() -> tuple[EpochScore, ...]:
            if why := self.study.excluded_seeds.get(seed):
                raise SeedExcluded(why)
            if not self.study.baseline_training_of(seed):
                self.study.store_baseline_training(baseline.curve, seed)
            return self.study.baseline_training_of(seed)

        kept = self._under_lock(keep)  # other workers may be making theirs at the same time
        if _without_time(kept) != _without_time(baseline.curve):
            there = max((score.validation.map for score in kept if score.validation), default=0.0)
            raise ArtifactError(
                f"the baseline in {baseline.file} is not that of the study {self.study.location.name!r} "
                f"(mAP50-95 {baseline.map:.4f}, not {there:.4f}), and variants that inherit from different ones cannot "
                f"be compared: copy {baseline.file.parent} from where the study was created, or share that folder"
            )

    def _under_lock(self, act: Callable[[], _T]) -> _T:
        """Run an idempotent action under the study's claim lock, retrying when the connection is lost."""
        while True:
            try:
                with self.study.leases.claim_lock():
                    return act()
            except LeaseLost:
                if self.weights.stopped.wait(_PAUSE_S):
                    raise


def weights_of(study: Study, data: Path, worker: Worker, observer: ArtifactObserver, device: str = "") -> ArtifactStore:
    """Return the store of what a study's proxies inherit; `data` is a data.yaml that Ultralytics can read."""
    s = study.settings
    return ArtifactStore(
        folder=study.location.weights,
        space=s.space,
        data=data,
        fingerprint=s.fingerprint,
        versions=s.versions,
        seed=s.seed,
        worker=worker,
        observer=observer,
        scratch=study.scratch,
        device=device,
        per_seed=s.baselines == PER_SEED,
    )


def _without_time(curve: tuple[EpochScore, ...]) -> list[object]:
    """Return a curve without the seconds of its epochs, which differ between equal trainings."""
    return [(score.epoch, score.train_loss, score.validation) for score in curve]


def _without(space: SearchSpace, bank: SwapBank) -> SearchSpace:
    """Return the space without the swaps that failed in the bank, also where they are tied to other layers."""
    failed = {(c.candidate.slot, c.candidate.label) for c in bank.failures}
    barred = tuple(
        ((slot.key, label),)
        for slot in space.active
        for label in slot.choices[1:]
        if any((layer, label) in failed for layer in slot.layers)
    )
    return replace(space, forbid=space.forbid + barred)
