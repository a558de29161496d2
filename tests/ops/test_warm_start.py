"""Where modules start that replace a trained layer: near what it computed, and able to learn.

Every entry is begun from a layer with random weights whose batch norms have the statistics of their data. The error is
the mean square of the difference over the variance of the replaced layer's output: 0 is the same function, 1 is what
its mean would reach. Random kernels are the hard case: trained ones are smoother and of lower rank.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from trained_layers import maps, train
from ultralytics.nn.modules.block import C2f
from ultralytics.nn.modules.conv import Conv

import nas.ops  # noqa: F401  registers the modules
from nas.ops.registry import Entry, Value, entries, get, register
from nas.ops.warm_start import apply_start

NO_START = {
    *("SAPA", "BilinearUp"),  # other upsamplings than the nearest
    *("MDCR", "C2f_MDCR"),  # an output sees a quarter of the inputs, before three activations in a row
    "ADownCeil",  # an output sees half of the inputs
    *("C2f_Faster", "C2f_Ghost", "C2f_MSBlock", "GELAN", "MSBlock", "RCSOSA"),  # other blocks
}
"""Modules that keep their own initial values. A newcomer without a start fails until it is written here."""

SLOTS: dict[str, list[dict[str, Value]]] = {
    "same": [{"scale": 2}, {"scale": 3}],
    "conv": [
        {"kernel": 3, "stride": 1},
        {"kernel": 3, "stride": 2},
        {"kernel": 1, "stride": 1},
        {"kernel": 5, "stride": 2},
    ],
    "block": [{"shortcut": True}, {"shortcut": False}],
}
CHOICES: dict[str, list[dict[str, Value]]] = {  # beside the defaults
    "CARAFE": [{"k_up": 1}, {"k_up": 3, "c_mid": 16}, {"k_up": 7, "k_enc": 1}],
    "DySample": [{"dyscope": True}, {"style": "pl"}, {"style": "pl", "dyscope": True, "groups": 2}],
    "TransposedUp": [{"depthwise": True}],
    "SPConv": [{"ratio": 0.25}, {"ratio": 0.75}],
    "DynamicConv": [
        {"gate": "softmax"},
        {"num_experts": 1},
        {"num_experts": 6, "gate": "softmax"},
        {"gate": "softmax", "groups": 2},
    ],
    "OREPA": [{"groups": 2}, {"groups": 8}],
    "RepVGG": [{"groups": 4}],
    "DCNv2": [{"dilation": 2}, {"dilation": 3}, {"groups": 2}, {"dilation": 2, "groups": 4}],
    "AKConv": [{"num_param": 1}, {"num_param": 12}],
    "DilatedConv": [{"dilation": 1}, {"dilation": 3}],
    "DualConv": [{"g": 1}, {"g": 8}],
    "HetConv": [{"p": 2}],
    "OctConv": [{"alpha": 0.25}, {"alpha": 0.75}],
    "DCNv3": [{"group_width": 4}, {"group_width": 8, "offset_scale": 2.0}, {"group_width": 4, "dilation": 2}],
    "DSConv": [{"points": 3}],
    "PConv": [{"n_div": 2}, {"n_div": 16}],
    "DCNv4": [
        {"group_width": 4},
        {"group_width": 8, "remove_center": True},
        {"group_width": 8, "center_feature_scale": True},
        {"group_width": 8, "center_feature_scale": True, "remove_center": True},
        {"group_width": 8, "offset_scale": 2.0, "dw_kernel_size": 3},
        {"group_width": 8, "offset_scale": 2.0, "dilation": 3},
    ],
}
CHANNELS = {"same": [(36, 36)], "conv": [(32, 24), (16, 48)], "block": [(24, 32)]}
REDUNDANT = {"conv1x1.bias"}
"""Cancelled by a batch norm, also at the start."""
SLEEPS = {
    *("offset_mask_dw.weight", "offset_mask_dw.bias", "weight_orepa_pfir_conv"),
    *("dw_conv.conv.weight", "dw_conv.bn.weight", "dw_conv.bn.bias"),  # of DCNv3, from scratch too
}
"""What only reaches the output through weights that start at zero; it learns from the second step on."""


@dataclass(frozen=True)
class Case:
    """An entry, the slot that it goes into, and what is chosen for it."""

    entry: Entry
    slot: dict[str, Value]
    channels: tuple[int, int]
    given: dict[str, Value] = field(default_factory=dict)

    def new(self) -> nn.Module:
        c1, c2 = self.channels
        channels = {"same": (c1,), "conv": (c1, c2), "block": (c1, c2, 2)}[self.entry.rule]
        return self.entry.cls(*channels, *self.entry.row_args(self.slot, self.given))

    def old(self) -> nn.Module:
        c1, c2 = self.channels
        if self.entry.rule == "same":
            return nn.Upsample(scale_factor=self.slot["scale"], mode="nearest")
        if self.entry.rule == "conv":
            return Conv(c1, c2, self.slot["kernel"], self.slot["stride"])
        return C2f(c1, c2, 2, self.slot["shortcut"])

    def __str__(self) -> str:
        chosen = "".join(f",{k}={v}" for k, v in self.given.items())
        slot = "".join(f"{key[0]}{value}" for key, value in self.slot.items())
        return f"{self.entry.name}({self.channels[0]},{self.channels[1]},{slot}{chosen})"


def _cases() -> list[Case]:
    cases = []
    for entry in entries().values():
        if entry.start is None or entry.kinds & {"attention", "pool"} or entry.rule == "guided":
            continue  # attentions, pooling blocks and guided upsamplers: beside the tests of their formulas
        slots = [slot for slot in SLOTS[entry.rule] if entry.fits is None or entry.fits(slot)]
        choices = CHOICES.get(entry.name.removeprefix("C2f_"), [])
        for channels in CHANNELS[entry.rule]:
            cases += [Case(entry, slot, channels) for slot in slots]
            cases += [Case(entry, slots[i % len(slots[:2])], channels, given) for i, given in enumerate(choices)]
    return [c for c in cases if not (c.given.get("style") == "pl" and c.slot["scale"] == 3 and c.channels[0] % 9)]


CASES = _cases()
every_case = pytest.mark.parametrize("case", CASES, ids=str)


def pair(case: Case, smooth: bool = True) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(1)
    return case.new().eval(), train(case.old(), case.channels[0], smooth)


def error(new: nn.Module, old: nn.Module, x: torch.Tensor) -> float:
    with torch.no_grad():
        expected = old(x)
        return float((new(x) - expected).square().mean() / expected.var())


def test_every_entry_has_a_start_or_is_known_to_have_none():
    assert {name for name, entry in entries().items() if not entry.start and not entry.inherit} == NO_START
    for entry in entries().values():
        assert bool(entry.starts) == (entry.start is not None or entry.inherit is not None)


BOUNDS = {  # on smooth maps and on white noise; what was measured, and a tenth
    "CARAFE": (0.009, 0.012),  # 0.9 of the weight is exact
    "DySample": (1e-4, 1e-3),  # the offsets' random weights
    "DySample pl": (0.1, 0.25),  # bilinear interpolation
    "TransposedUp": (1e-9, 1e-9),
    "PixelShuffleUp": (1e-9, 1e-9),
    "DynamicConv": (1e-9, 1e-9),
    "C2f_DynamicConv": (1e-9, 1e-9),
    "SPConv": (0.78, 0.99),  # ratio 0.25; at 0.5 and 0.75 it is 0.62 and 0.50, and 0.88 and 0.62
    "C2f_SPConv": (0.38, 0.47),
    "DCNv4": (0.82, 0.97),  # 5x5 and one group; 3x3 and groups of 4 channels are 0.4 to 0.6, and 0.74 to 0.9
    "C2f_DCNv4": (0.38, 0.46),
    "RepVGG": (0.005, 1e-9),  # exact; by a batch's statistics only as far as the moments of its branches are known
    "C2f_RepVGG": (0.013, 1e-9),
    "DualConv": (0.75, 1.0),  # 5x5; 3x3 in four groups is 0.55 and 0.83
    "C2f_DualConv": (0.42, 0.52),
    "HetConv": (0.78, 0.92),  # 5x5; 3x3 of one channel in two is 0.37 and 0.56, of one in four 0.54 and 0.78
    "C2f_HetConv": (0.37, 0.48),
    "PConv": (0.83, 1.2),  # one channel in 16; one in two is 0.4 to 0.6, and 0.7 to 0.9
    "C2f_PConv": (0.36, 0.43),
    "AKConv": (0.82, 1.2),  # one point; five are 0.3 and 0.65, and twelve 0.2, all of it at the border
    "C2f_AKConv": (0.44, 0.53),
    "DilatedConv": (0.85, 1.2),  # dilation 3; at 2 it is 0.5 and 1.1
    "C2f_DilatedConv": (0.30, 0.34),
    "HWD": (0.8, 1.07),  # 5x5; 3x3 is 0.43 and 0.66
    "OctConv": (0.78, 1.1),  # stride 2 and alpha 3/4; with 1/2 it is 0.65 and 0.97, with stride 1 0.31 and 0.54
    "C2f_OctConv": (0.33, 0.42),
    "GhostConv": (0.65, 0.68),  # half of the channels is exact
    "C2f_GhostConv": (0.3, 0.32),
    "SCDown": (0.85, 0.97),  # 5x5; 3x3 is 0.65 and 0.85, a tenth of it the activation that is a line
    "DSConv": (0.034, 0.034),  # the lines' tenth, and the second activation
    "C2f_DSConv": (0.026, 0.026),
    "DCNv3": (0.92, 1.05),  # 5x5; 3x3 is 0.54 to 0.65, and 0.83 to 0.93
    "C2f_DCNv3": (0.42, 0.48),
    # What is between the groups is lost: of two a half of a random kernel's energy, of eight seven eighths.
    "DynamicConv groups": (0.63, 0.63),
    "C2f_DynamicConv groups": (0.33, 0.32),
    "RepVGG groups": (0.85, 0.85),
    "C2f_RepVGG groups": (0.38, 0.38),
    "DCNv2 groups": (0.9, 0.89),
    "C2f_DCNv2 groups": (0.43, 0.37),
    "OREPA groups": (1.05, 1.05),
    "C2f_OREPA groups": (0.48, 0.49),
}
GROUPED = ("OREPA", "RepVGG", "DCNv2", "DynamicConv")
EXACT = ("OREPA", "C2f_OREPA", "DCNv2", "C2f_DCNv2", "SPDConv")
BOUNDS |= dict.fromkeys(EXACT, (1e-9, 1e-9))


def bound(case: Case) -> tuple[float, float]:
    """Return the bounds of a case's error on smooth maps and on white noise."""
    kind = "pl" if case.given.get("style") == "pl" else "groups" if "groups" in case.given else ""
    return BOUNDS[f"{case.entry.name} {kind}".strip()]


@every_case
@pytest.mark.parametrize("smooth", [True, False], ids=["smooth", "white"])
def test_starts_near_the_replaced_layer(case, smooth):
    new, old = pair(case, smooth)
    inputs = [maps(case.channels[0], smooth), maps(case.channels[0], smooth, 2, 24, 15)]
    before = [error(new, old, x) for x in inputs]
    assert apply_start(new, old)
    bilinear = case.given.get("style") == "pl"
    for x, fresh in zip(inputs, before, strict=True):
        begun = error(new, old, x)
        assert begun < bound(case)[not smooth]
        assert begun < fresh or bilinear or case.given == {"k_up": 1}, "these start there by themselves"


@every_case
def test_statistics_of_a_batch_keep_it_near(case):
    """Training norms by the statistics of the batch: weights must fit the moments that the data have."""
    new, old = pair(case)
    x = maps(case.channels[0], True, 8)
    fresh = error(copy.deepcopy(new).train(), old.train(), x)
    assert apply_start(new, old)
    assert error(new.train(), old.train(), x) < min(1.4 * bound(case)[0] + 1e-3, fresh + 1e-6)


@pytest.mark.parametrize("case", [c for c in CASES if c.entry.name == "DCNv4"], ids=str)
def test_dcnv4_is_exact_where_it_can_be(case):
    """For a kernel that is one pattern of taps times a matrix, whatever the order of taps, scale and gate."""
    new, old = pair(case)
    k = new.k
    pattern = torch.randn(k, k) * 0.5
    pattern[k // 2, k // 2] = float(new.center_feature_scale or not new.remove_center)
    old.conv.weight.data.copy_(torch.einsum("oi,hw->oihw", torch.randn(case.channels[::-1]), pattern))
    train(old, case.channels[0], True)
    assert apply_start(new, old)
    assert error(new, old, maps(case.channels[0], True)) < 1e-9


@pytest.mark.parametrize("case", [c for c in CASES if c.entry.name == "SPConv" and c.channels[0] == 16], ids=str)
def test_spconv_is_near_where_it_can_be(case):
    """For a kernel that the grouped 3x3 and the 1x1 hold: only the blend, which follows the image, makes an error."""
    new, old = pair(case)
    half, heavy = case.channels[1] // 2, new.heavy
    seen = torch.zeros(3, 3)
    seen[(1, 1) if new.s == 1 else (slice(1, 3), slice(1, 3))] = 1 / new.s**2
    kernel = torch.randn_like(old.conv.weight[..., :1, :1]) * seen
    for rows, columns in ((slice(half), slice(heavy // 2)), (slice(half, None), slice(heavy // 2, heavy))):
        kernel[rows, columns] = torch.randn_like(kernel[rows, columns]) / 3
    old.conv.weight.data.copy_(kernel)
    train(old, case.channels[0], True)
    assert apply_start(new, old)
    assert error(new, old, maps(case.channels[0], True, 8, 24, 30)) < 0.08


@pytest.mark.parametrize("name", GROUPED)
@pytest.mark.parametrize(("groups", "dilation"), [(2, 1), (4, 1), (8, 2)])
def test_groups_are_exact_in_place_of_the_same_groups(name, groups, dilation):
    entry, more = get(name), {"dilation": dilation} if name == "DCNv2" else {}
    torch.manual_seed(1)
    new = entry.cls(16, 24, 3, 2, groups=groups, **more).eval()
    old = train(Conv(16, 24, 3, 2, g=groups), 16, True)
    assert apply_start(new, old)
    assert error(new, old, maps(16, True)) < (0.005 if name == "RepVGG" else 1e-9)
    x = maps(16, True, 8)
    assert error(new.train(), old.train(), x) < (0.01 if name == "RepVGG" else 1e-3), "their norms' eps are others"


def test_dynamic_experts_differ():
    new, old = pair(next(c for c in CASES if c.entry.name == "DynamicConv"))
    assert apply_start(new, old)
    experts = new.cond_conv.weight
    apart = torch.pdist(experts) / experts.norm(dim=1).mean()
    assert apart.min() > 0.2
    assert apart.max() < 0.6


# What comes after


def learns(module: nn.Module) -> set[str]:
    """Return the parameters that reach the output."""
    names = {name for name, _ in module.named_parameters()}
    if getattr(module, "k_up", 0) == 1:
        names = set()  # the softmax of one tap is 1
    return {name for name in names if not any(name.endswith(r) for r in REDUNDANT)}


@every_case
def test_every_parameter_learns(case):
    new, old = pair(case)
    assert apply_start(new, old)
    new.double().train()
    x = maps(case.channels[0], True).double()
    target = torch.randn_like(new(x))
    before = {name: p.detach().clone() for name, p in new.named_parameters()}
    optimizer = torch.optim.SGD(new.parameters(), 0.05)
    for step in range(2):
        optimizer.zero_grad()
        (new(x) - target).square().mean().backward()
        for name, p in new.named_parameters():
            assert p.grad is not None, name
            assert p.grad.isfinite().all(), name
            asleep = step == 0 and any(name.endswith(s) for s in SLEEPS)
            if name in learns(new) and not asleep:
                assert p.grad.abs().max() > 1e-9, name
        optimizer.step()
    for name in learns(new):
        assert not torch.equal(new.get_parameter(name), before[name]), name


@every_case
def test_begins_the_same_again_and_only_changes_the_new_layer(case):
    new, old = pair(case)
    kept = copy.deepcopy(old.state_dict())
    state = torch.get_rng_state()
    assert apply_start(new, old)
    first = copy.deepcopy(new.state_dict())
    assert apply_start(new, old)
    assert torch.equal(torch.get_rng_state(), state)
    for before, after in ((first, new.state_dict()), (kept, old.state_dict())):
        assert all(torch.equal(after[key], value) for key, value in before.items())
    assert all(p.requires_grad for p in new.parameters())


def foreign(case: Case) -> list[nn.Module]:
    """Return layers that `case` does not replace, some of which differ in one thing only."""
    c1, c2 = case.channels
    fused = Conv(c1, c2, 3, 2)
    fused.conv = nn.Conv2d(c1, c2, 3, 2, 1)
    odd = C2f(c1, c2, 2, True)
    odd.m[1].cv2 = nn.Identity()
    plain = C2f(c1, c2, 2, True)
    plain.cv2 = Conv(plain.cv2.conv.in_channels, c2, 3)
    return [
        nn.Identity(),
        nn.Linear(c1, c2),
        nn.Conv2d(c1, c2, 3, 2, 1),
        nn.Upsample(scale_factor=5),
        nn.Upsample(scale_factor=2, mode="bilinear"),
        nn.Upsample((8, 8)),
        Conv(c1, c2 + 2, 3, 2),
        Conv(c1 + 2, c2, 3),
        Conv(c1, c2, 3, 2, d=2),
        Conv(c1, c2, 7, 2),
        Conv(c1, c2, 3, 3),
        fused,
        C2f(c1, c2, 3, True),
        C2f(c1 + 2, c2, 2, True),
        C2f(c1, c2 * 2, 2, False),
        C2f(c1, c2, 2, not case.slot.get("shortcut")),
        odd,
        plain,
    ]


@every_case
def test_a_foreign_layer_is_refused_and_changes_nothing(case):
    new = case.new()
    before = copy.deepcopy(new.state_dict())
    for old in foreign(case):
        assert apply_start(new, old) is False
    assert all(torch.equal(new.state_dict()[key], value) for key, value in before.items())


def test_an_unregistered_module_has_no_start():
    assert apply_start(nn.Identity(), Conv(4, 4)) is False
    assert apply_start(type("DCNv4", (nn.Module,), {})(), Conv(4, 4)) is False


def test_a_start_comes_with_its_words():
    for given in ({"start": lambda new, old: None}, {"starts": "-"}):
        with pytest.raises(ValueError, match="a start and what it starts as"):
            register(rule="same", kinds={"up"}, paper="-", summary="-", **given)


@pytest.mark.parametrize("name", ["DCNv4", "SPConv", "DynamicConv"])
@pytest.mark.parametrize("dead", [slice(3, 4), slice(None)], ids=["channel", "layer"])
def test_other_precision_and_what_is_dead(name, dead):
    new, old = pair(next(c for c in CASES if c.entry.name == name))
    old.conv.weight.data[dead] = 0
    old.bn.running_var[dead] = 0
    assert apply_start(new.bfloat16(), old.half())
    assert all(p.isfinite().all() for p in new.state_dict().values())
