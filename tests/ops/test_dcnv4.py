"""DCNv4 against loops over pixels, taps and corners."""

import copy
import math

import pytest
import torch
from torch.nn import functional

from nas.ops.dcnv4 import DCNv4, dcnv4
from nas.ops.registry import get, macs_rules


def oracle(x, om, kernel, stride, pad, dilation, groups, offset_scale, remove_center):
    """The authors' formula, term by term; differentiable, with the gradient of each piece."""
    (kh, kw), (sh, sw), (ph, pw), (dh, dw) = kernel, stride, pad, dilation
    n, h, w, c = x.shape
    d = c // groups
    ho, wo = (h + 2 * ph - dh * (kh - 1) - 1) // sh + 1, (w + 2 * pw - dw * (kw - 1) - 1) // sw + 1
    bh, bw = (dh * (kh - 1)) >> 1, (dw * (kw - 1)) >> 1
    taps = [(i, j) for i in range(kw) for j in range(kh) if not (remove_center and (i, j) == (kw // 2, kh // 2))]
    k = len(taps)
    out = []
    for b in range(n):
        for oy in range(ho):
            for ox in range(wo):
                for g in range(groups):
                    total = torch.zeros(d, dtype=x.dtype)
                    for t, (i, j) in enumerate(taps):
                        off_x, off_y = om[b, oy, ox, g * 3 * k + 2 * t], om[b, oy, ox, g * 3 * k + 2 * t + 1]
                        m = om[b, oy, ox, g * 3 * k + 2 * k + t]
                        wk = (bw - pw + ox * sw) - bw * offset_scale + (i * dw + off_x) * offset_scale
                        hk = (bh - ph + oy * sh) - bh * offset_scale + (j * dh + off_y) * offset_scale
                        if not (-1 < hk.item() < h and -1 < wk.item() < w):
                            continue
                        h0, w0 = math.floor(hk.item()), math.floor(wk.item())
                        for yy, xx, share in (
                            (h0, w0, (1 - (hk - h0)) * (1 - (wk - w0))),
                            (h0, w0 + 1, (1 - (hk - h0)) * (wk - w0)),
                            (h0 + 1, w0, (hk - h0) * (1 - (wk - w0))),
                            (h0 + 1, w0 + 1, (hk - h0) * (wk - w0)),
                        ):
                            if 0 <= yy < h and 0 <= xx < w:
                                total = total + m * share * x[b, yy, xx, g * d : (g + 1) * d]
                    out.append(total)
    return torch.stack(out).view(n, ho, wo, c)


def entries(kernel, groups, remove_center=False):
    return 3 * groups * (kernel[0] * kernel[1] - remove_center)


# kernel, stride, pad, dilation, groups, channels, offset_scale, remove_center
CASES = {
    "3x3": ((3, 3), (1, 1), (1, 1), (1, 1), 2, 6, 1.0, False),
    "stride 2": ((3, 3), (2, 2), (1, 1), (1, 1), 1, 5, 1.0, False),
    "no centre": ((3, 3), (1, 1), (1, 1), (1, 1), 2, 4, 1.0, True),
    "scaled": ((3, 3), (1, 1), (1, 1), (1, 1), 1, 3, 1.7, False),
    "scaled, dilated": ((3, 3), (1, 2), (2, 2), (2, 2), 1, 2, 0.5, True),
    "rectangular": ((1, 3), (1, 1), (0, 1), (1, 1), 2, 4, 1.0, False),
    "rectangular, no centre": ((3, 2), (2, 1), (1, 1), (1, 2), 1, 2, 2.0, True),
    "even": ((2, 2), (1, 1), (1, 1), (1, 1), 1, 3, 1.5, False),
    "even, dilated": ((4, 2), (2, 2), (3, 1), (2, 1), 1, 2, 1.0, False),
    "no padding": ((3, 3), (1, 1), (0, 0), (1, 1), 1, 2, 1.0, False),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("spread", [0.0, 0.4, 4.0])
def test_equals_the_formula_and_its_gradient(case, spread):
    """Spread 0 puts every point on a whole pixel, or exactly one beside the image, where the pieces meet."""
    kernel, stride, pad, dilation, groups, c, scale, remove_center = CASES[case]
    h, w = 5, 4
    ho, wo = (
        (size + 2 * p - d * (k - 1) - 1) // s + 1
        for size, p, d, k, s in zip((h, w), pad, dilation, kernel, stride, strict=True)
    )
    x = torch.randn(1, h, w, c, dtype=torch.float64, requires_grad=True)
    om = torch.randn(1, ho, wo, entries(kernel, groups, remove_center) + 2, dtype=torch.float64)
    k = kernel[0] * kernel[1] - remove_center
    for g in range(groups):
        om[..., g * 3 * k : g * 3 * k + 2 * k] *= spread
    om.requires_grad_()
    expected = oracle(x, om, kernel, stride, pad, dilation, groups, scale, remove_center)
    y = dcnv4(
        x,
        om,
        kernel=kernel,
        stride=stride,
        pad=pad,
        dilation=dilation,
        groups=groups,
        offset_scale=scale,
        remove_center=remove_center,
    )
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    for ours, theirs in zip(
        torch.autograd.grad(y, (x, om), upstream), torch.autograd.grad(expected, (x, om), upstream), strict=True
    ):
        torch.testing.assert_close(ours, theirs)


def test_gradcheck():
    x = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    om = torch.rand(1, 3, 4, 56, dtype=torch.float64) * 0.8 + 0.1  # away from whole coordinates
    om.requires_grad_()

    def forward(x, om):
        return dcnv4(x, om, kernel=3, pad=1, groups=2)

    assert torch.autograd.gradcheck(forward, (x, om))


@pytest.mark.parametrize("size", [(20, 28), (13, 40), (80, 80)])
def test_points_on_whole_pixels_get_the_gradient_of_the_piece_above(size):
    """In float32 too, and at sizes that are no power of two: all taps are there when training starts."""
    h, w = size
    x, upstream = torch.randn(1, h, w, 3), torch.randn(1, h, w, 3)
    om = torch.zeros(1, h, w, 3)
    om[..., 2] = 1
    om.requires_grad_()
    dcnv4(x, om, kernel=1).backward(upstream)
    right = torch.cat((x[:, :, 1:], torch.zeros(1, h, 1, 3)), 2)
    below = torch.cat((x[:, 1:], torch.zeros(1, 1, w, 3)), 1)
    torch.testing.assert_close(om.grad[..., 0], ((right - x) * upstream).sum(-1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(om.grad[..., 1], ((below - x) * upstream).sum(-1), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30, 3e9])
def test_points_at_nan_or_infinity_add_nothing(bad):
    x = torch.randn(1, 4, 5, 4, requires_grad=True)
    om = torch.randn(1, 4, 5, 32)
    om.requires_grad_()
    with torch.no_grad():
        om[0, 1, 2, 0] = bad  # off_x of the first tap
        om[0, 2, 3, 5] = bad  # off_y of the third
    y = dcnv4(x, om, kernel=3, pad=1)
    y.sum().backward()
    for tensor in (y, x.grad, om.grad):
        assert tensor.isfinite().all()
    with torch.no_grad():
        om[0, 1, 2, 18] = om[0, 2, 3, 20] = 0
        om[0, 1, 2, 0] = om[0, 2, 3, 5] = 0
    torch.testing.assert_close(dcnv4(x, om, kernel=3, pad=1), y)


def test_exported_form_is_the_same(monkeypatch):
    x, om = torch.randn(2, 5, 6, 4), torch.randn(2, 5, 6, 56)
    eager = dcnv4(x, om, kernel=3, pad=1, groups=2)
    monkeypatch.setattr("nas.ops.functional.dcnv4.exporting", lambda: True)
    torch.testing.assert_close(dcnv4(x, om, kernel=3, pad=1, groups=2), eager, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_samples_where_float32_does(dtype):
    """Only the values are rounded: at 80 pixels, coordinates in bfloat16 would be 0.25 pixels off."""
    x, om = torch.randn(1, 80, 80, 8).to(dtype), torch.randn(1, 80, 80, 32).to(dtype)
    y = dcnv4(x, om, kernel=3, pad=1)
    expected = dcnv4(x.float(), om.float(), kernel=3, pad=1)
    assert y.dtype == dtype
    torch.testing.assert_close(y, expected.to(dtype))


def test_non_contiguous_input_and_empty_batch():
    x, om = torch.randn(2, 4, 6, 5).permute(0, 3, 2, 1), torch.randn(2, 6, 5, 64)[..., ::2].transpose(1, 2)
    expected = dcnv4(x.contiguous(), om.contiguous(), kernel=3, pad=1)
    torch.testing.assert_close(dcnv4(x, om, kernel=3, pad=1), expected)
    assert dcnv4(x[:0], om[:0], kernel=3, pad=1).shape == (0, 5, 6, 4)


@pytest.mark.parametrize(
    ("groups", "om", "message"),
    [(3, (1, 4, 4, 88), "expected a multiple"), (1, (1, 3, 4, 32), "expected"), (2, (1, 4, 4, 32), "at least 54")],
)
def test_refuses(groups, om, message):
    with pytest.raises(ValueError, match=message):
        dcnv4(torch.zeros(1, 4, 4, 4), torch.zeros(om), kernel=3, pad=1, groups=groups)


# The module


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"dw_kernel_size": 3},
        {"center_feature_scale": True},
        {"remove_center": True, "offset_scale": 2.0},
        {"dilation": 2},
        {"dilation": 3, "remove_center": True, "offset_scale": 0.5},
        {"output_bias": False, "dw_kernel_size": 5, "center_feature_scale": True},
    ],
    ids=str,
)
def test_bare_module_is_the_authors(perturb, options):
    c, groups = 6, 2
    module = perturb(DCNv4(c, c, group_width=3, bn=False, act=False, **options), 0.3).double()
    k = 9 - options.get("remove_center", False)
    x = torch.randn(1, c, 4, 5, dtype=torch.float64)
    nhwc = x.permute(0, 2, 3, 1)
    p = dict(module.named_parameters())
    with torch.no_grad():
        value = nhwc @ p["value_proj.weight"].T + p["value_proj.bias"]
        source = nhwc
        if "dw_kernel_size" in options:
            dw = options["dw_kernel_size"]
            source = functional.conv2d(x, p["offset_mask_dw.weight"], p["offset_mask_dw.bias"], 1, dw // 2, groups=c)
            source = source.permute(0, 2, 3, 1)
        om = source @ p["offset_mask.weight"].T + p["offset_mask.bias"]
        one, apart = (1, 1), (options.get("dilation", 1),) * 2
        y = oracle(value, om, (3, 3), one, apart, apart, groups, options.get("offset_scale", 1.0), k == 8)
        if options.get("center_feature_scale"):
            weight, bias = p["center_feature_scale_proj_weight"], p["center_feature_scale_proj_bias"]
            a = (y @ weight.T + bias).sigmoid().repeat_interleave(c // groups, -1)
            y = y * (1 - a) + value * a
        y = y @ p["output_proj.weight"].T + p.get("output_proj.bias", 0)
        torch.testing.assert_close(module(x), y.permute(0, 3, 1, 2))


def test_state_keys_and_shapes():
    module = DCNv4(32, 32, dw_kernel_size=3, center_feature_scale=True, bn=False, act=False)
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {
        "value_proj.weight": (32, 32),
        "value_proj.bias": (32,),
        "output_proj.weight": (32, 32),
        "output_proj.bias": (32,),
        "offset_mask.weight": (56, 32),  # 2 groups of 27, padded to a multiple of 8
        "offset_mask.bias": (56,),
        "offset_mask_dw.weight": (32, 1, 3, 3),
        "offset_mask_dw.bias": (32,),
        "center_feature_scale_proj_weight": (2, 32),
        "center_feature_scale_proj_bias": (2,),
    }
    assert "output_proj.bias" not in DCNv4(32, 32).state_dict()


def test_the_authors_output_bias_goes_into_the_norm(perturb):
    """What loads into the module without a norm computes the same in front of one."""
    bare, module = perturb(DCNv4(8, 8, bn=False, act=False), 0.3), perturb(DCNv4(8, 8, act=False)).eval()
    state = {key: value.clone() for key, value in bare.state_dict().items()}
    x, bn = torch.randn(2, 8, 5, 6), copy.deepcopy(module.bn)
    loaded = module.load_state_dict(state, strict=False)
    assert set(loaded.missing_keys) == {"bn.weight", "bn.bias", "bn.running_var"}
    assert not loaded.unexpected_keys
    torch.testing.assert_close(module(x), bn(bare(x)), rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, bare.state_dict()[key]) for key, value in state.items()), "what is given stays"


@pytest.mark.parametrize(
    "options",
    [{}, {"dw_kernel_size": 3}, {"center_feature_scale": True}, {"k": 5}, {"dilation": 2}],
    ids=str,
)
@pytest.mark.parametrize("s", [2, 3])
@pytest.mark.parametrize("size", [(7, 6), (1, 1), (4, 9)])
def test_stride_takes_every_s_th_pixel(perturb, options, s, size):
    """Offsets come from the kernels' centres, so a stride is the same as skipping outputs."""
    full = perturb(DCNv4(8, 4, **options), 0.3).eval()
    strided = DCNv4(8, 4, s=s, **options).eval()
    strided.load_state_dict(full.state_dict())
    x = torch.randn(2, 8, *size)
    torch.testing.assert_close(strided(x), full(x)[..., ::s, ::s])


@pytest.mark.parametrize(
    ("c1", "width", "groups"),
    [(32, 16, 2), (24, 16, 2), (48, 16, 3), (3, 16, 1), (20, 16, 2), (40, 16, 4), (8, 100, 1), (6, 1, 6)],
)
def test_groups_divide_every_number_of_channels(c1, width, groups):
    module = DCNv4(c1, 8, group_width=width).eval()
    assert module.groups == groups
    assert module(torch.randn(1, c1, 3, 4)).shape == (1, 8, 3, 4)


def test_starts_as_a_mean():
    module = DCNv4(4, 4, bn=False, act=False)
    with torch.no_grad():
        for projection in (module.value_proj, module.output_proj):
            projection.weight.copy_(torch.eye(4))
    x = torch.randn(1, 4, 5, 6)
    torch.testing.assert_close(module(x), functional.avg_pool2d(x, 3, 1, 1))


@pytest.mark.parametrize("bn", [False, True])
def test_everything_learns_within_two_steps(bn):
    """From a weight of zero, as the authors start it, only the mask's bias and the output's bias would at first."""
    module = DCNv4(8, 8, dw_kernel_size=3, center_feature_scale=True, bn=bn).double()
    x, target = torch.randn(2, 8, 6, 6, dtype=torch.float64), torch.randn(2, 8, 6, 6, dtype=torch.float64)
    optimizer = torch.optim.SGD(module.parameters(), 0.1)
    late = set()
    for step in range(2):
        optimizer.zero_grad()
        (module(x) - target).square().mean().backward()
        late = {name for name, p in module.named_parameters() if p.grad.abs().max() < 1e-9}
        if step == 0:
            assert late == {"offset_mask_dw.weight", "offset_mask_dw.bias"}, "they wait for the offsets' weights"
            assert module.offset_mask.weight.grad[:18].abs().min(1).values.min() > 0, "every offset learns at once"
        optimizer.step()
    assert not late


def test_macs_are_the_closed_form():
    module, x = DCNv4(32, 8, s=2, remove_center=True), torch.randn(2, 32, 5, 7)
    expected = 2 * 3 * 4 * (4 * 32 * 8 + 10 * 2 * 8)  # flops: 8 C K + 20 G K per output pixel
    assert macs_rules()[DCNv4](module, (x,), module(x)) == expected
    module = DCNv4(32, 8, center_feature_scale=True)
    expected = 2 * 5 * 7 * (4 * 32 * 9 + 10 * 2 * 9 + 32 * 2 + 32)
    assert macs_rules()[DCNv4](module, (x,), module(x)) == expected


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"k": 4}, "odd kernel"),
        ({"k": 1, "remove_center": True}, "no tap is left"),
        ({"dw_kernel_size": 2}, "0 for none"),
        ({"group_width": 0}, "group_width=0: expected 1 or more"),
        ({"dilation": 0}, "dilation=0: expected 1 or more"),
    ],
)
def test_module_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        DCNv4(8, 8, **wrong)


def test_fits_only_what_it_can_build():
    fits = get("DCNv4").fits
    assert [k for k in range(1, 8) if fits({"kernel": k, "stride": 1})] == [3, 5, 7]
