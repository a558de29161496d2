"""What the runs of a study inherit, seed by seed: trained baselines and banks, made when the first run needs them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from nas.bank.artifacts import ArtifactObserver, ArtifactStore, Baseline, Worker
from nas.bank.jobs import Candidate
from nas.bank.store import SwapBank
from nas.errors import STOPPED, BaselineNotTrained, OutOfMemory, SeedExcluded, StudyError
from nas.ranking.race import rules_of
from nas.search.schedule import Job
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.study.leases import LeaseLost
from nas.study.settings import PER_SEED
from nas.study.study import Study
from nas.training.scores import EpochScore
from nas.workers.parallel import DeviceLock

T = TypeVar("T")
_MAX_EXCLUDED = 3
"""Seeds whose baselines have not learnt, after which it is not bad luck and no other is tried."""
_PAUSE_S = 0.5


class Inheritance:
    """Makes what the runs of one worker inherit, and sees that all workers of a study inherit the same.

    A study whose seeds have a baseline each leaves out a further seed whose baseline diverges or does not learn: that
    says nothing of any variant, and the next seed will do.
    """

    def __init__(
        self, study: Study, weights: ArtifactStore, device_lock: DeviceLock, observer: ArtifactObserver
    ) -> None:
        """Prepare.

        Args:
            study: Whose runs they are.
            weights: Makes them, and finds what is made already.
            device_lock: Of the device that they are made on.
            observer: Told of everything.
        """
        self.study, self.weights, self.device_lock, self.observer = study, weights, device_lock, observer
        self.recipe, self.first = study.settings.recipe, study.settings.seed
        self.banks: dict[int, SwapBank] = {}
        self._seen: set[int] = set()

    def prepare(self) -> SearchSpace:
        """Make what the study's own seed inherits, and return the space without what could not be distilled.

        Raises:
            StudyError: It cannot be made.
        """
        space = self.study.settings.space
        if self.recipe.init in ("baseline", "bank"):
            self._keep(self.weights.baseline(self.recipe), self.first)
            self._seen.add(self.first)
        if self.recipe.init == "bank":
            bank = self.banks[self.first] = self.weights.bank(self.recipe, self.first)
            for failed in bank.failures:
                swap = f"{failed.candidate.slot}={failed.candidate.label}"
                self.observer.note(f"kept out of the search: {swap}: {failed.failure}")
            space = _without(space, bank)
            self.study.keep_bank(bank)
        return space

    def lacks(self, job: Job, variant: Variant) -> bool:
        """Whether something that a run inherits has not been made, or found, here yet."""
        if self.recipe.init not in ("bank", "baseline"):
            return False
        return (self.weights.per_seed and job.seed not in self._seen) or self._lacks_swaps(job, variant)

    def _lacks_swaps(self, job: Job, variant: Variant) -> bool:
        held = self.banks.get(job.seed)
        return self.recipe.init == "bank" and not (held.candidates.keys() if held else set()) >= set(variant.swaps)

    def bank_of(self, job: Job, variant: Variant) -> SwapBank | None:
        """Return the bank of a run's seed, distilling what it lacks; None where nothing is taken from one.

        A seed of a study with a bank is the bank's too, as in `nas.calibration.calibrator`: what distilling adds to the
        error belongs to it. So is the trained baseline, unless there is one for all.

        Raises:
            LeftOut: The seed has a baseline of its own, which has not learnt, and is left out from now on.
            StudyError: The bank, or the baseline, cannot be made.
        """
        if self.recipe.init not in ("bank", "baseline"):
            return None
        if self.weights.per_seed and job.seed not in self._seen:
            self._wait_for(job.seed)
            self._make_baseline(job.seed)
        if self.recipe.init != "bank" or not variant.swaps:
            return None
        if self._lacks_swaps(job, variant):
            wanted = [Candidate(*swap) for v in job.distil_with for swap in v.swaps]
            self.banks[job.seed] = self.make_parallel(
                lambda: self.weights.bank(self.recipe, job.seed, tuple(dict.fromkeys(wanted)) or None),
                f"the bank of seed {job.seed}",
            )
        return self.banks[job.seed]

    def make_parallel(self, make: Callable[[], T], what: str) -> T:
        """Make what variants inherit beside other trainings; what does not fit beside them is made alone."""
        try:
            with self.device_lock.shared() as company:
                return make()
        except OutOfMemory:
            if self.weights.stopped.is_set() or not company():
                raise
        self.observer.note(f"{what} does not fit beside other trainings; it is made again alone")
        with self.device_lock.exclusive():
            return make()

    def _wait_for(self, seed: int) -> None:
        """Wait for another worker that makes the baseline of a seed, making those of the next ones meanwhile."""
        rules = rules_of(self.study)
        asked = max(rules.screened, rules.confirm.seeds if rules.confirm.top else 1)
        ahead = [other for other in rules.seeds(asked) if other > seed]
        told, waited = False, False
        while self.weights.is_being_made(self.recipe, seed):
            if ahead:
                other = ahead.pop(0)
                if not self.weights.is_being_made(self.recipe, other):
                    with contextlib.suppress(StudyError):  # it is told when its turn comes
                        self._make_baseline(other)
            elif not told:
                told = True
                self.observer.note(f"another worker or search is making the baseline of seed {seed}; waiting for it")
            waited = True
            if self.weights.stopped.wait(_PAUSE_S):
                raise StudyError(STOPPED)
        if waited:  # whoever has failed to make it is about to say so
            self.weights.stopped.wait(_PAUSE_S)

    def _make_baseline(self, seed: int) -> None:
        """Make the baseline of a seed, and see that it is the one that the study knows.

        Raises:
            LeftOut: It has not learnt, and its seed is left out.
            StudyError: It cannot be made, or is another one; or several others have not learnt.
        """
        excluded = self.study.excluded_seeds
        if seed in excluded:  # by whom was waited for
            raise SeedExcluded(excluded[seed])
        if len(excluded) >= _MAX_EXCLUDED and not self.study.baseline_training_of(seed):
            raise StudyError(
                f"the baselines of {len(excluded)} seeds could not be used, so it is not bad luck; of seed "
                f"{max(excluded)}: {excluded[max(excluded)]}\nanother study with a longer --base-epochs, with trained "
                "--weights, or with --one-baseline would do; here `--seeds 1 --confirm 0` asks for no further seeds"
            )
        make = self.weights.teacher if seed != self.first else self.weights.baseline
        name = f"the baseline of seed {seed}"
        try:
            made = self.make_parallel(lambda: make(self.recipe, seed), name)
        except BaselineNotTrained as error:
            if seed == self.first:
                raise
            self._leave_out(seed, str(error))
            raise SeedExcluded(str(error)) from None
        except StudyError as error:
            if seed == self.first or self.weights.stopped.is_set():
                raise
            raise StudyError(
                f"{name}: {error}\nnothing can be trained under that seed before it can; "
                "`--seeds 1 --confirm 0` asks for no further ones"
            ) from None
        self._keep(made, seed)
        self._seen.add(seed)

    def _leave_out(self, seed: int, why: str) -> None:
        """Go on without a seed.

        Raises:
            StudyError: Others have been able to make its baseline.
        """

        def leave_out() -> None:
            if self.study.baseline_training_of(seed):
                raise StudyError(f"the baseline of seed {seed} was made elsewhere, and cannot be made here: {why}")
            self.study.leave_out(seed, why)

        known = seed in self.study.excluded_seeds  # by another one that waited for it too
        self._under_lock(leave_out)
        if not known:
            self.observer.note(f"seed {seed} is left out, and the next one takes its place: {why}")

    def _keep(self, baseline: Baseline, seed: int) -> None:
        """Keep the curve of the baseline that runs of a seed inherit from.

        Raises:
            LeftOut: Its seed has been left out by another worker.
            StudyError: It is another one than the study's: on another machine, say, where nothing was shared.
        """

        def keep() -> tuple[EpochScore, ...]:
            if why := self.study.excluded_seeds.get(seed):
                raise SeedExcluded(why)
            if not self.study.baseline_training_of(seed):
                self.study.keep_baseline_training(baseline.curve, seed)
            return self.study.baseline_training_of(seed)

        kept = self._under_lock(keep)  # others may be making theirs just now
        if _told(kept) != _told(baseline.curve):
            there = max((score.validation.map for score in kept if score.validation), default=0.0)
            raise StudyError(
                f"the baseline in {baseline.file} is not the one that the study {self.study.location.name!r} was begun "
                f"with (mAP50-95 {baseline.map:.4f}, not {there:.4f}), and variants that inherit from different ones "
                f"cannot be compared: copy {baseline.file.parent} from where it was begun, or share that folder"
            )

    def _under_lock(self, act: Callable[[], T]) -> T:
        """Do what may be done twice while no other worker of the study does, however often a server goes away."""
        while True:
            try:
                with self.study.leases.alone():
                    return act()
            except LeaseLost:
                if self.weights.stopped.wait(_PAUSE_S):
                    raise


def weights_of(study: Study, data: Path, worker: Worker, observer: ArtifactObserver, device: str = "") -> ArtifactStore:
    """Return what a study's proxies inherit from; `data` is a data.yaml that the host can read as it is."""
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


def _told(curve: tuple[EpochScore, ...]) -> list[object]:
    """Return what a curve says, without the time that it took."""
    return [(score.epoch, score.train_loss, score.validation) for score in curve]


def _without(space: SearchSpace, bank: SwapBank) -> SearchSpace:
    """Return the space without the swaps that the bank could not make, wherever their layer is swapped."""
    failed = {(c.candidate.slot, c.candidate.label) for c in bank.failures}
    barred = tuple(
        ((slot.key, label),)
        for slot in space.active
        for label in slot.choices[1:]
        if any((layer, label) in failed for layer in slot.layers)
    )
    return replace(space, forbid=space.forbid + barred)
