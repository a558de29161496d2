"""From the options of ``nas search`` to a study that can run: a new one, or an old one that takes no other settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from nas import demo
from nas import search as searching
from nas.data import Dataset, load, write_resolved
from nas.errors import DataError, StudyError
from nas.proxy import ProxyWorker, Recipe, digest_of, make_recipe
from nas.space import SearchSpace
from nas.space_file import load_space
from nas.storage import StudyPlace, place
from nas.study import Settings, Study, current_versions

_DEMO_SPACE = "quick"
_DEMO_RECIPE = (3, 128, 8, 16)  # epochs, pixels, images a step, epochs of the baseline: minutes on two cores
_MOST_TRIALS = 40
_RECIPE_OPTIONS = ("epochs", "imgsz", "batch", "init", "base_epochs", "device")


@dataclass(frozen=True)
class Session:
    """A study with its dataset at hand, and how many trials are asked for now.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        trials: What was asked for; None finishes what was asked for before.
        cache: Where training processes may write.
    """

    study: Study
    dataset: Dataset
    trials: int | None
    cache: Path

    @classmethod
    def open(cls, cache: Path, **options: Any) -> Session:
        """Make or resume a study; see ``nas search --help`` for the options, None for what was not given.

        Raises:
            NasError: Anything about the space, the dataset or the storage is wrong, or the study has other settings.
        """
        space = options["space"]
        name = options["study"] or (Path(space).stem if space else _DEMO_SPACE)
        try:
            where = place(name, options["storage"])
        except StudyError as error:
            raise StudyError(f"{error}; --study names it" if not options["study"] else str(error)) from None
        if not Study.exists(where):
            if options["study"] and not space:
                raise StudyError(
                    f"no study {name!r} in {where.file} to resume; "
                    f"name a SPACE to begin it: nas search seeds --study {name}"
                )
            return cls._begin(cache, where, options)
        study = Study.load(where, write=True)
        wanted, dataset = _wanted(study, options)
        differences = study.settings.differences(wanted)
        if differences and study.is_barren:  # a first attempt that could not work must not block the name
            with study.locked():
                study.discard()
            return cls._begin(cache, where, {**options, "space": space or study.settings.space.name})
        if differences:
            raise StudyError(
                f"the study {name!r} was made with other settings, and scores under different ones cannot be ranked "
                "together:\n  " + "\n  ".join(differences) + "\ngive another --study NAME to begin a new one"
            )
        study.settings = wanted  # the data and the weights to inherit from may have moved
        return cls(study, dataset, options["trials"], cache)

    @classmethod
    def _begin(cls, cache: Path, where: StudyPlace, options: dict[str, Any]) -> Session:
        space = _limited(load_space(options["space"] or _DEMO_SPACE), options)
        dataset = _dataset(options["data"])
        settings = Settings(
            space=space,
            recipe=_recipe(options),
            data=str(Path(options["data"]).resolve()) if options["data"] else "",
            fingerprint=dataset.fingerprint,
            classes=dataset.names,
            images=(len(dataset.train), len(dataset.val)),
            seed=options["seed"] or 0,
            floor=options["floor"] if options["floor"] is not None else 0.02,
            versions=current_versions(),
        )
        every = 1 + len(space.single_swaps())
        trials = options["trials"] or (min(every, _MOST_TRIALS) if options["data"] else every + 1)
        return cls(Study.create(where, settings, trials), dataset, None, cache)

    def run(self, observer: searching.Observer) -> None:
        """Run the trials that are asked for."""
        todo = searching.plan(self.study, self.trials)
        name = self.study.place.name
        if todo.spent >= todo.target:
            return observer.note(
                f"the study {name} has all {todo.spent} trials that were asked for; --trials N runs N more"
            )
        if todo.finishing and todo.spent:
            observer.note(f"study {name}: {todo.spent} of {todo.target} trials are done; finishing what was asked for")
        elif todo.spent:
            observer.note(f"study {name}: {todo.spent} trials are done; {todo.target - todo.spent} more")
        else:
            s = self.study.settings
            observer.note(
                f"study {name} ({self.study.place.file}): {todo.target} trials of {s.space.size} variants of "
                f"{s.space.base}{s.space.scale} on {s.data or 'the demo data'} "
                f"({s.images[0]} training, {s.images[1]} validation images, {len(s.classes)} classes)"
            )
        data = write_resolved(self.dataset, self.study.place.folder)
        with ProxyWorker(self.cache) as worker:
            searching.search(self.study, todo, data, worker, observer)
        return None


def _wanted(study: Study, options: dict[str, Any]) -> tuple[Settings, Dataset]:
    """Return a study's settings with what the options change of them, and its dataset."""
    kept = study.settings
    data = options["data"] or kept.data or None
    try:
        dataset = _dataset(data)
    except DataError as error:
        raise DataError(
            f"{error}\nthe study {study.place.name!r} was made on {data}; if it moved, give --data"
        ) from None
    wanted = replace(
        kept,
        space=_limited(load_space(options["space"]) if options["space"] else kept.space, options),
        recipe=_changed(kept.recipe, options),
        data=str(Path(data).resolve()) if data else "",
        fingerprint=dataset.fingerprint,
        seed=kept.seed if options["seed"] is None else options["seed"],
        floor=kept.floor if options["floor"] is None else options["floor"],
        versions=current_versions(),
    )
    return wanted, dataset


def _limited(space: SearchSpace, options: dict[str, Any]) -> SearchSpace:
    """Return the space with what the options change of it."""
    if options["scale"]:
        space = space.with_scale(options["scale"])
    return space.enable(options["enable"]).with_limits(
        max_gflops=options["max_gflops"], max_params=options["max_params"]
    )


def _dataset(path: str | None) -> Dataset:
    """Return the checked dataset; the demo data without a path."""
    return load(path if path else demo.demo_dataset())


def _recipe(options: dict[str, Any]) -> Recipe:
    """Return the recipe of a new study."""
    epochs, imgsz, batch, base_epochs = (8, 160, 16, None) if options["data"] else _DEMO_RECIPE
    init = options["init"] or "baseline"
    return make_recipe(
        init=_init(init),
        epochs=options["epochs"] or epochs,
        imgsz=options["imgsz"] or imgsz,
        batch=options["batch"] or batch,
        base_epochs=options["base_epochs"] or base_epochs,
        device=options["device"],
    )


def _changed(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """Return the recipe with what the options give, and the digest of the file to inherit from as it is now."""
    given = {key: options[key] for key in _RECIPE_OPTIONS if options[key] is not None}
    given["init"] = _init(given.get("init", recipe.init))
    return replace(recipe, **given, init_digest=digest_of(given["init"]))


def _init(text: str) -> str:
    """Return ``baseline``, ``scratch``, or the absolute path of a file that exists.

    Raises:
        StudyError: It is none of these.
    """
    if text in ("baseline", "scratch"):
        return text
    path = Path(text)
    if path.suffix != ".pt" or not path.is_file():
        raise StudyError(f"cannot inherit from {text!r}: expected baseline, scratch, or a .pt file that exists")
    return str(path.resolve())
