"""AKConv, DCNv2, DCNv3 and DSConv against torchvision's deformable convolution, or point by point."""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional
from torchvision.ops import deform_conv2d

from nas.ops.akconv import AKConv
from nas.ops.dcnv2 import DCNv2
from nas.ops.dcnv3 import DCNv3
from nas.ops.dsconv import DSConv


def bilinear(image, p, q):
    """Return an image (C, H, W) at a point, the border's pixels beyond it."""
    h, w = image.shape[1:]
    p, q = min(max(float(p), 0.0), h - 1), min(max(float(q), 0.0), w - 1)
    r, s = math.floor(p), math.floor(q)
    r1, s1 = min(r + 1, h - 1), min(s + 1, w - 1)
    a, b = p - r, q - s
    upper = image[:, r, s] * (1 - b) + image[:, r, s1] * b
    return upper * (1 - a) + (image[:, r1, s] * (1 - b) + image[:, r1, s1] * b) * a


@pytest.mark.parametrize("s", [1, 2])
@pytest.mark.parametrize("points", [1, 5, 9, 11])
def test_akconv_point_by_point(perturb, s, points):
    module = perturb(AKConv(3, 4, 3, s, points)).double().eval()
    x = torch.randn(2, 3, 5, 6, dtype=torch.float64)
    with torch.no_grad():
        offsets = module.p_conv(x)
        n, _, ho, wo = offsets.shape
        sums = torch.zeros(n, 4, ho, wo, dtype=torch.float64)
        weight, b = module.conv.conv.weight.view(4, 3, points), round(math.sqrt(points))
        for image in range(n):
            for i in range(ho):
                for j in range(wo):
                    for t in range(points):
                        p = s * i + t // b + offsets[image, t, i, j]
                        q = s * j + t % b + offsets[image, points + t, i, j]
                        sums[image, :, i, j] += weight[:, :, t] @ bilinear(x[image], p, q)
        torch.testing.assert_close(module(x), functional.silu(module.conv.bn(sums)))


def test_akconv_predicts_constants_at_first():
    module = AKConv(4, 4)
    assert not module.p_conv.weight.any()
    assert module.p_conv.bias.all()


def same_with_gradients(module, x, expected):
    """Compare a module's output and the gradients of all that it depends on with those of a formula's."""
    y, by = module(x), [x, *module.parameters()]
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    wanted = torch.autograd.grad((expected * weight).sum(), by)
    for found, grad in zip(torch.autograd.grad((y * weight).sum(), by), wanted, strict=True):
        torch.testing.assert_close(found, grad)


@pytest.mark.parametrize(
    ("k", "s", "dilation", "groups"),
    [(3, 1, 1, 1), (3, 2, 1, 1), (5, 2, 1, 1), (1, 1, 1, 1), (3, 1, 2, 1), (3, 2, 3, 2), (3, 1, 1, 2), (5, 1, 2, 2)],
)
def test_dcnv2_is_torchvisions(perturb, k, s, dilation, groups):
    module = perturb(DCNv2(4, 6, k, s, dilation, groups), 0.3).double().eval()
    x = torch.randn(2, 4, 7, 6, dtype=torch.float64, requires_grad=True)
    pad, predict = dilation * (k // 2), module.conv_offset_mask
    predicted = functional.conv2d(x, predict.weight, predict.bias, s, pad, dilation)
    offset, mask = predicted[:, : 2 * k * k], predicted[:, 2 * k * k :].sigmoid()
    weight = module.conv.conv.weight.view(6, 4 // groups, k, k)
    y = deform_conv2d(x, offset, weight, None, s, pad, dilation, mask)
    same_with_gradients(module, x, functional.silu(module.conv.bn(y)))


@pytest.mark.parametrize(
    ("k", "s", "width", "scale", "dilation"),
    [(3, 1, 4, 1.0, 1), (3, 2, 8, 1.0, 1), (5, 1, 2, 1.0, 1), (3, 1, 4, 2.0, 1), (3, 2, 4, 1.0, 3), (3, 1, 8, 0.5, 2)],
)
def test_dcnv3_is_torchvisions(perturb, k, s, width, scale, dilation):
    """A depthwise kernel of ones; the paper's points go down columns, torchvision's along rows."""
    module = perturb(DCNv3(8, 6, k, s, width, scale, dilation), 0.3).double().eval()
    x = torch.randn(2, 8, 7, 6, dtype=torch.float64, requires_grad=True)
    groups = 8 // width
    value = functional.linear(x.movedim(1, 3), module.input_proj.weight, module.input_proj.bias).movedim(3, 1)
    t = module.dw_conv(x)
    offset = module.offset(t).unflatten(1, (groups, k, k, 2))  # column of the tap, its row; x, y
    mask = module.mask(t).unflatten(1, (groups, k * k)).softmax(2).unflatten(2, (k, k))
    line = dilation * (torch.arange(k, dtype=torch.float64) - k // 2)
    grid = torch.stack(torch.meshgrid(line, line, indexing="ij"), 2)[None, None, ..., None, None]
    offset = scale * offset + (scale - 1) * grid
    offset = offset.transpose(2, 3).flip(4).flatten(1, 4)
    mask = mask.transpose(2, 3).flatten(1, 3)
    ones = torch.ones(8, 1, k, k, dtype=torch.float64)
    y = deform_conv2d(value, offset, ones, None, s, dilation * (k // 2), dilation, mask)
    y = functional.conv2d(y, module.output_proj.weight[:, :, None, None])
    same_with_gradients(module, x, functional.silu(module.bn(y)))


@pytest.mark.parametrize(("points", "scope"), [(3, 1.0), (5, 2.0)])
def test_dsconv_point_by_point(perturb, points, scope):
    module = perturb(DSConv(3, 4, 3, 1, points, scope), 0.3).double().eval()
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    c = points // 2
    with torch.no_grad():
        steps = module.offset_conv(x)
        assert steps.abs().max() <= 1
        parts = [module.conv(x)]
        for line, layer in enumerate((module.dsc_conv_x, module.dsc_conv_y)):
            weight = layer.conv.weight.view(4, 3, points)
            sums = torch.zeros(2, 4, 4, 5, dtype=torch.float64)
            for n in range(2):
                for i in range(4):
                    for j in range(5):
                        o = steps[n, line * points : (line + 1) * points, i, j]
                        for k in range(points):
                            across = scope * (o[c + 1 : k + 1].sum() if k > c else o[k:c].sum())
                            p, q = (i + across, j + k - c) if line == 0 else (i + k - c, j + across)
                            sums[n, :, i, j] += weight[:, :, k] @ bilinear(x[n], p, q)
            parts.append(functional.silu(layer.bn(sums)))
        torch.testing.assert_close(module(x), module.mix(torch.cat(parts, 1)))


def test_macs_are_the_closed_form(macs):
    x, pixels = torch.randn(1, 16, 10, 12), 5 * 6
    assert macs(AKConv(16, 24, 3, 2, 5), x) == pixels * (9 * 16 * 10 + 5 * 16 * 24 + 5 * (4 * 16 + 10))
    assert macs(DCNv2(16, 24, 3, 2), x) == pixels * 9 * (16 * 24 + 3 * 9 * 16 + 4 * 16 + 10)
    assert macs(DCNv2(16, 24, 3, 2, 2, 4), x) == pixels * 9 * (4 * 24 + 3 * 9 * 16 + 4 * 16 + 10)
    # depthwise, offsets and masks, the output; per pixel of the input its projection
    dcnv3 = pixels * (9 * 16 + 3 * 2 * 9 * 16 + 16 * 24 + 9 * (4 * 16 + 2 * 10)) + 10 * 12 * 16 * 16
    assert macs(DCNv3(16, 24, 3, 2, 8), x) == dcnv3
    assert macs(DCNv3(16, 24, 3, 2, 8, dilation=3), x) == dcnv3
    snake = 9 * 16 * 24 + 9 * 16 * 2 * 7 + 2 * 7 * 16 * 24 + 3 * 24 * 24 + 2 * 7 * (4 * 16 + 10)
    assert macs(DSConv(16, 24, 3, 1, 7), x) == 10 * 12 * snake


@pytest.mark.parametrize("cls", [AKConv, DCNv2, DCNv3, DSConv])
def test_fuse_folds_every_norm_it_can(perturb, fused, cls):
    module, x = perturb(cls(8, 12)).eval(), torch.randn(2, 8, 6, 7)
    after = fused(module)
    with torch.no_grad():
        torch.testing.assert_close(after(x), module(x), rtol=1e-4, atol=1e-4)
    left = [name for name, m in after.named_modules() if isinstance(m, nn.BatchNorm2d)]
    assert left == (["bn"] if cls is DCNv3 else [])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: AKConv(4, 4, 2), "AKConv: k=2, s=1: expected an odd kernel and a stride"),
        (lambda: AKConv(4, 4, num_param=0), "num_param=0: expected 1 or more"),
        (lambda: DCNv2(4, 4, 3, 0), "stride of 1 or more"),
        (lambda: DCNv2(4, 4, dilation=0), "DCNv2: dilation=0: expected 1 or more"),
        (lambda: DCNv2(4, 6, groups=4), "DCNv2: 4 to 6 channels, groups=4: expected groups that divide"),
        (lambda: DCNv3(4, 4, dilation=0), "DCNv3: dilation=0: expected 1 or more"),
        (lambda: DCNv3(4, 4, group_width=0), "group_width=0: expected 1 or more"),
        (lambda: DSConv(4, 4, 3, 2), "expected an odd kernel and stride 1"),
        (lambda: DSConv(4, 4, points=4), "points=4: expected an odd number of 3 or more"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(ValueError, match=message):
        make()
