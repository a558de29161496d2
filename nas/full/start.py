"""Initial weights of full trainings: what a study has learnt, or a file, by layer name as a checkpoint of the model."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from nas.bank.artifacts import baseline_key
from nas.bank.store import SwapBank, find_bank, open_bank
from nas.emit.pretrained import Given, Pretrained, checkpoint_of, pretrained_checkpoint, read_weights
from nas.errors import OptionError, StudyError, WeightsError
from nas.files import from_plain
from nas.full.models import Model
from nas.model.host import build
from nas.model.render import ModelFiles, render
from nas.model.transfer import copy_matching, named_state, numbered_state
from nas.model.weights_file import read_checkpoint, read_state
from nas.ranking.race import rules_of
from nas.space.bases import load_base
from nas.space.variant import Variant
from nas.study.settings import PER_SEED
from nas.study.study import Study

STARTS = ("scratch", "inherit", "bank")
"""What a training can start from besides a file: random values, the study's trained baseline, its bank on that."""
_LEARNT = STARTS[1:]
"""Those that the study has learnt."""
Pruner = Callable[[Variant, "Start"], Path]
"""Returns the file of a yardstick's weights, pruned from what a training starts from."""


@dataclass(frozen=True)
class Start:
    """What trainings start from.

    Attributes:
        name: As `STARTS`, or the name of the file and the beginning of its digest.
        given: Tensors of the stock model; None from scratch.
        bank: The bank that swaps are taken from; None without.
        seed: That of the study's baseline that `given` are of; None if they are of a file.
    """

    name: str
    given: Given | None = None
    bank: SwapBank | None = None
    seed: int | None = None


def start_of(study: Study, text: str, names: tuple[str, ...]) -> Start:
    """Return what ``--from`` names.

    Args:
        study: The study.
        text: One of `STARTS`, or the path of a file.
        names: Class names of the dataset.

    Raises:
        StudyError: The study has no trained baseline or bank, or its files are gone.
        WeightsError: The file is no checkpoint of the stock model.
        OptionError: It is neither.
    """
    if text == "scratch":
        return Start(text)
    classes = dict(enumerate(names))
    if text not in STARTS:
        path = Path(text)
        if path.suffix != ".pt":
            raise OptionError(f"--from {text}: expected {', '.join(STARTS)}, or a .pt file of the stock model")
        given = _checked(read_weights(path, load_base(study.settings.space.base)), study)
        digest = hashlib.sha256(path.read_bytes()).hexdigest()[:8]
        same = given.nc == len(names) and not given.names
        return Start(f"{path.name} ({digest})", replace(given, names=classes) if same else given)
    file = baseline_file(study)
    given = read_weights(file, load_base(study.settings.space.base))
    given = replace(given, names=classes if given.nc == len(names) else {})
    return Start(text, given, bank_of(study) if text == "bank" else None, study.settings.seed)


def _checked(given: Given, study: Study) -> Given:
    """Raise WeightsError if weights are of another scale than the study's, before anything is trained."""
    variant = Variant(study.settings.space.base, study.settings.space.scale)
    pretrained_checkpoint(variant, render(variant), given)
    return given


def made_from(study: Study, start: Start) -> tuple[str, ...]:
    """Return what decides the weights of a start besides its name: the study's baseline, and its bank.

    Nothing from scratch or from a file, whose name has a digest.
    """
    if start.name not in _LEARNT:
        return ()
    bank = (start.bank.folder.name,) if start.bank else ()
    return (_key_of_baseline(study, study.settings.seed), study.settings.baselines, *bank)


def starts_by_seed(
    study: Study, start: Start, models: Sequence[Model], count: int, note: Callable[[str], None]
) -> dict[int, Start]:
    """Return what the trainings of each seed start from, by the seed, counted from 0.

    Where each seed of the study has a baseline of its own, they start from that and from its bank, as proxies do. A
    seed that lacks one of them starts from those of the first.

    Args:
        study: The study.
        start: That of its first seed.
        models: What is trained.
        count: Number of seeds.
        note: Called with a line for each seed that has no weights of its own.
    """
    found = dict.fromkeys(range(count), start)
    if start.name in _LEARNT and study.settings.baselines == PER_SEED:
        for number, seed in enumerate(rules_of(study).seeds(count)):
            own = _of_seed(study, start, seed, models) if number else start
            if isinstance(own, Start):
                found[number] = own
            else:
                note(f"seed {number} starts from the weights of the study's first seed: {own}")
    return found


def _of_seed(study: Study, start: Start, seed: int, models: Sequence[Model]) -> Start | str:
    """Return the start of a further seed of a study, or what it lacks."""
    key, weights = _key_of_baseline(study, seed), study.location.weights
    file = weights / f"baseline-{key}.pt"
    if not file.exists():
        return f"it has no baseline of seed {seed}"
    assert start.given is not None, "it starts from the study's weights"
    given = replace(read_weights(file, load_base(study.settings.space.base)), names=start.given.names)
    if start.bank is None:
        return Start(start.name, given, seed=seed)
    bank = find_bank(start.bank.folder, weights, seed=seed, baseline=key)
    swaps = [swap for model in models if model.kind == "variant" for swap in model.variant.swaps]
    lacking = [swap for swap in swaps if bank is None or swap not in bank.candidates]
    if bank is None or lacking or bank.problem(swaps):
        return f"its bank of seed {seed} lacks " + ", ".join("=".join(swap) for swap in lacking or swaps)
    return Start(start.name, given, bank, seed)


def _key_of_baseline(study: Study, seed: int) -> str:
    s = study.settings
    return baseline_key(s.recipe, s.fingerprint, s.space, seed, s.versions)


def baseline_file(study: Study) -> Path:
    """Return the file of the trained baseline that the study's proxies of its first seed inherit.

    Raises:
        StudyError: Its proxies inherit none, or the file is gone.
    """
    s = study.settings
    if s.table or s.recipe.init not in ("baseline", "bank"):
        raise StudyError(
            f"{study.shown} has no trained baseline: its proxies start from {'a table' if s.table else s.recipe.init}; "
            "--from scratch or --from FILE.pt"
        )
    file = study.location.weights / f"baseline-{_key_of_baseline(study, s.seed)}.pt"
    if not file.exists():
        raise StudyError(
            f"the trained baseline of {study.shown} is gone ({file}): --from scratch does without it, and so does "
            "--from FILE.pt"
        )
    return file


def bank_of(study: Study) -> SwapBank:
    """Return the bank of the study's first seed.

    Raises:
        StudyError: It has none, or its files are gone.
        ArtifactError: They are not those that were distilled.
    """
    stored = study.bank.get("folder")
    if not stored:
        raise StudyError(f"{study.shown} has no bank; --from inherit starts swaps near the layers that they replace")
    folder = Path(from_plain(str, stored, "folder"))
    places = (folder, study.location.weights / folder.name)
    found = next((place for place in places if (place / "bank.json").exists()), None)
    if found is None:
        raise StudyError(
            f"the bank of {study.shown} is gone ({folder}): --from inherit or --from scratch does without it"
        )
    return open_bank(found, {})


def bank_checkpoint(study: Study, model: Model) -> Pretrained:
    """Return a variant's checkpoint from the study's trained baseline and bank, without training.

    Raises:
        StudyError: They are gone, or lack a swap.
    """
    made = checkpoint(model, start_of(study, "bank", study.settings.classes))
    assert made, "it starts from weights"
    return made


def checkpoint(model: Model, start: Start, pruned: Pruner | None = None) -> Pretrained | None:
    """Return the checkpoint that the training of a model starts from; None from scratch.

    A scaled model takes the tensors that fit, as Ultralytics does when a model YAML loads weights.

    Args:
        model: The model.
        start: What it starts from.
        pruned: Makes the weights of a pruned model from a baseline of the study. Without it, and from a file, such a
            model takes the channels with the largest weights.

    Raises:
        StudyError: The bank lacks a swap.
        WeightsError: The weights are of another model or scale.
    """
    given = start.given
    if given is None:
        return None
    files = ModelFiles(model.name, model.yaml, "", "")
    if model.kind == "scaled":
        return _of_scaled(model, given)
    if model.kind == "pruned" and pruned and start.seed is not None:
        file = pruned(model.variant, start)
        return _whole(model, replace(given, path=file, tensors=read_state(str(file), model.variant.base)))
    return pretrained_checkpoint(model.variant, files, given, _overlay(model, start.bank))


def _overlay(model: Model, bank: SwapBank | None) -> dict[str, torch.Tensor]:
    """Return the distilled tensors of a variant's swaps."""
    if bank is None or not model.variant.swaps or model.kind == "pruned":
        return {}
    lacking = [f"{slot}={label}" for slot, label in model.variant.swaps if (slot, label) not in bank.candidates]
    if lacking or (problem := bank.problem(model.variant.swaps)):
        why = f"it lacks {', '.join(lacking)}" if lacking else problem
        raise StudyError(f"{model.name} cannot be assembled from the bank {bank.folder}: {why}; --from inherit can")
    found: dict[str, torch.Tensor] = {}
    for file in bank.files(model.variant.swaps):
        found |= read_state(file, model.variant.base, part=True)
    return found


def _of_scaled(model: Model, given: Given) -> Pretrained:
    graph = model.variant.graph()
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net = build(model.yaml, model.variant.scale, given.nc, given.kpt_shape)
    own = named_state(net.state_dict(), graph)
    fitting = {k: v for k, v in given.tensors.items() if k in own and own[k].shape == v.shape}
    kept, _ = copy_matching(net, graph, fitting)
    content = checkpoint_of(model.name, model.yaml, model.variant.scale, given, net.state_dict())
    rest = tuple(k for k in given.tensors if k not in fitting)
    return Pretrained(f"{model.name}.pt", content, given.nc, False, kept, len(given.tensors), (), (), (), rest)


def trained_checkpoint(model: Model, weights: Path) -> Pretrained:
    """Return the checkpoint of a trained model without any class of this tool, from the host's ``best.pt``.

    Raises:
        WeightsError: The file is gone, or is of another model.
    """
    found = read_checkpoint(weights)
    graph = model.variant.graph()
    tensors: Mapping[str, torch.Tensor] = found.tensors
    nc = len(found.names)
    if not found.is_numbered or not nc:
        raise WeightsError(f"{weights} is no checkpoint of a training by Ultralytics")
    own = build(model.yaml, model.variant.scale, nc, found.kpt_shape).state_dict()
    if {k: v.shape for k, v in own.items()} != {k: v.shape for k, v in tensors.items()}:
        raise WeightsError(f"{weights} is not of {model.name}: other tensors")
    return _whole(model, Given(weights, named_state(tensors, graph), nc, found.names, found.origin, found.kpt_shape))


def _whole(model: Model, given: Given) -> Pretrained:
    """Return the checkpoint of a model that takes every tensor."""
    state, count = numbered_state(given.tensors, model.variant.graph()), len(given.tensors)
    content = checkpoint_of(model.name, model.yaml, model.variant.scale, given, state)
    return Pretrained(f"{model.name}.pt", content, given.nc, False, count, count, (), (), (), ())
