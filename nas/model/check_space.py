"""Checks a search space before any training: every choice builds, runs, and keeps its layer's output shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from nas.errors import BuildError, HeadError, SpaceError, one_line
from nas.model.host import build, check_head
from nas.model.render import render
from nas.space.choice import AFTER
from nas.space.search_space import SearchSpace
from nas.space.variant import Variant, make_variant

_SIZES = ((2, 3), (3, 2))
"""Heights and widths of test images, in units of the largest stride: not square, to detect swapped axes."""

_OF_CLASSIFICATION = 32
"""Stride of models of classification, which say 1."""
Shapes = dict[str, list[tuple[int, ...]]]


def check_space(space: SearchSpace, scales: Sequence[str] = ()) -> int:
    """Build and run every choice in every slot, enabled or not.

    One model changes several slots at once, so that few models contain all choices; the choices of a model that fails
    are tried one by one, so that the message names the slot and the choice.

    Args:
        space: The space.
        scales: Scale letters; the space's own if empty.

    Returns:
        Number of choices that were checked, over all slots and scales.

    Raises:
        SpaceError: All choices that fail, a line each.
    """
    problems: list[str] = []
    checked = 0
    for scale in scales or (space.scale,):
        baseline = make_variant(space.base, scale, {})
        stock = build(render(baseline).yaml, scale)
        shapes = _shapes(stock, baseline)
        for turn in range(1, max(len(s.choices) for s in space.slots)):
            swaps = {layer: s.choices[turn] for s in space.slots if turn < len(s.choices) for layer in s.layers}
            together = _together(space.base, scale, swaps)
            problem = _problem(together, stock, shapes) if together else None
            if problem or not together:
                found = [
                    (layer, label, _alone(space.base, scale, layer, label, stock, shapes))
                    for layer, label in swaps.items()
                ]
                problems += [f"{layer}={label} at scale {scale}: {why}" for layer, label, why in found if why]
                # Where no block is left that asks for the head of YOLO11, that variant is refused, no choice is.
                if problem and not any(why for *_, why in found) and not isinstance(problem, HeadError):
                    problems.append(f"scale {scale}: {swaps} fail together, each alone does not")
            checked += len(swaps)
    if problems:
        raise SpaceError("\n".join(problems))
    return checked


def _together(base: str, scale: str, swaps: Mapping[str, str]) -> Variant | None:
    """Return the variant of all swaps; None where a narrow layer has a reader among them that cannot follow."""
    try:
        return make_variant(base, scale, swaps)
    except SpaceError:
        return None


def _alone(
    base: str, scale: str, layer: str, label: str, stock: nn.Module, expected: Shapes
) -> BuildError | SpaceError | None:
    """Return what is wrong with one swap."""
    try:
        return _problem(make_variant(base, scale, {layer: label}), stock, expected)
    except SpaceError as error:  # at another scale, a share of a layer's channels may be all of them
        return error


def _problem(variant: Variant, stock: nn.Module, expected: Shapes) -> BuildError | None:
    """Return what is wrong with a variant of a stock model."""
    try:
        model = build(render(variant).yaml, variant.scale)
        if variant.graph().names[-1] not in dict(variant.swaps):
            check_head(model, stock)
        shapes = _shapes(model, variant)
    except HeadError as error:
        return error
    except BuildError as error:
        # A module that refuses its channels or arguments names itself; the type of the error adds nothing.
        return BuildError(str(error).replace("cannot be built: ValueError: ", "cannot be built: "))
    swapped = [slot for slot, _ in variant.swaps]
    for slot in swapped:
        name = slot.removeprefix(AFTER)
        layer = next(n for n in shapes if n.startswith(f"{name}+")) if slot.startswith(AFTER) else name
        wanted = expected[name]
        if slot in variant.narrowed:
            channels = variant.graph().channels(name, variant.scale)
            wanted = [(n, channels, h, w) for n, _, h, w in wanted]
        if shapes[layer] != wanted:
            return BuildError(f"puts out {shapes[layer]}, the layer that it replaces {wanted}")
    return None


def _shapes(model: nn.Module, variant: Variant) -> Shapes:
    """Return the output shape of every layer of a variant's model at each of the sizes.

    Raises:
        BuildError: It cannot be run.
    """
    shapes: Shapes = {name: [] for name in variant.graph().names}

    def note(name: str) -> object:
        def hook(_module: nn.Module, _inputs: object, output: object) -> None:
            if isinstance(output, torch.Tensor):
                shapes[name].append(tuple(output.shape))

        return hook

    for name, layer in zip(shapes, model.model, strict=True):  # type: ignore[arg-type]  # nn.Sequential of the host
        layer.register_forward_hook(note(name))
    try:
        with torch.no_grad():
            stride = int(model.stride.max())  # type: ignore[operator]  # a tensor of the host's
            stride = _OF_CLASSIFICATION if stride == 1 else stride
            for height, width in _SIZES:
                model(torch.rand(1, 3, height * stride, width * stride))
    except Exception as error:  # any error of a module's forward is what the check looks for
        raise BuildError(f"cannot be run: {one_line(error)}") from error
    return shapes
