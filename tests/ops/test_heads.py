"""Heads in a model of Ultralytics: what it does with `Detect` it does with them."""

from __future__ import annotations

import copy
import io
import warnings

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn
from trained_layers import maps, train
from ultralytics.nn.modules.head import Detect
from ultralytics.nn.tasks import guess_model_task
from ultralytics.utils import IterableSimpleNamespace

from nas.errors import SpaceError
from nas.model.cost import costed
from nas.model.host import build
from nas.model.render import render
from nas.ops.heads import LightDetect, SharedDetect, head_maps
from nas.ops.reconstruct import sites_where
from nas.ops.registry import register
from nas.ops.warm_start import apply_start
from nas.space.bases import load_base
from nas.space.variant import parse_swaps

CHOICES = (
    "LightDetect",
    "LightDetect(depthwise=none,box=0.5,cls=0.5)",
    "LightDetect(depthwise=both,box=0.25)",
    "SharedDetect",
    "SharedDetect(depth=1,width=0.5)",
)
every_choice = pytest.mark.parametrize("choice", CHOICES)
CH = (24, 32, 48)


def variant(choice: str, base: str = "yolov8"):
    return parse_swaps(base, "n", [f"head.detect={choice}"])


def model(choice: str, base: str = "yolov8", nc: int = 3):
    torch.manual_seed(0)
    return build(render(variant(choice, base)).yaml, "n", nc)


def test_the_depthwise_branch_is_yolo11s():
    """8.86 to 7.11 GFLOPs by YOLO11's class branch, and the same parameters as Ultralytics' own."""
    _, cost = costed(variant("LightDetect"))
    assert cost.gflops == pytest.approx(7.11, abs=0.01)
    assert cost.gflops == cost.stock_gflops
    legacy = getattr(Detect, "legacy", False)
    Detect.legacy = False
    try:
        theirs = Detect(nc=80, ch=(64, 128, 256))
    finally:
        Detect.legacy = legacy
    ours = LightDetect(80, (64, 128, 256))
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


@every_choice
def test_ultralytics_sets_it_up(choice):
    built = model(choice)
    head = built.model[-1]
    assert guess_model_task(built.yaml) == "detect"
    assert head.stride.tolist() == [8, 16, 32]
    for i, stride in enumerate((8, 16, 32)):
        assert torch.all(head.cv3[i][-1].bias == np.log(5 / 3 / (640 / stride) ** 2).astype("f"))
    assert head.nc == 3


@every_choice
def test_it_learns_by_the_hosts_loss(choice):
    built = model(choice).train()
    built.args = IterableSimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    batch = {
        "img": torch.rand(2, 3, 64, 96),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
    }
    losses = []
    optimizer = torch.optim.SGD(built.parameters(), 0.001)
    for _ in range(8):
        loss = built(batch)[0].sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses) < losses[0]
    sides = ("dfl", "cv2.1.", "cv2.2.")  # what has no object on its level learns no sides
    head = [(n, p) for n, p in built.model[-1].named_parameters() if not n.startswith(sides)]
    assert [n for n, p in head if p.grad is None or not p.grad.abs().max() > 0] == []


@every_choice
def test_fuse_pickle_and_copy(choice):
    built, x = model(choice), torch.rand(2, 3, 64, 96)
    with torch.no_grad():
        expected = built(x)[0]
        buffer = io.BytesIO()
        torch.save(built, buffer)
        buffer.seek(0)
        again = torch.load(buffer, weights_only=False)
        torch.testing.assert_close(again(x)[0], expected)
        torch.testing.assert_close(copy.deepcopy(built).fuse(verbose=False)(x)[0], expected, rtol=1e-3, atol=1e-3)


@every_choice
def test_onnx_answers_as_the_model_does(choice, tmp_path):
    built = model(choice).fuse(verbose=False)
    head, x = built.model[-1], torch.rand(1, 3, 64, 96)
    head.export, head.format = True, "onnx"
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = built(x)
        path = str(tmp_path / "model.onnx")
        torch.onnx.export(built, (x,), path, opset_version=17, dynamo=False, input_names=["x"], output_names=["y"])
    (y,) = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]).run(None, {"x": x.numpy()})
    np.testing.assert_allclose(y, expected.numpy(), rtol=1e-3, atol=1e-3)


def test_the_levels_share_one_tower():
    head = SharedDetect(3, CH)
    assert sum(isinstance(m, nn.Conv2d) and m.kernel_size == (3, 3) for m in head.modules()) == 2
    assert len(head.tower[0].norms) == 3
    assert len(dict(head.named_parameters())) == len(dict(head.named_parameters(remove_duplicate=False)))


@pytest.mark.parametrize("base", ["yolo11", "yolov5", "yolov9c", "yolo12", "yolov8-p2", "yolov8-p6"])
def test_other_bases(base):
    graph = load_base(base)
    found = parse_swaps(base, graph.default_scale, [f"{graph.names[-1]}=LightDetect"])
    built = build(render(found).yaml, graph.default_scale, 3)
    assert type(built.model[-1]) is LightDetect


# ---- Starts ---------------------------------------------------------------------------------------------------------


class Whole(nn.Module):
    """A head whose predictions are one tensor."""

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat([torch.cat(pair, 1).flatten(2) for pair in head_maps(self.head, x)], 2)


def levels(n: int = 6) -> list[torch.Tensor]:
    return [maps(c, True, n, 20 >> i, 24 >> i) for i, c in enumerate(CH)]


def trained_head(depthwise: str = "none") -> Detect:
    torch.manual_seed(1)
    legacy = getattr(Detect, "legacy", None)
    head = Detect(nc=3, ch=CH)
    if legacy is None or not legacy or depthwise != "none":
        branches = LightDetect(3, CH, depthwise)
        head.cv2, head.cv3 = branches.cv2, branches.cv3
    for m in head.modules():
        if isinstance(m, nn.BatchNorm2d):
            nn.init.uniform_(m.weight, 0.5, 1.5)
            nn.init.normal_(m.bias, 0, 0.3)
            m.momentum = 0.3
    whole = Whole(head).train()
    with torch.no_grad():
        for _ in range(12):
            whole(levels())
    return head.eval()


def error(new: nn.Module, old: nn.Module) -> float:
    with torch.no_grad():
        x = levels()
        expected, found = Whole(old)(x), Whole(new.eval())(x)
        return float(((found - expected).square().mean((0, 2)) / expected.var((0, 2))).mean())


@pytest.mark.parametrize(
    ("make", "bound"),
    [
        (lambda: LightDetect(3, CH, "none"), 1e-4),
        (lambda: LightDetect(3, CH, "none", 0.5, 0.5), 0.6),
        (lambda: LightDetect(3, CH), 0.5),
        (lambda: LightDetect(3, CH, "both", 0.5, 0.5), 0.95),
        (lambda: SharedDetect(3, CH), 0.95),
    ],
    ids=["the same", "narrower", "depthwise", "both", "shared"],
)
def test_starts_from_the_trained_head(make, bound):
    old, new = trained_head(), make()
    fresh = error(new, old)
    assert apply_start(new, old, levels())
    assert error(new, old) < min(bound, fresh)
    blind = make()
    assert apply_start(blind, old), "on maps that are made up"
    assert error(blind, old) < fresh


def test_dense_branches_start_from_depthwise_ones():
    """Ultralytics 8.3.0 gives every Detect those of YOLO11."""
    old, new = trained_head("classes"), LightDetect(3, CH, "none", 0.5, 0.5)
    fresh = error(new, old)
    assert apply_start(new, old, levels())
    assert error(new, old) < min(0.6, fresh)


def entropy(found: torch.Tensor, trained: torch.Tensor) -> float:
    """Return the cross-entropy of class logits with trained probabilities, less its least value, a position."""
    loss = nn.functional.binary_cross_entropy_with_logits
    truth = trained.sigmoid()
    return float(loss(found, truth) - loss(trained, truth))


@pytest.mark.parametrize("make", [lambda: SharedDetect(3, CH), lambda: LightDetect(3, CH, "both", 0.25, 0.25)])
def test_predictions_are_fitted_to_what_a_head_is_judged_by(make):
    """Where nearly everything is background: better than the best that says the same everywhere, and unbiased."""
    old, new, x = trained_head(), make(), levels()
    for branch in old.cv3:
        nn.init.constant_(branch[-1].bias, -8.0)
        nn.init.normal_(branch[-1].weight, 0, 1.5)
    assert apply_start(new, old, x)
    with torch.no_grad():
        for (_, found), (_, trained) in zip(head_maps(new.eval(), x), head_maps(old, x), strict=True):
            mean = trained.sigmoid().mean((0, 2, 3), keepdim=True)
            constant = (mean / (1 - mean)).log().expand_as(trained)
            assert entropy(found, trained) < entropy(constant, trained)
            assert found.sigmoid().mean().item() == pytest.approx(mean.mean().item(), rel=0.5)


def test_positions_that_matter_are_drawn_more_often_and_counted_less():
    x = torch.rand(2, 3, 64, 64)
    matter = torch.zeros(2, 64, 64)
    matter[0, :4] = 1.0
    at, often = sites_where(x, 8, matter)
    there = matter[at.image, at.row, at.column] > 0
    assert 0.4 < there.double().mean() < 0.6
    counted = (there.double() / often).sum() / (1 / often).sum()
    assert counted.item() == pytest.approx(4 / 128, rel=0.2)


@pytest.mark.parametrize("nc", [70, 92])
def test_a_light_head_is_no_wider_than_the_trained_one(nc):
    """The stock head has as many channels as classes, up to 100, in no multiples of 8."""
    legacy = getattr(Detect, "legacy", False)
    Detect.legacy = True
    try:
        old = Detect(nc=nc, ch=CH)
    finally:
        Detect.legacy = legacy
    new = LightDetect(nc, CH)
    assert new.cv3[0][-1].in_channels <= old.cv3[0][-1].in_channels
    assert apply_start(new, old.eval(), levels(2))


def test_a_foreign_head_is_refused():
    old = trained_head()
    for new in (LightDetect(4, CH), LightDetect(3, (24, 32, 64)), LightDetect(3, CH[:2]), SharedDetect(4, CH)):
        before = copy.deepcopy(new.state_dict())
        assert apply_start(new, old, levels()) is False
        assert all(torch.equal(new.state_dict()[k], v) for k, v in before.items())
    assert apply_start(LightDetect(3, CH), LightDetect(3, CH)) is False
    assert apply_start(LightDetect(3, CH), train(nn.Conv2d(3, 3, 1), 3, True)) is False


def test_a_head_is_a_detect():
    with pytest.raises(ValueError, match="a head is a subclass of Ultralytics' Detect"):
        register(rule="head", kinds={"head"}, paper="-", summary="-")(type("Odd", (nn.Module,), {"__module__": "odd"}))


@pytest.mark.parametrize("base", ["yolov10n", "yolo26"])
def test_heads_without_nms_stay(base):
    graph = load_base(base)
    with pytest.raises(SpaceError, match=r"expected Detect|cannot be swapped"):
        parse_swaps(base, graph.default_scale, [f"{graph.names[-1]}=LightDetect"])
