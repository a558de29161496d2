"""The output of ``nas cost``, of a model YAML, and of ``nas latency``, of several or of a study."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import click

from nas.engines import ENGINES, Conditions, chosen_engines
from nas.engines.board import RESULTS, SCRIPT
from nas.engines.folder import Subject, model_subject
from nas.engines.measure import EngineLatency, engine_machine, measure_models
from nas.engines.remote import export_folder, read_results
from nas.engines.table import latency_json, latency_lines
from nas.errors import BuildError, ModelError, OptionError
from nas.fork.names import registered_name
from nas.fork.rows import as_lines, row_problems
from nas.fork.signature import ambiguous
from nas.model.cost import IMGSZ, Cost, model_cost
from nas.model.host import build, check_size, chosen_scale
from nas.model.latency import Latency, LatencyMeter
from nas.model.render import render
from nas.model.weights_file import read_model
from nas.ops import registry
from nas.own import own_modules_lacking, use_stored
from nas.report.console import short_swaps
from nas.solver.latencies import SumError, store_latencies, sum_error, timed_assignments
from nas.space.model_yaml import ModelYaml, parse_model_yaml, read_model_text
from nas.space.search_space import Assignment
from nas.study.location import locate
from nas.study.study import Study


def print_cost(
    path: Path, scale: str | None = None, *, as_json: bool, timed: tuple[Path, str, int] | None = None
) -> None:
    """Print what a model YAML costs.

    Args:
        path: The YAML.
        scale: Scale letter; None for what Ultralytics reads.
        as_json: Whether to print JSON.
        timed: The folder of stored latencies, the device and the image side in pixels; None measures no latency.

    Raises:
        ModelError: It is no model YAML, or names classes that are not there; each with its line.
        BuildError: It cannot be built.
        OptionError: There is no such device.
    """
    text, scale = _checked(path, scale)
    cost = model_cost(build(text, scale))
    latency = LatencyMeter(*timed).measure(text, scale) if timed else None
    if as_json:
        body = {"model": str(path), "imgsz": IMGSZ, **cost.to_json()}
        return click.echo(json.dumps(body | ({"latency": asdict(latency)} if latency else {}), indent=2))
    return click.echo("\n".join([*_cost_lines(cost), *(_latency_lines(latency) if latency else [])]))


def print_latencies(
    names: Sequence[str],
    engines: str,
    conditions: Conditions,
    *,
    store: bool = False,
    as_json: bool = False,
    **given: Any,
) -> None:
    """Print how long engines take for models.

    Args:
        names: As `_named`.
        engines: Names of engines, separated by commas.
        conditions: Batch, threads and precision; the image size is given for itself.
        store: Whether to store the latencies in the study.
        as_json: Whether to print JSON.
        given: As `_named`.

    Raises:
        OptionError: An engine does not exist or is not installed; or there is no study to store several engines in.
        ModelError: A file is no model YAML.
        BuildError: A model cannot be built.
        StudyError: There is no such study, or it has other latencies.
    """
    chosen = chosen_engines(engines, conditions)
    named = _named(names, conditions, **given)
    if store and not (named.study and len(chosen) == 1 and conditions.batch == 1):
        raise OptionError("--store keeps the latencies of one image and one engine in a study: name one of each")
    results: dict[str, list[EngineLatency]] = {}
    machines = dict[str, str]()
    for engine in chosen:
        machines[engine.name] = engine_machine(engine, named.conditions)
        results[engine.name] = measure_models(
            engine, named.subjects, named.conditions, lambda line: click.echo(line, err=True)
        )
    _print(results, machines, named, as_json=as_json)
    if store:
        _store(named, results[chosen[0].name], machines[chosen[0].name])


def write_latency_folder(names: Sequence[str], engine: str, conditions: Conditions, output: Path, **given: Any) -> None:
    """Write a folder that another machine measures; arguments and errors as `print_latencies`.

    Raises:
        OptionError: Several engines are given, or one without files.
        OutputError: The folder is not empty, or cannot be written.
    """
    chosen = chosen_engines(engine, conditions)
    if len(chosen) > 1:
        raise OptionError(f"--engine {engine}: a folder is for one engine")
    named = _named(names, conditions, **given)
    written = export_folder(
        output, chosen[0], named.subjects, named.conditions, lambda line: click.echo(line, err=True)
    )
    for name, why in written.failures.items():
        click.echo(f"left out: {name}: {why}", err=True)
    models = f"{len(written.names)} model{'s' * (len(written.names) > 1)}"
    click.echo(
        f"{models} written to {output}. Copy it to the other machine, which needs Python 3.9, NumPy and "
        f"{chosen[0].name}; there, `python {SCRIPT}` writes {RESULTS} for `nas latency import`."
    )


def print_imported(path: Path, names: Sequence[str], *, as_json: bool = False, **given: Any) -> None:
    """Print the latencies that another machine has measured of these models, and store them in their study.

    Arguments and errors as `print_latencies`.

    Raises:
        TableError: The file cannot be read, or is of other models.
    """
    named = _named(names, Conditions(), top=None, slots=True, **given)
    found = read_results(path, named.subjects)
    named = replace(named, conditions=found.conditions)
    _print({found.engine: found.models}, {found.engine: found.on}, named, as_json=as_json)
    if named.study:
        if found.batch > 1:
            raise OptionError(f"{path} is of batches of {found.batch}: a study stores the latency of one image")
        _store(named, found.models, found.on)


def _print(
    results: Mapping[str, Sequence[EngineLatency]], machines: Mapping[str, str], named: _Named, *, as_json: bool
) -> None:
    """Print latencies, and how far sums over swaps are from measured combinations."""
    errors = {engine: named.sum_error(found) for engine, found in results.items()}
    if as_json:
        body = latency_json(results, machines, named.conditions)
        for engine, error in errors.items():
            body["engines"][engine]["sums"] = error and asdict(error)
        return click.echo(json.dumps(body, indent=2))
    lines = latency_lines(results, machines, named.conditions)
    for engine, error in errors.items():
        if error:
            lines.append(
                f"{ENGINES[engine].title}: sums of single swaps against measured combinations ({error.count}): "
                f"median error {100 * error.median:.1f} %, largest {100 * error.largest:.1f} %"
            )
    return click.echo("\n".join(lines))


def _store(named: _Named, found: Sequence[EngineLatency], on: str) -> None:
    """Store latencies in their study, and say so on stderr."""
    assert named.study
    failures = {named.ids[one.digest]: one.failure for one in found if one.failure}
    count = store_latencies(named.study, on, named.conditions.imgsz, named.latencies(found), failures)
    click.echo(f"{count} stored in {named.study.shown}: `nas rank {named.study.location.name}`", err=True)


@dataclass(frozen=True)
class _Named:
    """The models that a command was given.

    Attributes:
        subjects: The models, the baseline first.
        conditions: Under what they are measured.
        study: The study that they are variants of, if they are.
        assignments: Those of the study, by the subjects' digests.
    """

    subjects: list[Subject]
    conditions: Conditions
    study: Study | None = None
    assignments: Mapping[str, Assignment] = field(default_factory=dict)

    @property
    def ids(self) -> dict[str, str]:
        """The IDs of variants by digest."""
        assert self.study
        return {digest: self.study.settings.space.variant(a).id for digest, a in self.assignments.items()}

    def latencies(self, found: Sequence[EngineLatency]) -> dict[str, float]:
        """Return milliseconds by ID of the variant: the first model's that was timed, times each one's ratio to it."""
        timed = [one for one in found if not one.failure]
        return {self.ids[one.digest]: (timed[0].ms or 0.0) * (one.ratio or 0.0) for one in timed}

    def sum_error(self, found: Sequence[EngineLatency]) -> SumError | None:
        """Return how far sums over swaps are from combinations; None without any."""
        if not self.study:
            return None
        return sum_error(self.study.settings.space, self.latencies(found), self.assignments.values())


def _named(
    names: Sequence[str],
    conditions: Conditions,
    *,
    imgsz: int | None = None,
    scale: str | None = None,
    top: int | None = 5,
    slots: bool = False,
    storage: str | None = None,
) -> _Named:
    """Return the models that are named.

    Args:
        names: Files of model YAMLs or checkpoints, of which the first is the baseline; or one study.
        conditions: Batch, threads and precision.
        imgsz: Image side in pixels; None is that of the study's deployment, or 640.
        scale: Scale letter of YAMLs; None for what Ultralytics reads.
        top: Of a study, so many of its ranking; None is all.
        slots: Of a study, also each swap of its space alone.
        storage: Where the study is.
    """
    files = [Path(name) for name in names]
    if len(files) == 1 and not files[0].is_file() and files[0].suffix not in (".yaml", ".yml", ".pt"):
        study = Study.load(locate(names[0], storage))
        s = study.settings
        use_stored(s.space.modules, study.shown)
        at = replace(conditions, imgsz=imgsz or s.deployed_imgsz)
        subjects, assignments = list[Subject](), dict[str, Assignment]()
        for assignment in timed_assignments(study, top, slots=slots):
            v = s.space.variant(assignment)
            name = short_swaps(v.describe(), v.id)
            subjects.append(model_subject(name, render(v).yaml, v.scale, at))
            assignments[subjects[-1].digest] = assignment
        return _Named(subjects, at, study, assignments)
    if missing := [str(file) for file in files if not file.is_file()]:
        raise OptionError(f"no model YAML is at {', '.join(missing)}; give files, or the name of one study")
    if slots and top is not None:
        raise OptionError("--slots times each swap of a study's space: give the name of a study")
    at, subjects = replace(conditions, imgsz=imgsz or IMGSZ), []
    for file in files:
        taken = {subject.name for subject in subjects}
        subjects.append(_of_file(file, file.stem if file.stem not in taken else str(file), scale, at))
    return _Named(subjects, at)


def _of_file(file: Path, name: str, scale: str | None, conditions: Conditions) -> Subject:
    """Return the model of a YAML or of an Ultralytics checkpoint as a subject."""
    if file.suffix != ".pt":
        return model_subject(name, *_checked(file, scale), conditions)
    text, letter, tensors = read_model(file)
    if scale not in (None, letter):
        raise OptionError(f"--scale {scale}: {file} is of scale {letter or 'unknown'}; a checkpoint has one scale")
    check_model(parse_model_yaml(text, str(file)))
    check_size(text, letter)
    return model_subject(name, text, letter, conditions, tensors)


def _checked(path: Path, scale: str | None) -> tuple[str, str]:
    """Return the text of a model YAML that can be built, and its scale letter; doubts go to stderr."""
    text, word = read_model_text(path)
    model = parse_model_yaml(text, str(path))
    try:
        check_model(model)
        scale, note = chosen_scale(path, model, scale)
        for line in filter(None, (word, note, *_doubtful(model))):
            click.echo(line, err=True)
        check_size(text, scale)
        return text, scale
    except (BuildError, ModelError) as error:
        if missing := own_modules_lacking(text):  # a comment names them; nothing of it is imported
            names = " ".join(f"--modules {file}" for file in missing)
            raise type(error)(
                f"{error}\n{path} says that it needs own modules; if you trust them, give {names}"
            ) from None
        raise


def check_model(model: ModelYaml) -> None:
    """Raise ModelError, with all lines, if a model YAML has no nc, or rows that cannot be built."""
    found = row_problems((row.line, row.module) for row in model.rows)
    if not model.named_nc:
        found.append((1, "no nc, the number of classes, without which Ultralytics builds nothing: add `nc: 80`"))
    if found:
        raise ModelError("\n".join(as_lines(model.file, found)))


def _doubtful(model: ModelYaml) -> list[str]:
    """Return a line for each row that the registered module of its name may read in another way than its author."""
    entries = registry.entries()
    found = []
    for row in model.rows:
        ours = registered_name(row.module)
        own = row.args[0 if ours and entries[ours].rule in ("same", "guided") else 1 :]
        if ours and (why := ambiguous(entries[ours], own)):
            found.append(f"{model.file}:{row.line}: {why}; this is the cost of the registered one")
    return found


def _cost_lines(cost: Cost) -> list[str]:
    missed = cost.gflops - cost.stock_gflops
    share = f"it misses {missed / cost.gflops:.0%}" if abs(missed) > 0.005 * cost.gflops else "the same"
    listed = ", ".join(f"{name} {count / 1e6:.1f} M" for name, count in cost.uncounted if count >= 50_000)
    return [
        f"parameters      {cost.params:,}",
        f"GFLOPs          {cost.gflops:.2f}   (one image of {IMGSZ} px, Ultralytics' convention)",
        f"stock counter   {cost.stock_gflops:.2f}   ({share})",
        f"not counted     {listed}   (elements written)",
    ]


def _latency_lines(latency: Latency) -> list[str]:
    spread = f"middle half of {latency.runs} runs within {latency.spread_ms:.2f} ms"
    return [
        f"latency         {latency.ms:.2f} ms   (one image of {latency.imgsz} px, fused, float32; {spread})",
        f"measured on     {latency.on}" + (f"; timed as {latency.by}" if latency.by else ""),
    ]
