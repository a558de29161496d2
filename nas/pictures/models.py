"""The two models that are compared: weights of a baseline and of a winner that were made in the same way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from nas.files import from_plain
from nas.full.ranking import groups_of, rank_full
from nas.full.run import FullRun
from nas.study.study import Study
from nas.study.trial import Trial


@dataclass(frozen=True)
class Pair:
    """Two models, as checkpoints that name no class of this tool.

    Attributes:
        base: The checkpoint of the baseline.
        other: The checkpoint of the winner.
        title: The winner's swaps in words.
        imgsz: Image side in pixels.
        origin: How both were made, in words.
    """

    base: bytes
    other: bytes
    title: str
    imgsz: int
    origin: str


def find_pair(study: Study, runs: Sequence[FullRun], winner: Trial | None) -> Pair | None:
    """Return the baseline and the winner with the best weights that are here; None without any.

    Weights of full trainings come first: those of the baseline and of the first variant of a ranking under a common
    seed. Otherwise the winner is assembled from the study's bank, on the trained baseline.

    Args:
        study: The study.
        runs: Its full trainings.
        winner: The trial that it recommends; None without a ranking.

    Raises:
        NasError: The weights are damaged or of another model, or own modules cannot be used.
    """
    trained = _trained(study, runs)
    if trained is not None:
        return _of_trainings(study, *trained)
    if winner is not None and not winner.variant.is_baseline and winner.yaml and has_bank(study):
        return _of_bank(study, winner)
    return None


def _trained(study: Study, runs: Sequence[FullRun]) -> tuple[FullRun, FullRun] | None:
    """Return the trainings of a baseline and of a winner under one seed whose weights are here; the newest first."""
    for group in groups_of(runs).values():
        rows = rank_full(group, study.settings.floor, by_map=study.settings.objective == "map")
        base = {run.seed: run for row in rows if row.run.kind == "baseline" for run in row.runs}
        variants = [row for row in rows if row.run.kind == "variant"]
        for row in sorted(variants, key=lambda row: row.below_floor):
            for run in row.runs:
                if run.seed in base and weights_of(study, run) and weights_of(study, base[run.seed]):
                    return base[run.seed], run
    return None


def weights_of(study: Study, run: FullRun) -> Path | None:
    """Return the file of a training's best weights, where it was written or below the study's folder; None if gone."""
    if not run.weights:
        return None
    written = Path(run.weights)
    moved = study.location.folder / "runs" / Path(run.folder).name / "weights" / written.name
    return next((path for path in (written, moved) if path.is_absolute() and path.is_file()), None)


def _of_trainings(study: Study, base: FullRun, other: FullRun) -> Pair:
    from nas.full.handover import model_of
    from nas.full.start import trained_checkpoint
    from nas.own import use_stored

    use_stored(study.settings.space.modules, study.shown)
    made = []
    for run in (base, other):
        file = weights_of(study, run)
        assert file, "the caller has looked"
        made.append(trained_checkpoint(model_of(run), file).content)
    origin = f"Weights of full training, best.pt of seed {other.seed}: {other.settings}."
    return Pair(made[0], made[1], other.title, other.imgsz, origin)


def has_bank(study: Study) -> bool:
    """Return whether the bank of the study's first seed, and the baseline that it was distilled from, are here."""
    stored = study.bank.get("folder")
    if not stored or study.settings.recipe.init != "bank" or study.settings.table:
        return False
    folder = Path(from_plain(str, stored, "folder"))
    places = (folder, study.location.weights / folder.name)
    if not any((place / "bank.json").is_file() for place in places):
        return False
    from nas.errors import StudyError
    from nas.full.start import baseline_file

    try:
        return baseline_file(study).is_file()
    except StudyError:
        return False


def _of_bank(study: Study, winner: Trial) -> Pair:
    from nas.full.models import baseline_model, model_of_trial
    from nas.full.start import bank_checkpoint
    from nas.own import use_stored

    use_stored(study.settings.space.modules, study.shown)
    recipe = study.settings.recipe
    base, other = (bank_checkpoint(study, model).content for model in (baseline_model(study), model_of_trial(winner)))
    origin = (
        "The trained baseline of the study, and the winner as it is assembled from the bank, before it is trained: "
        "`nas train` makes weights that show more."
    )
    return Pair(base, other, winner.describe(), recipe.windows_at or recipe.imgsz, origin)
