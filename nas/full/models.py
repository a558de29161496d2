"""The models of full trainings: variants of a study, its baseline, and the stock model scaled to a variant's GFLOPs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from nas.emit.selection import chosen_trials, files_of_trial, trial_of_variant
from nas.errors import OptionError
from nas.full.run import Kind
from nas.model.cost import Cost, costed, model_cost
from nas.model.host import build
from nas.model.render import ModelFiles, render
from nas.space.variant import Variant
from nas.study.study import Study
from nas.study.trial import Trial
from nas.yardstick.width import widest_within

_STEPS = 96
"""Number of widths between 1/4 and all of the stock model's that a scaled model is chosen from."""
_OVER = 0.01
"""Share of GFLOPs that a scaled model may have above the variant's: channels come in multiples of 8."""


@dataclass(frozen=True)
class Model:
    """A model to train; the fields are as those of `nas.full.run.FullRun`."""

    model: str
    kind: Kind
    title: str
    name: str
    yaml: str
    variant: Variant
    params: int
    gflops: float


def chosen_models(
    study: Study, *, best: bool, trial: int | None, variants: Sequence[str], front: bool
) -> tuple[Model, ...]:
    """Return the chosen variants of a study, best first; its winner without a choice.

    Raises:
        StudyError: The study has none of that kind.
    """
    found: list[Trial] = []
    if trial is not None:
        found = chosen_trials(study, number=trial)
    elif front:
        found = chosen_trials(study, which="front")
    elif variants and not best:
        found = [trial_of_variant(study, wanted) for wanted in variants]
    else:
        found = chosen_trials(study, which="best")
    return tuple(dict.fromkeys(model_of_trial(one) for one in found))


def model_of_trial(trial: Trial) -> Model:
    """Return the model of a trial; its YAML is the one that the trial was trained from, byte for byte."""
    files, variant = files_of_trial(trial), trial.variant
    if variant.width is not None:
        return _pruned(variant, files, trial.params, trial.gflops)
    kind: Kind = "baseline" if variant.is_baseline else "variant"
    return Model(variant.id, kind, trial.describe(), files.name, files.yaml, variant, trial.params, trial.gflops)


def baseline_model(study: Study) -> Model:
    """Return the study's baseline."""
    for trial in study.runs():
        if trial.variant.is_baseline and trial.yaml and trial.gflops:
            return model_of_trial(trial)
    variant = Variant(study.settings.space.base, study.settings.space.scale)
    files, cost = costed(variant)
    return Model(variant.id, "baseline", "baseline", files.name, files.yaml, variant, cost.params, cost.gflops)


def pruned_model(study: Study, gflops: float) -> Model:
    """Return the yardstick of at most these GFLOPs: the stock model, narrower, for the baseline's weights.

    Raises:
        SpaceError: The base cannot be pruned, or has no yardstick of so few.
    """
    variant = widest_within(study.settings.space.base, study.settings.space.scale, gflops)
    files, cost = costed(variant)
    return _pruned(variant, files, cost.params, cost.gflops)


def _pruned(variant: Variant, files: ModelFiles, params: int, gflops: float) -> Model:
    title = f"stock, pruned to width {variant.width:g}"
    return Model(f"pruned-{gflops:.2f}", "pruned", title, files.name, files.yaml, variant, params, gflops)


def scaled_model(study: Study, gflops: float) -> Model:
    """Return the stock model at the largest width and depth with at most these GFLOPs; both shrink in proportion.

    Raises:
        OptionError: The base has no scales, or not even a quarter of its width is as small.
    """
    variant = Variant(study.settings.space.base, study.settings.space.scale)
    text = render(variant).yaml
    costs: dict[int, Cost] = {}

    def fits(step: int) -> bool:
        costs[step] = model_cost(build(scaled_yaml(text, variant.scale, _share(step)), variant.scale))
        return costs[step].gflops <= gflops * (1 + _OVER)

    low, high = 0, _STEPS
    if not fits(low):
        raise OptionError(
            f"{variant.stock} at {_share(0):.0%} of its width still has {costs[low].gflops:.2f} GFLOPs, "
            f"more than the variant's {gflops:.2f}: leave scaled out of --with"
        )
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    cost, share = costs[low], _share(low)
    title = f"stock, {share:.0%} of width and depth"
    name = f"{variant.name.rpartition('-')[0]}-scaled{round(1000 * share)}"
    yaml = scaled_yaml(text, variant.scale, share)
    return Model(f"scaled-{cost.gflops:.2f}", "scaled", title, name, yaml, variant, cost.params, cost.gflops)


def _share(step: int) -> float:
    return round(0.25 + 0.75 * step / _STEPS, 4)


def scaled_yaml(text: str, scale: str, share: float) -> str:
    """Return a model YAML with the depth and width of a scale multiplied by a share.

    Raises:
        OptionError: It has no such scale.
    """
    line = re.compile(rf"^(  {re.escape(scale)}: \[)([\d.]+), ([\d.]+), (.*)$", re.MULTILINE)
    if not scale or not line.search(text):
        raise OptionError("the base has one size, which no width and depth can scale: leave scaled out of --with")

    def scaled(match: re.Match[str]) -> str:
        depth, width = (f"{share * float(value):.6g}" for value in (match[2], match[3]))
        return f"{match[1]}{depth}, {width}, {match[4]}"

    return line.sub(scaled, text)
