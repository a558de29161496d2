"""DynamicConv against one convolution per image, and against the dense identity."""

import pytest
import torch
from torch.nn import functional

from nas.ops import dynamicconv as dynamicconv_file
from nas.ops.dynamicconv import CondConv2d, DynamicConv


def per_image(x, r, weight, c2, k, s, groups=1):
    """Mix and convolve one image at a time, expert by expert and group by group."""
    out = []
    for image, row in zip(x, r, strict=True):
        mixed = torch.zeros(c2, x.shape[1] // groups, k, k, dtype=x.dtype)
        for share, expert in zip(row, weight, strict=True):
            mixed = mixed + share * expert.view(mixed.shape)
        parts = zip(image[None].chunk(groups, 1), mixed.chunk(groups), strict=True)
        out.append(torch.cat([functional.conv2d(part, own, None, s, k // 2) for part, own in parts], 1))
    return torch.cat(out)


def dense(x, r, weight, c2, k, s):
    """conv([r_1 x ... r_E x], [W_1 ... W_E])."""
    scaled = torch.cat([x * r[:, e, None, None, None] for e in range(len(weight))], 1)
    experts = torch.cat([w.view(c2, x.shape[1], k, k) for w in weight], 1)
    return functional.conv2d(scaled, experts, None, s, k // 2)


CASES = [(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (2, 2)]


@pytest.mark.parametrize(("k", "s"), CASES)
@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("size", [(7, 5), (1, 1)])
def test_equals_one_convolution_per_image(monkeypatch, k, s, export, size):
    monkeypatch.setattr(dynamicconv_file, "exporting", lambda: export)
    conv = CondConv2d(4, 6, k, s, 3).double()
    x, r = torch.randn(3, 4, *size, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64)
    y = conv(x, r)
    torch.testing.assert_close(y, per_image(x, r, conv.weight, 6, k, s))
    torch.testing.assert_close(y, dense(x, r, conv.weight, 6, k, s))


@pytest.mark.parametrize(("k", "s"), [(1, 1), (1, 2), (3, 1), (3, 2)])
@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("export", [False, True])
@pytest.mark.parametrize("last", [False, True])
def test_groups_equal_one_convolution_for_each(monkeypatch, k, s, groups, export, last):
    """With their gradients."""
    monkeypatch.setattr(dynamicconv_file, "exporting", lambda: export)
    conv = CondConv2d(4, 8, k, s, 3, groups).double()
    x, r = torch.randn(3, 4, 7, 5, dtype=torch.float64), torch.rand(3, 3, dtype=torch.float64, requires_grad=True)
    x = (x.contiguous(memory_format=torch.channels_last) if last else x).requires_grad_()
    y, expected = conv(x, r), per_image(x, r, conv.weight, 8, k, s, groups)
    torch.testing.assert_close(y, expected)
    weight = torch.randn_like(y)
    by = (x, r, conv.weight)
    wanted = torch.autograd.grad((expected * weight).sum(), by)
    for found, grad in zip(torch.autograd.grad((y * weight).sum(), by), wanted, strict=True):
        torch.testing.assert_close(found, grad)


@pytest.mark.parametrize("gate", ["sigmoid", "softmax"])
def test_bare_module_is_the_papers(gate):
    module = DynamicConv(4, 6, 3, 1, 4, gate, bn=False, act=False)
    x = torch.randn(2, 4, 5, 7)
    logits = x.mean((2, 3)) @ module.routing.weight.T + module.routing.bias
    r = logits.sigmoid() if gate == "sigmoid" else logits.softmax(1)
    torch.testing.assert_close(module(x), per_image(x, r, module.cond_conv.weight, 6, 3, 1))
    assert {k: tuple(v.shape) for k, v in module.state_dict().items()} == {
        "routing.weight": (4, 4),
        "routing.bias": (4,),
        "cond_conv.weight": (4, 6 * 4 * 9),
    }


def test_norm_and_activation_follow():
    module = DynamicConv(4, 6, 3).eval()
    bare = DynamicConv(4, 6, 3, bn=False, act=False)
    bare.load_state_dict(module.state_dict(), strict=False)
    x = torch.randn(2, 4, 5, 7)
    torch.testing.assert_close(module(x), functional.silu(bare(x) / (1 + 1e-5) ** 0.5))
    assert isinstance(DynamicConv(4, 6, act=torch.nn.ReLU()).act, torch.nn.ReLU)


@pytest.mark.parametrize("k", [1, 3])
def test_gradients(k):
    conv = CondConv2d(2, 2, k, 1, 2).double()
    x = torch.randn(2, 2, 3, 2, dtype=torch.float64, requires_grad=True)
    r = torch.rand(2, 2, dtype=torch.float64, requires_grad=True)

    def forward(x, r, weight):
        return torch.func.functional_call(conv, {"weight": weight}, (x, r))

    assert torch.autograd.gradcheck(forward, (x, r, conv.weight.detach().requires_grad_()))


def test_every_expert_starts_like_a_convolution():
    weight = CondConv2d(16, 32, 3, 1, 4).weight
    reference = torch.nn.Conv2d(16, 32, 3).weight
    for expert in weight:
        assert expert.abs().max() <= (16 * 9) ** -0.5
        assert expert.std().item() == pytest.approx(reference.std().item(), rel=0.05)


def test_macs_are_the_closed_form():
    from nas.ops.registry import macs_rules

    conv, x, r = CondConv2d(4, 6, 3, 2, 5), torch.randn(2, 4, 7, 9), torch.rand(2, 5)
    w = 6 * 4 * 9
    assert macs_rules()[CondConv2d](conv, (x, r), conv(x, r)) == 2 * (4 * 5 * w + 5 * w)
    grouped = CondConv2d(4, 6, 3, 2, 5, 2)
    assert macs_rules()[CondConv2d](grouped, (x, r), grouped(x, r)) == (4 * 5 * w + 5 * w)


def test_batches_without_images():
    for k, groups in ((3, 1), (1, 1), (3, 2), (1, 2)):
        assert DynamicConv(4, 6, k, groups=groups).eval()(torch.zeros(0, 4, 5, 5)).shape == (0, 6, 5, 5)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"gate": "tanh"}, "'sigmoid' or 'softmax'"),
        ({"num_experts": 0}, "at least 1"),
        ({"groups": 4}, "DynamicConv: 4 to 6 channels, groups=4: expected groups that divide"),
    ],
)
def test_refuses(wrong, message):
    with pytest.raises(ValueError, match=message):
        DynamicConv(4, 6, **wrong)


@pytest.mark.parametrize("strict", [True, False])
def test_refuses_the_authors_bias_rather_than_lose_it(strict):
    module = DynamicConv(4, 6, 3)
    state = module.state_dict() | {"cond_conv.bias": torch.ones(4, 6)}
    with pytest.raises(RuntimeError, match=r"cond_conv\.bias: DynamicConv has no bias"):
        module.load_state_dict(state, strict=strict)
