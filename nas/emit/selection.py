"""The variants to write: trials of a study, random variants of a space, and both at several scales."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

from nas.errors import SpaceError, StudyError
from nas.model.cost import costed
from nas.model.host import check_yaml
from nas.model.render import ModelFiles, render
from nas.ranking.race import find_winner
from nas.ranking.rank import ranking_of
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant
from nas.study.study import Study
from nas.study.trial import Trial

Which: TypeAlias = Literal["best", "front", "all"]
"""Which part of a ranking to take."""

_ENUMERATED = 20_000
"""Spaces of at most this size are enumerated, so that even the last variant is found."""
_MISSES = 10_000
"""In larger spaces, drawing ends after this many forbidden or known draws in a row."""
_OVER = 100
"""Drawing ends after this many variants in a row over a limit: each has to be built, which takes time."""


def chosen_trials(study: Study, *, number: int | None = None, which: Which = "best") -> list[Trial]:
    """Return trials of a study, best first.

    Args:
        study: The study.
        number: The trial of this number; `which` counts only where this is None.
        which: The winner of the study (`nas.ranking.race.find_winner`), its Pareto front of mAP and GFLOPs, or all that
            are ranked; the baseline, which needs nothing emitted, is left out of the last two.

    Raises:
        StudyError: The study has no such trial.
    """
    trials = study.runs() if number is None else study.every_run()
    name = study.location.name
    if number is not None:
        found = [t for t in trials if t.number == number and t.yaml]
        if not found:
            numbers = ", ".join(str(t.number) for t in trials if t.yaml) or "none"
            raise StudyError(f"the study {name!r} has no trial {number} that was built; its trials: {numbers}")
        return found
    rows = ranking_of(study)
    if not rows:
        raise StudyError(f"the study {name!r} has no finished trial yet; `nas search --study {name}`")
    if which == "best":
        return [find_winner(study, rows).trial]
    chosen = [r.trial for r in rows if (r.on_front or which == "all") and not r.trial.variant.is_baseline]
    if not chosen:
        raise StudyError(f"the study {name!r} has nothing but its baseline there")
    return chosen


def trial_of_variant(study: Study, wanted: str) -> Trial:
    """Return a trial of a variant by its ID, or by the beginning of that; a finished one if there is one.

    Raises:
        StudyError: The study has no such variant, or several.
    """
    trials = [t for t in study.runs() if t.yaml and t.variant.id.startswith(wanted.lower())]
    ids = sorted({t.variant.id for t in trials})
    if not wanted or len(ids) != 1:
        what = f"several variants that begin with {wanted!r}: {', '.join(ids)}" if ids else f"no variant {wanted!r}"
        raise StudyError(f"the study {study.location.name!r} has {what}; `nas rank` lists the IDs")
    return next((t for t in trials if t.status == "done"), trials[0])


def files_of_trial(trial: Trial) -> ModelFiles:
    """Return the files of a trial; the model YAML is the one that it was built from, byte for byte.

    Raises:
        BuildError: The study, which may be of others, holds a YAML that this tool would not build.
    """
    check_yaml(trial.yaml)
    files = render(trial.variant)
    return ModelFiles(files.name, trial.yaml, files.snippet, files.train)


def files_of_variant(variant: Variant) -> ModelFiles:
    """Return the files of a variant that is in no study, after building and costing it.

    Raises:
        BuildError: It cannot be built.
    """
    return costed(variant)[0]


def files_at_scales(
    found: Trial | Variant, scales: Sequence[str] = (), *, proved: bool = True
) -> list[tuple[Variant, ModelFiles]]:
    """Return the files of the same swaps at several scales, after building and costing each.

    A trial's own model YAML is always the one that it was built from, byte for byte. Every other one states the costs
    at all given scales.

    Args:
        found: A trial of a study, or a variant that is in no study.
        scales: Scale letters; none for its own.
        proved: Whether they are built and costed; otherwise they state no costs.

    Raises:
        BuildError: A variant cannot be built.
        SpaceError: The base has no such scale.
    """
    variant = found.variant if isinstance(found, Trial) else found
    letters = list(dict.fromkeys(scales)) or [variant.scale]
    if not proved and isinstance(found, Variant):
        return [(v, render(v)) for v in map(variant.with_scale, letters)]
    if letters == [variant.scale]:
        return [(variant, files_of_trial(found) if isinstance(found, Trial) else files_of_variant(variant))]
    variants = [variant.with_scale(letter) for letter in letters]
    costs = {v.scale: costed(v)[1].summary for v in variants}
    return [
        (v, files_of_trial(found) if isinstance(found, Trial) and v == variant else render(v, costs)) for v in variants
    ]


def shuffled_variants(space: SearchSpace, seed: int = 0) -> Iterator[Variant]:
    """Iterate over the allowed variants of a space in random order, each once, without the baseline.

    Every allowed assignment of the active slots is as likely as any other; rules of `forbid` hold, and slots that are
    off stay off. The same space and seed give the same order on every machine. Limits, which only a built model can
    be held against, are the caller's.
    """
    rng = random.Random(seed)
    known = {tuple(space.baseline().items())}
    if space.size <= _ENUMERATED:
        every = [a for a in space.assignments() if tuple(a.items()) not in known]
        rng.shuffle(every)
        yield from map(space.variant, every)
        return
    misses = 0
    while misses < _MISSES:
        assignment = {slot.key: rng.choice(slot.choices) for slot in space.active}
        key = tuple(assignment.items())
        if key in known or space.forbids(assignment):
            misses += 1
            continue
        misses = 0
        known.add(key)
        yield space.variant(assignment)


def random_variants(space: SearchSpace, count: int, seed: int = 0) -> list[Variant]:
    """Return distinct random variants of a space: the first of `shuffled_variants` that keep its limits.

    Limits (``max_gflops``, ``max_params``) hold at the space's own scale.

    Args:
        space: The space.
        count: How many, at least 1.
        seed: Random seed; a larger count with the same seed begins with the same variants.

    Raises:
        SpaceError: The space has fewer.
        BuildError: A variant has to be costed, and cannot be built.
    """
    limits = dict(space.limits)
    found: list[Variant] = []
    over = 0
    for variant in shuffled_variants(space, seed):
        if limits and not _within(variant, limits):
            over += 1
            if over == _OVER:
                raise SpaceError(f"{space.name}: {over} random variants in a row are over its limits; loosen them")
            continue
        found.append(variant)
        over = 0
        if len(found) == count:
            return found
    raise SpaceError(
        f"{space.name} has only {len(found)} variants besides the baseline that its rules and limits allow; {count} "
        "were requested"
    )


def _within(variant: Variant, limits: dict[str, float]) -> bool:
    cost = costed(variant)[1]
    given = {"max_gflops": cost.gflops, "max_params": float(cost.params)}
    return all(given[key] <= most for key, most in limits.items())
