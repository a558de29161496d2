"""What tasks have besides boxes and classes, compared: masks, key points, angles."""

from __future__ import annotations

import math

import pytest
import torch

from nas.bank.further_score import classes_apart, further_divergence
from nas.bank.jobs import OutputScore
from nas.bank.output_score import score_from_plain, score_to_plain
from nas.model.host import build
from nas.model.render import render
from nas.space.bases import load_base, task_of_base
from nas.space.variant import Variant
from nas.training.host_version import further_of

SIZES = (4, 1)
WEIGHT = torch.tensor([[0.5, 0.0, 1.0, 0.25, 1.0]])


def test_masks_are_compared_by_their_pixels():
    one = {"mask_coefficient": torch.randn(1, 3, 5), "proto": torch.randn(1, 3, 2, 4)}
    other = {"mask_coefficient": torch.randn(1, 3, 5), "proto": torch.randn(1, 3, 2, 4)}
    masks = [torch.einsum("ca,chw->ahw", x["mask_coefficient"][0], x["proto"][0]) for x in (one, other)]
    bernoulli = torch.distributions.Bernoulli
    apart = torch.distributions.kl_divergence(*(bernoulli(logits=m) for m in masks)).mean((1, 2)) * WEIGHT[0]
    found = further_divergence(one, other, WEIGHT, SIZES)
    assert torch.allclose(found, torch.stack([apart[:4].sum(), apart[4:].sum()])[None], atol=1e-5)
    assert torch.allclose(further_divergence(one, one, WEIGHT, SIZES), torch.zeros(1, 2), atol=1e-5)


def test_classes_are_compared_by_their_probabilities():
    one, other = torch.randn(2, 3, 5)
    found = classes_apart(one, other)
    kinds = [torch.distributions.Categorical(logits=logits) for logits in (one, other)]
    assert torch.allclose(found[:, 0, 0], torch.distributions.kl_divergence(*kinds), atol=1e-6)
    assert found.shape == (3, 1, 2)
    assert not found[:, 0, 1].any()
    assert classes_apart(one, one).abs().max() < 1e-6


def test_points_in_strides_and_angles_by_their_sine():
    points = torch.randn(1, 6, 5)
    found = further_divergence({"kpts": points}, {"kpts": points + 0.5}, WEIGHT, SIZES)
    assert found.tolist() == [pytest.approx([1.75, 1.0])]
    angle = torch.rand(1, 1, 5)
    for turn, expected in ((math.pi, 0.0), (math.pi / 2, 1.0), (math.pi / 6, 0.5)):
        found = further_divergence({"angle": angle}, {"angle": angle + turn}, WEIGHT, SIZES)
        assert found.tolist() == [pytest.approx([1.75 * expected, expected], abs=1e-5)]
    assert further_divergence({}, {}, WEIGHT, SIZES) is None


@pytest.mark.parametrize("base", ["yolov8", "yolov8-seg", "yolov8-pose", "yolov8-obb", "yolo26-seg", "yolo26-obb"])
def test_it_is_read_from_the_heads_of_the_host(base):
    model = build(render(Variant(base, load_base(base).default_scale)).yaml, "n", 3)
    model.model[-1].training = True
    with torch.no_grad():
        raw = model(torch.rand(2, 3, 64, 96))
    found = further_of(raw, task_of_base(base))
    expected = {"segment": {"mask_coefficient", "proto"}, "pose": {"kpts"}, "obb": {"angle"}}
    assert set(found) == expected.get(task_of_base(base).name, set())
    assert all(len(part) == 2 and part.dtype == torch.float32 for part in found.values())


def test_a_score_of_detection_is_stored_as_before():
    plain = score_to_plain(OutputScore((1.0,), (2.0,), (3.0, 3.0)))
    assert set(plain) == {"classes", "boxes", "halves", "failure"}
    assert score_from_plain(plain) == OutputScore((1.0,), (2.0,), (3.0, 3.0))
    masks = OutputScore((1.0,), (2.0,), (3.5, 3.5), further=(0.5,))
    assert masks.parts == (1.0, 2.0, 0.5)
    assert score_from_plain(score_to_plain(masks)) == masks
    with pytest.raises(ValueError, match="not of the same levels"):
        score_from_plain({**score_to_plain(masks), "further": [1.0, 2.0]})
