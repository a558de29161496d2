"""Modules whose docstring says that their state keys are the authors': a checkpoint of theirs fits, as far as it says.

The tables are what the authors' classes hold, key by key.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from nas.ops.attention.acmix import ACmix
from nas.ops.attention.channel import ECA, SE
from nas.ops.attention.ema import EMA
from nas.ops.attention.lska import LSKA
from nas.ops.attention.position import CoordAtt
from nas.ops.dcnv4 import DCNv4
from nas.ops.dualconv import DualConv
from nas.ops.dynamicconv import DynamicConv
from nas.ops.dysample import DySample
from nas.ops.guided import SAPA
from nas.ops.orepa import OREPA
from nas.ops.spconv import SPConv

OURS = ("residual_scale", "bn.weight", "bn.bias", "bn.running_var", "bn.running_mean", "bn.num_batches_tracked")
"""What a module has beside the authors': the scale of an attention, and a batch norm behind a convolution."""


def norm(name: str, c: int) -> dict[str, tuple[int, ...]]:
    """Return the keys of a batch norm of `c` channels."""
    return {f"{name}.{key}": (c,) for key in ("weight", "bias", "running_mean", "running_var")} | {
        f"{name}.num_batches_tracked": ()
    }


def layer(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    """Return the keys of a layer with bias."""
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


THEIRS: dict[str, tuple[nn.Module, dict[str, tuple[int, ...]]]] = {
    "SE": (SE(32), {"fc.0.weight": (2, 32), "fc.2.weight": (32, 2)}),
    "ECA": (ECA(32), {"conv.weight": (1, 1, 3)}),
    "CoordAtt": (
        CoordAtt(32),
        layer("conv1", 8, 32, 1, 1) | norm("bn1", 8) | layer("conv_h", 32, 8, 1, 1) | layer("conv_w", 32, 8, 1, 1),
    ),
    "EMA": (
        EMA(32, 8),
        {"gn.weight": (4,), "gn.bias": (4,)} | layer("conv1x1", 4, 4, 1, 1) | layer("conv3x3", 4, 4, 3, 3),
    ),
    "LSKA": (
        LSKA(16, 23),
        layer("conv0h", 16, 1, 1, 5)
        | layer("conv0v", 16, 1, 5, 1)
        | layer("conv_spatial_h", 16, 1, 1, 7)
        | layer("conv_spatial_v", 16, 1, 7, 1)
        | layer("conv1", 16, 16, 1, 1),
    ),
    "ACmix": (
        ACmix(32),
        {"rate1": (1,), "rate2": (1,), "fc.weight": (9, 12, 1, 1), "dep_conv.weight": (32, 9, 3, 3)}
        | layer("conv1", 32, 32, 1, 1)
        | layer("conv2", 32, 32, 1, 1)
        | layer("conv3", 32, 32, 1, 1)
        | layer("conv_p", 8, 2, 1, 1),
    ),
    "DCNv4": (
        DCNv4(32, 32),
        layer("value_proj", 32, 32) | layer("output_proj", 32, 32) | layer("offset_mask", 56, 32),
    ),
    "DualConv": (DualConv(16, 24), {"gc.weight": (24, 4, 3, 3), "pwc.weight": (24, 16, 1, 1)}),
    "DynamicConv": (DynamicConv(16, 24, 3), layer("routing", 4, 16) | {"cond_conv.weight": (4, 24 * 16 * 9)}),
    "DynamicConv, groups": (
        DynamicConv(16, 24, 3, groups=4),
        layer("routing", 4, 16) | {"cond_conv.weight": (4, 24 * 4 * 9)},
    ),
    "DySample": (DySample(16), {"init_pos": (1, 32, 1, 1)} | layer("offset", 32, 16, 1, 1)),
    "DySample, dynamic": (
        DySample(16, dyscope=True),
        {"init_pos": (1, 32, 1, 1), "scope.weight": (32, 16, 1, 1)} | layer("offset", 32, 16, 1, 1),
    ),
    "SAPA": (
        SAPA(16, 24),
        layer("norm_y", 24) | layer("norm_x", 16) | layer("q", 64, 24) | layer("k", 64, 16),
    ),
    "SPConv": (
        SPConv(16, 24),
        {"gwc.weight": (24, 4, 3, 3), "pwc.weight": (24, 8, 1, 1)}
        | layer("conv1x1", 24, 8, 1, 1)
        | norm("bn1", 24)
        | norm("bn2", 24),
    ),
    "OREPA": (
        OREPA(16, 24),
        {
            "weight_orepa_origin": (24, 16, 3, 3),
            "weight_orepa_avg_conv": (24, 16, 1, 1),
            "weight_orepa_pfir_conv": (24, 16, 1, 1),
            "weight_orepa_1x1_kxk_idconv1": (16, 16, 1, 1),
            "weight_orepa_1x1_kxk_conv2": (24, 16, 3, 3),
            "weight_orepa_1x1": (24, 16, 1, 1),
            "weight_orepa_gconv_dw": (128, 1, 3, 3),
            "weight_orepa_gconv_pw": (24, 128, 1, 1),
            "vector": (6, 24),
            "weight_orepa_avg_avg": (3, 3),
            "id_tensor": (16, 16, 1, 1),
            "weight_orepa_prior": (24, 3, 3),
        }
        | norm("bn", 24),
    ),
}
LEFT = {"ACmix": ["conv_p.bias"]}
"""What is left out of theirs, as the docstrings say: it has no effect on the output."""


@pytest.mark.parametrize("name", THEIRS)
def test_a_checkpoint_of_the_authors_fits(name):
    module, shapes = THEIRS[name]
    state = {key: torch.rand(shape) if shape else torch.tensor(1) for key, shape in shapes.items()}
    loaded = module.load_state_dict(state, strict=False)
    assert loaded.unexpected_keys == LEFT.get(name, [])
    assert set(loaded.missing_keys) <= set(OURS)
    changed = {"conv1.bias", "bn1.running_mean", "output_proj.bias", "weight_orepa_1x1_kxk_idconv1"}
    found = module.state_dict()
    for key in shapes.keys() - changed - set(LEFT.get(name, [])):
        assert torch.equal(found[key], state[key]), key
