"""From the options of ``nas search`` to a study that can run: a new one, or an old one that takes no other settings."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas import demo
from nas import search as searching
from nas.answer import ANSWER_FILE, DEFAULT_SCORE, Answer, load_answer
from nas.calibrate import (
    CALIBRATION_SUFFIX,
    DEFAULT_PROXIES,
    Calibration,
    Calibrator,
    Observer,
    full_recipe,
    proxy_recipe,
)
from nas.data import Dataset, load, write_resolved
from nas.errors import DataError, StudyError
from nas.objective import Goal
from nas.own import use
from nas.proxy import ProxyWorker, available_cores
from nas.race import Confirm
from nas.recipe import BASE_EPOCHS, KINDS, Recipe, digest_of, make_recipe
from nas.runner import Observer as RunObserver
from nas.samplers import AUTO
from nas.settings import Settings, current_versions
from nas.space import SearchSpace
from nas.space_file import load_space
from nas.storage import StudyPlace, place
from nas.study import Study
from nas.weights import Weights

if TYPE_CHECKING:
    from nas.latency import LatencyMeter

_DEMO_SPACE = "quick"
_DEMO_RECIPE = (2, 128, 8, 16)  # epochs, pixels, images a step, epochs of the baseline: minutes on two cores
_EPOCHS = {"bank": 4, "scratch": 8, "baseline": 8}
_EPOCHS_FROM_FILE = 8
_MOST_TRIALS = 40
DEFAULT_CONFIRM = Confirm(3, 3)
"""How a new study is confirmed unless something else is asked for."""
_OF_A_STUDY = (
    "data", "proxy", "space", "scale", "max_gflops", "max_params", "max_latency", "min_map", "seed", "floor",
    "objective", "latency",
)  # fmt: skip
_RECIPE_OPTIONS = ("epochs", "imgsz", "batch", "init", "base_epochs", "bank_epochs", "weights", "device", "amp")


@dataclass(frozen=True)
class Session:
    """A study with its dataset at hand, and how many trials are asked for now.

    Attributes:
        study: Open for writing.
        dataset: Checked; its fingerprint is the study's.
        trials: What was asked for; None finishes what was asked for before.
        seeds: Seeds of every variant, and `confirm` how the first are confirmed; None leaves them as they are.
        cache: Where training processes may write.
        news: What the options have changed; empty if nothing.
    """

    study: Study
    dataset: Dataset
    trials: int | None
    cache: Path
    seeds: int | None = None
    confirm: Confirm | None = None
    news: str = ""

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
        if study.settings.table:
            raise StudyError(f"the study {name!r} replays a table: give it by --replay TABLE to go on")
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
        news = ""
        if options["sampler"] and options["sampler"] != wanted.sampler:
            study.change_sampler(options["sampler"])
            news = f"sampler: {options['sampler']} from here on, {wanted.sampler} so far; scores do not depend on it"
        return cls(study, dataset, options["trials"], cache, options["seeds"], options["confirm"], news)

    @classmethod
    def _begin(cls, cache: Path, where: StudyPlace, options: dict[str, Any]) -> Session:
        space = _limited(load_space(options["space"] or _DEMO_SPACE), options)
        dataset = _dataset(options["data"])
        answer = load_answer(calibration_file(options["proxy"])) if options["proxy"] else None
        recipe = _recipe(options, answer)
        settings = Settings(
            space=space,
            recipe=recipe,
            score=answer.score if answer else DEFAULT_SCORE,
            calibration=answer.under(recipe).to_json() if answer else "",
            data=str(Path(options["data"]).resolve()) if options["data"] else "",
            fingerprint=dataset.fingerprint,
            classes=dataset.names,
            images=(len(dataset.train), len(dataset.val)),
            seed=options["seed"] or 0,
            floor=options["floor"] if options["floor"] is not None else 0.02,
            versions=current_versions(),
            sampler=options["sampler"] or AUTO,
            objective=options["objective"] or Goal().objective,
            latency_on=_latency_on(space, recipe, options["objective"], options["latency"]),
        )
        every = 1 + len(space.single_swaps())
        trials = options["trials"] or (min(every, _MOST_TRIALS) if options["data"] else every + 1)
        confirm = DEFAULT_CONFIRM if options["confirm"] is None else options["confirm"]
        study = Study.create(where, settings, trials, seeds=options["seeds"] or 1, confirm=confirm)
        return cls(study, dataset, None, cache)

    def run(self, observer: RunObserver) -> None:
        """Run the trials that are asked for."""
        todo = searching.plan(self.study, self.trials)
        self.study.ask_for_seeds(self.seeds, self.confirm)
        name = self.study.place.name
        if self.news:
            observer.note(self.news)
        if searching.is_finished(self.study, todo):
            more = "--trials N runs N more" + ("" if self.study.confirm.top else ", --confirm 3:3 confirms the first 3")
            return observer.note(f"the study {name} has all {todo.spent} trials that were asked for; {more}")
        if todo.spent >= todo.target:
            observer.note(f"study {name}: {todo.spent} trials are done; some are still to get their further seeds")
        elif todo.finishing and todo.spent:
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
            searching.search(self.study, todo, data, worker, observer, meter=self._meter())
        return None

    def _meter(self) -> LatencyMeter | None:
        """Return what measures latencies, where the study wants them."""
        s = self.study.settings
        if not s.latency_on:
            return None
        from nas.latency import LatencyMeter

        return LatencyMeter(self.cache / "latency", s.recipe.device, s.recipe.imgsz)


def train_baseline_seeds(cache: Path, study: Study, count: int, observer: RunObserver) -> Study:
    """Train a study's baseline until it has so many seeds, and return the study open for writing.

    Raises:
        NasError: Its data are gone, its settings are not those of this version, or its baseline has not finished.
    """
    nothing = dict.fromkeys((*_OF_A_STUDY, *_RECIPE_OPTIONS))
    options = {**nothing, "enable": ()}
    opened = Study.load(study.place, write=True)
    wanted, dataset = _wanted(opened, options)
    if differences := opened.settings.differences(wanted):
        raise StudyError(
            f"the baseline of {study.place.name!r} cannot be trained as it was:\n  " + "\n  ".join(differences)
        )
    with opened.locked(), ProxyWorker(cache) as worker:
        data = write_resolved(dataset, opened.place.folder)
        searching.train_baseline(opened, count, data, worker, observer)
    return opened


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
    answer = load_answer(calibration_file(options["proxy"])) if options["proxy"] else None
    recipe = kept.recipe
    if answer:
        asked = ("init", "epochs", "imgsz", "batch", "base_epochs", *_CALIBRATED)
        recipe = replace(recipe, **{key: getattr(answer.recipe, key) for key in asked})
    recipe = _changed(recipe, options)
    if not options["space"]:
        use(kept.space.modules)
    wanted = replace(
        kept,
        space=_limited(load_space(options["space"]) if options["space"] else kept.space, options),
        recipe=recipe,
        score=answer.score if answer else kept.score,
        calibration=answer.under(recipe).to_json() if answer else kept.calibration,
        data=str(Path(data).resolve()) if data else "",
        fingerprint=dataset.fingerprint,
        seed=kept.seed if options["seed"] is None else options["seed"],
        floor=kept.floor if options["floor"] is None else options["floor"],
        versions=current_versions(),
        objective=options["objective"] or kept.objective,
    )
    measured = bool(kept.latency_on) or options["latency"]
    return replace(wanted, latency_on=_latency_on(wanted.space, recipe, wanted.objective, measured)), dataset


def _latency_on(space: SearchSpace, recipe: Recipe, objective: str | None, wanted: bool) -> str:
    """Return the machine that latencies are measured on; empty where nothing asks for them."""
    if wanted or Goal(objective or "map").needs_latency or "max_latency_ms" in dict(space.limits):
        from nas.latency import machine

        return machine(recipe.device)
    return ""


def _limited(space: SearchSpace, options: dict[str, Any]) -> SearchSpace:
    """Return the space with what the options change of it."""
    if options["scale"]:
        space = space.with_scale(options["scale"])
    return space.enable(options["enable"]).with_limits(
        max_gflops=options["max_gflops"],
        max_params=options["max_params"],
        max_latency_ms=options["max_latency"],
        min_map=options["min_map"],
    )


def _dataset(path: str | None) -> Dataset:
    """Return the checked dataset; the demo data without a path."""
    return load(path if path else demo.demo_dataset())


def _recipe(options: dict[str, Any], answer: Answer | None) -> Recipe:
    """Return the recipe of a new study: a calibration's, or the default one, with what the options change of it."""
    init = _init(options["init"] or (answer.recipe.init if answer else "bank"))
    demo_epochs, imgsz, batch, base_epochs = _DEMO_RECIPE
    epochs: int = _EPOCHS.get(init, _EPOCHS_FROM_FILE)
    if answer:
        epochs, imgsz, batch, base_epochs = (
            getattr(answer.recipe, k) for k in ("epochs", "imgsz", "batch", "base_epochs")
        )
    elif options["data"]:
        imgsz, batch, base_epochs = 160, 16, BASE_EPOCHS
    else:
        epochs = min(epochs, demo_epochs)
    given = {key: options[key] for key in ("epochs", "imgsz", "batch", "base_epochs") if options[key] is not None}
    recipe = make_recipe(
        **{"epochs": epochs, "imgsz": imgsz, "batch": batch, "base_epochs": base_epochs, **given},
        init=init,
        device=options["device"],
        weights=_weights(options["weights"]),
        amp=options["amp"],
    )
    if answer:
        recipe = replace(recipe, **{key: getattr(answer.recipe, key) for key in _CALIBRATED})
        if options["amp"] is None and recipe.device == answer.recipe.device == "cpu":
            recipe = replace(recipe, amp=answer.recipe.amp)
    if options["bank_epochs"] is not None:
        recipe = replace(recipe, bank_epochs=options["bank_epochs"])
    return _sound(recipe)


_CALIBRATED = ("start", "bank_epochs", "bank_lr0", "validations", "lrf", "weight_decay", "optimizer")


def _sound(recipe: Recipe) -> Recipe:
    """Return the recipe.

    Raises:
        StudyError: It asks for what says nothing.
    """
    if recipe.init == "scratch" and not recipe.epochs:
        raise StudyError("--epochs 0 validates what is inherited; with --init scratch there is nothing to validate")
    if not recipe.base_epochs and recipe.init in ("bank", "baseline") and not recipe.weights:
        raise StudyError("--base-epochs 0 takes the baseline as it is: bring a trained one with --weights FILE.pt")
    return recipe


def _changed(recipe: Recipe, options: dict[str, Any]) -> Recipe:
    """Return the recipe with what the options give, and the digest of the file to inherit from as it is now."""
    given: dict[str, Any] = {key: options[key] for key in _RECIPE_OPTIONS if options[key] is not None}
    given["init"] = _init(given.get("init", recipe.init))
    given["weights"] = _weights(given.get("weights", recipe.weights))
    given["init_digest"], given["weights_digest"] = digest_of(given["init"]), digest_of(given["weights"])
    return _sound(replace(recipe, **given))


def _init(text: str) -> str:
    """Return a kind of start, or the absolute path of a file that exists.

    Raises:
        StudyError: It is none of these.
    """
    return text if text in KINDS else _weights(text, f"expected {', '.join(KINDS)}, or a .pt file that exists")


def _weights(text: str | None, expected: str = "expected a .pt file that exists") -> str:
    """Return the absolute path of a file of weights; empty without one.

    Raises:
        StudyError: There is no such file.
    """
    if not text:
        return ""
    path = Path(text)
    if path.suffix != ".pt" or not path.is_file():
        raise StudyError(f"cannot inherit from {text!r}: {expected}")
    return str(path.resolve())


def calibration_file(text: str) -> Path:
    """Return the file of a calibration: a path, its folder, or its name below ``studies/``.

    Raises:
        StudyError: There is none.
    """
    named = Path("studies") / f"{text}{CALIBRATION_SUFFIX}" / ANSWER_FILE
    for path in (Path(text), Path(text) / ANSWER_FILE, named):
        if path.is_file():
            return path
    folder = named.parent
    if folder.is_dir():
        raise StudyError(f"the calibration {text!r} is not finished: start `nas calibrate` again")
    raise StudyError(f"no calibration {text!r}: neither that file nor {named} exists; `nas calibrate` makes one")


def open_calibrator(cache: Path, observer: Observer, **options: Any) -> Calibrator:
    """Return the calibration that the options of ``nas calibrate`` ask for, ready to run.

    Raises:
        NasError: Anything about the space, the dataset or the options is wrong.
    """
    space = load_space(options["space"])
    if options["scale"]:
        space = space.with_scale(options["scale"])
    space = space.enable(options["enable"])
    dataset = _dataset(options["data"])
    common = make_recipe(
        init="bank",
        epochs=0,
        imgsz=options["imgsz"],
        batch=options["batch"],
        base_epochs=options["base_epochs"],
        device=options["device"],
        weights=_weights(options["weights"]),
    )
    if options["bank_epochs"] is not None:
        common = replace(common, bank_epochs=options["bank_epochs"])
    names = options["proxies"] or DEFAULT_PROXIES
    calibration = Calibration(
        space=space,
        variants=options["variants"],
        data=str(Path(options["data"]).resolve()) if options["data"] else "",
        fingerprint=dataset.fingerprint,
        full=full_recipe(common, options["full_epochs"]),
        full_seeds=options["full_seeds"],
        proxies=tuple((name, _sound(proxy_recipe(name, common))) for name in dict.fromkeys(names)),
        seeds=options["seeds"],
        versions=current_versions(),
    )
    name = place(options["name"] or Path(options["space"]).stem).name
    folder = Path("studies") / f"{name}{CALIBRATION_SUFFIX}"
    workers = options["workers"] or (available_cores() if common.device == "cpu" else 1)
    weights = Weights(
        folder=Path("studies") / "weights",
        space=space,
        data=write_resolved(dataset, folder),
        fingerprint=dataset.fingerprint,
        versions=calibration.versions,
        seed=0,
        worker=ProxyWorker(cache),
        listener=observer,
        scratch=folder / "run",
    )
    return Calibrator(calibration, folder, weights, workers, cache, observer)
