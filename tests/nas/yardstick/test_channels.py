"""Which channels are kept: those that count, the same wherever they are added, and with the weights that they had."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

from nas.model.host import build
from nas.model.render import render
from nas.ops.heads import LightDetect
from nas.space.bases import load_base
from nas.space.variant import Variant, make_yardstick
from nas.yardstick.channels import Kept, slice_model


def of(variant: Variant, nc: int = 3, depthwise: bool = False):
    torch.manual_seed(0)
    model = build(render(variant).yaml, variant.scale, nc)
    if depthwise:
        head = model.model[-1]
        head.cv3 = LightDetect(nc, tuple(branch[0].conv.in_channels for branch in head.cv2)).cv3
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.normal_(module.bias)
            torch.nn.init.normal_(module.running_mean)
            torch.nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model


def scores_of(model, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    convs = [m for m in model.modules() if type(m).__name__ == "Conv"]
    return {m: torch.rand(m.conv.out_channels, generator=generator) for m in convs}


@torch.no_grad()
def silence(wide, narrow, scores) -> None:
    """Let every channel that is not kept be zero everywhere, so that it may as well not be there."""
    for name, module in wide.named_modules():
        if module in scores or type(module).__name__ == "DWConv":
            own = dict(narrow.named_modules())[name]
            # SiLU(0) is 0: a channel whose BatchNorm gives 0 gives nothing.
            found = own.bn.running_mean
            lost = ~(module.bn.running_mean[:, None] == found[None, :]).any(1)
            module.bn.weight[lost] = 0
            module.bn.bias[lost] = 0
        elif isinstance(module, torch.nn.ConvTranspose2d):
            own = dict(narrow.named_modules())[name]
            lost = ~(module.bias[:, None] == own.bias[None, :]).any(1)
            module.weight[:, lost] = 0
            module.bias[lost] = 0


@pytest.mark.parametrize(
    ("base", "scale", "width", "depthwise"),
    [
        ("yolov8", "n", 0.17, False), ("yolov8", "s", 0.31, False), ("yolov5", "n", 0.15, False),
        ("yolov8", "n", 0.17, True), ("yolov8-seg", "n", 0.17, False), ("yolov8-pose", "n", 0.17, False),
        ("yolov8-obb", "s", 0.31, False),
    ],
)  # fmt: skip
def test_a_sliced_model_computes_what_the_wide_one_does_without_the_channels_that_are_lost(
    base, scale, width, depthwise
):
    """Ultralytics 8.3.0 has depthwise class branches in the head of every base."""
    wide, narrow = (of(v, 3, depthwise) for v in (Variant(base, scale), make_yardstick(base, scale, width)))
    scores = scores_of(wide)
    kept = slice_model(wide, narrow, load_base(base), scores)
    silence(wide, narrow, scores)
    image = torch.rand(1, 3, 64, 64)
    seen: list[list[torch.Tensor]] = []
    for model in (wide, narrow):
        outputs: list[torch.Tensor] = []
        handles = [layer.register_forward_hook(lambda *a, to=outputs: to.append(a[2])) for layer in model.model[:-1]]
        with torch.no_grad():
            outputs.append(torch.cat([leaf.flatten() for leaf in tree_leaves(model(image)[0])]))
        for handle in handles:
            handle.remove()
        seen.append(outputs)
    for row, (a, b) in enumerate(zip(*seen, strict=True)):
        part = a[:, kept[row].index] if row < len(wide.model) - 1 else a
        assert torch.allclose(part, b, atol=1e-3, rtol=1e-3), row
    assert sum(p.numel() for p in narrow.parameters()) < 0.7 * sum(p.numel() for p in wide.parameters())


def test_the_channels_with_the_highest_scores_are_kept_in_their_order():
    assert Kept.best(torch.tensor([0.1, 3.0, 0.2, 3.0, 1.0]), 3).index.tolist() == [1, 3, 4]
    assert Kept.best(torch.zeros(4), 2).index.tolist() == [0, 1]
    joined = Kept.joined([Kept(torch.tensor([0, 2]), 4), Kept(torch.tensor([1]), 3)])
    assert (joined.index.tolist(), joined.count) == ([0, 2, 5], 7)


def test_a_channel_counts_with_all_that_is_added_to_it():
    wide, yardstick = of(Variant("yolov8", "n")), make_yardstick("yolov8", "n", 0.17)
    narrow = build(render(yardstick).yaml, "n", 3)
    scores = scores_of(wide)
    block = wide.model[4]  # a C2f with two bottlenecks, which add
    most = torch.tensor([5, 17, 29])
    scores[block.m[1].cv2][most] = 100.0  # of the last addition, so that the map before it is kept there too
    slice_model(wide, narrow, load_base("yolov8"), scores)
    own, c = narrow.model[4], block.c
    means = block.cv1.bn.running_mean[c:][most]
    assert all(mean in own.cv1.bn.running_mean[own.c :] for mean in means)
    assert all(mean in own.m[0].cv2.bn.running_mean for mean in block.m[0].cv2.bn.running_mean[most])
