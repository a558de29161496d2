"""Attentions that multiply by a gate, each against its formula, one plain operation at a time."""

from __future__ import annotations

import warnings

import onnxruntime
import pytest
import torch
from contract_cases import counted
from torch.nn import functional

from nas.ops.attention.channel import ECA, SE, SENetV2
from nas.ops.attention.ema import EMA
from nas.ops.attention.lska import KERNELS, LSKA
from nas.ops.attention.position import CBAM, GAM, CoordAtt
from nas.ops.attention.simam import SimAM

C, H, W = 32, 5, 7


def norm(x, bn):
    """Batch norm in evaluation."""
    shape = (1, -1, 1, 1)
    mean, var = bn.running_mean.view(shape), bn.running_var.view(shape)
    return (x - mean) / (var + bn.eps).sqrt() * bn.weight.view(shape) + bn.bias.view(shape)


def se(m, x):
    v = x.sum((2, 3)) / (H * W)
    return x * torch.sigmoid(torch.relu(v @ m.fc[0].weight.T) @ m.fc[2].weight.T)[:, :, None, None]


def senetv2(m, x):
    """Four hidden layers side by side, as in the paper."""
    v = x.mean((2, 3))
    weights, biases = m.fc[0].weight.chunk(4), m.fc[0].bias.chunk(4)
    hidden = torch.cat([torch.relu(functional.linear(v, w, b)) for w, b in zip(weights, biases, strict=True)], 1)
    g = torch.sigmoid(hidden @ m.fc[2].weight.T + m.fc[2].bias)[:, :, None, None]
    return x + x * g if m.residual else x * g


def eca(m, x):
    v, weight = x.mean((2, 3)), m.conv.weight.flatten()
    reach = len(weight) // 2
    padded = functional.pad(v, (reach, reach))
    g = torch.stack([padded[:, i : i + len(weight)] @ weight for i in range(C)], 1).sigmoid()
    return x * g[:, :, None, None]


def cbam(m, x):
    def mlp(v):
        return functional.linear(
            torch.relu(functional.linear(v, m.mlp[0].weight, m.mlp[0].bias)), *m.mlp[2].parameters()
        )

    flat = x.flatten(2)
    y = x * torch.sigmoid(mlp(flat.mean(2)) + mlp(flat.max(2).values))[:, :, None, None]
    maps = torch.stack((y.max(1).values, y.mean(1)), 1)
    return y * torch.sigmoid(norm(functional.conv2d(maps, m.conv.weight, padding=3), m.bn))


def coordatt(m, x):
    def first(v):  # (N, C, length)
        z = torch.einsum("oc,ncl->nol", m.conv1.weight[:, :, 0, 0], v)
        z = norm(z.unsqueeze(3), m.bn1).squeeze(3)
        return z * (z + 3).clamp(0, 6) / 6

    def second(conv, v):
        return (torch.einsum("oc,ncl->nol", conv.weight[:, :, 0, 0], v) + conv.bias[:, None]).sigmoid()

    rows, columns = second(m.conv_h, first(x.mean(3))), second(m.conv_w, first(x.mean(2)))
    return x * rows[:, :, :, None] * columns[:, :, None, :]


def gam(m, x):
    first, _, last = m.channel_attention
    hidden = torch.einsum("oc,nchw->nohw", first.weight[:, :, 0, 0], x) + first.bias.view(1, -1, 1, 1)
    a = torch.einsum("oc,nchw->nohw", last.weight[:, :, 0, 0], hidden.relu()) + last.bias.view(1, -1, 1, 1)
    u = x * (a.sigmoid() if m.channel_sigmoid else a)
    conv1, bn1, _, conv2, bn2 = m.spatial_attention
    t = norm(functional.conv2d(u, conv1.weight, padding=3), bn1).relu()
    return u * norm(functional.conv2d(t, conv2.weight, padding=3), bn2).sigmoid()


def simam(m, x):
    values = x.flatten(2)
    d = (values - values.mean(2, keepdim=True)) ** 2
    v = values.var(2, keepdim=True)  # unbiased
    return x * torch.sigmoid(d / (4 * (v + m.e_lambda)) + 0.5).view_as(x)


def ema(m, x):
    """Group by group, with means where the module uses what they come to."""
    k = C // m.groups
    parts = []
    for part in x.split(k, 1):
        line = torch.cat((part.mean(3), part.mean(2)), 2)
        line = torch.einsum("oc,ncl->nol", m.conv1x1.weight[:, :, 0, 0], line) + m.conv1x1.bias[:, None]
        a, b = line[:, :, :H].sigmoid(), line[:, :, H:].sigmoid()
        gated = part * a[:, :, :, None] * b[:, :, None, :]
        z = functional.instance_norm(gated, weight=m.gn.weight, bias=m.gn.bias, eps=m.gn.eps)
        v = functional.conv2d(part, m.conv3x3.weight, m.conv3x3.bias, padding=1)
        p, q = z.mean((2, 3)).softmax(1), v.mean((2, 3)).softmax(1)
        w = torch.einsum("nc,nchw->nhw", p, v) + torch.einsum("nc,nchw->nhw", q, z)
        parts.append(part * w.sigmoid().unsqueeze(1))
    return torch.cat(parts, 1)


FORMULAS = [
    (SE(C), se),
    (SE(C, 64), se),
    (SENetV2(C, 8), senetv2),
    (SENetV2(C, residual=False), senetv2),
    (ECA(C), eca),
    (ECA(C, 1, 2), eca),
    (CBAM(C), cbam),
    (CoordAtt(C), coordatt),
    (GAM(C), gam),
    (GAM(C, 64, False), gam),
    (SimAM(C), simam),
    (EMA(C), ema),
    (EMA(C, 8), ema),
    (EMA(C, 12), ema),
]


@pytest.mark.parametrize(("module", "formula"), FORMULAS, ids=lambda v: type(v).__name__ if callable(v) else "")
@pytest.mark.parametrize("scale", [1.0, 0.3, 0.0])
def test_equals_the_formula(perturb, module, formula, scale):
    """Whole at scale 1, as published; part of the way from the input to there below it."""
    module = perturb(module, 0.3).double().eval()
    module.residual_scale.data.fill_(scale)
    x = torch.randn(2, C, H, W, dtype=torch.float64)
    torch.testing.assert_close(module(x), x + scale * (formula(module, x) - x))


@pytest.mark.parametrize("whole", [True, False], ids=["whole", "no norm"])
def test_coordatt_takes_the_authors_bias_into_its_norm(perturb, whole):
    """A checkpoint of theirs gives what it gave, also one that has lost its norm's statistics."""
    theirs, ours = perturb(CoordAtt(C), 0.3), perturb(CoordAtt(C), 0.3)
    theirs.conv1 = perturb(torch.nn.Conv2d(C, 8, 1), 0.3)
    theirs.double().eval()
    state = {f"layer.{key}": value for key, value in theirs.state_dict().items()}
    if not whole:
        theirs.bn1.running_mean.copy_(ours.bn1.running_mean)
        del state["layer.bn1.running_mean"]
    before = {key: value.clone() for key, value in state.items()}
    holder = torch.nn.ModuleDict({"layer": ours.double().eval()})
    loaded = holder.load_state_dict(state, strict=False)
    assert loaded == ([], [])
    assert all(map(torch.equal, before.values(), state.values())), "what is given stays"
    x = torch.randn(2, C, H, W, dtype=torch.float64)
    torch.testing.assert_close(ours(x), theirs(x))
    again = ours.state_dict()
    ours.load_state_dict(again)
    torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("size", KERNELS)
def test_lska_equals_the_formula(perturb, size):
    """By one dense kernel: the outer product of the line of both thin kernels, one of them dilated."""
    module = perturb(LSKA(4, size), 0.3).double().eval()
    for name in ("conv0h", "conv0v", "conv_spatial_h", "conv_spatial_v"):
        getattr(module, name).bias.data.zero_()
    d = {7: 2, 11: 2, 23: 3, 35: 3, 41: 3, 53: 3}[size]
    a, e = 2 * d - 1, size // d
    assert module.conv0h.weight.shape[-1] == a
    reach = a // 2 + d * (e // 2)
    x = torch.randn(1, 4, 2 * reach + 3, 2 * reach + 5, dtype=torch.float64)
    y = module(x)

    def line(near, far):
        taps = torch.zeros(2 * reach + 1, dtype=torch.float64)
        for i, n in enumerate(near):
            for j, f in enumerate(far):
                taps[reach + i - a // 2 + d * (j - e // 2)] += n * f
        return taps

    kernel = torch.stack([
        torch.outer(
            line(module.conv0v.weight[c].flatten(), module.conv_spatial_v.weight[c].flatten()),
            line(module.conv0h.weight[c].flatten(), module.conv_spatial_h.weight[c].flatten()),
        )
        for c in range(4)
    ])  # fmt: skip
    inner = functional.conv2d(x, kernel.unsqueeze(1), groups=4)  # away from the borders, where each kernel pads anew
    z = torch.einsum("oc,nchw->nohw", module.conv1.weight[:, :, 0, 0], inner) + module.conv1.bias.view(1, -1, 1, 1)
    middle = (..., slice(reach, -reach), slice(reach, -reach))
    torch.testing.assert_close(y[middle], x[middle] * z)


def test_lska_refuses_other_kernels():
    with pytest.raises(ValueError, match=r"LSKA: k_size=9: expected one of 7, 11, 23, 35, 41, 53"):
        LSKA(8, 9)


@pytest.mark.parametrize("c", [16, 24, 48, 80, 96, 320])
def test_ema_groups_every_width(c):
    module = EMA(c)
    assert c % module.groups == 0
    assert module.groups == max(g for g in (1, 2, 4, 8, 16, 32) if c % g == 0)


@pytest.mark.parametrize(("c", "k"), [(16, 3), (32, 3), (64, 3), (128, 5), (256, 5), (1024, 5)])
def test_eca_has_the_papers_kernel(c, k):
    assert ECA(c).conv.kernel_size == (k,)


def test_few_channels_leave_a_hidden_unit():
    for module in (SE(8), CBAM(8), SENetV2(8), GAM(2)):
        assert not torch.equal(module(torch.randn(1, 2 if isinstance(module, GAM) else 8, 3, 3)), torch.zeros(()))
        assert min(min(p.shape) for p in module.parameters()) >= 1


def test_simam_of_large_values_in_half_precision():
    """Where the sum of squares overflows float16."""
    x = torch.randn(1, 2, 80, 80) * 30
    expected = SimAM(2)(x)
    torch.testing.assert_close(SimAM(2)(x.half()).float(), expected, rtol=5e-3, atol=0.2)


@pytest.mark.parametrize("recorded", [(1, 1), (6, 9)], ids=str)
def test_simam_recorded_at_one_size_serves_others(recorded, tmp_path):
    """The number of pixels stands in its formula, and a single pixel is a case of its own."""
    module, path = SimAM(3).eval(), str(tmp_path / "simam.onnx")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            module,
            (torch.randn(1, 3, *recorded),),
            path,
            opset_version=17,
            dynamo=False,
            input_names=["x"],
            output_names=["y"],
            dynamic_axes={name: {2: "height", 3: "width"} for name in ("x", "y")},
        )
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    for size in ((1, 1), (2, 3), (33, 20)):
        x = torch.randn(1, 3, *size)
        (y,) = session.run(None, {"x": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(y), module(x).detach(), rtol=1e-4, atol=1e-5)


N = 20 * 24
MACS = {  # with C = 32 channels on 20 x 24 pixels
    "SE": (SE(C), 2 * C * 2),
    "SENetV2": (SENetV2(C, 8), 8 * C * 4),
    "ECA": (ECA(C), 3 * C),
    "CBAM": (CBAM(C), 2 * 2 * C * 2 + 98 * N),
    "CoordAtt": (CoordAtt(C), 44 * 8 * 2 * C),
    "GAM": (GAM(C), N * 2 * C * 8 * 50),
    "SimAM": (SimAM(C), 0),
    "EMA": (EMA(C, 8), C * 4 * (44 + 9 * N) + 2 * C * N),
    "LSKA": (LSKA(C), N * (C * C + 2 * C * (3 + 3))),
    "LSKA 23": (LSKA(C, 23), N * (C * C + 2 * C * (5 + 7))),
}


@pytest.mark.parametrize("name", MACS)
def test_macs_are_the_closed_form(name):
    module, expected = MACS[name]
    assert sum(counted(module.eval(), torch.randn(1, C, 20, 24))) == expected
