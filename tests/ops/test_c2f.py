"""C2f blocks: Ultralytics' block, with another convolution in the bottlenecks."""

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import C2f

from nas.ops.c2f import C2f_DCNv4, C2f_DynamicConv, C2f_SPConv
from nas.ops.dcnv4 import DCNv4
from nas.ops.dynamicconv import DynamicConv
from nas.ops.spconv import SPConv

BLOCKS = {C2f_DCNv4: DCNv4, C2f_SPConv: SPConv, C2f_DynamicConv: DynamicConv}
every_block = pytest.mark.parametrize(("block", "op"), BLOCKS.items(), ids=lambda c: c.__name__)


@every_block
def test_second_convolution_of_every_bottleneck_is_the_op(block, op):
    module = block(16, 32, 3, True)
    assert len(module.m) == 3
    for bottleneck in module.m:
        assert type(bottleneck.cv2) is op
        assert bottleneck.add


@every_block
def test_all_other_state_is_that_of_c2f(block, op):
    def rest(module):
        return {k: v.shape for k, v in module.state_dict().items() if not (k.startswith("m.") and ".cv2." in k)}

    assert rest(block(16, 32, 2)) == rest(C2f(16, 32, 2))


@every_block
@pytest.mark.parametrize("shortcut", [False, True])
def test_equals_c2f_around_the_op(block, op, shortcut):
    module = block(16, 24, 2, shortcut).eval()
    plain = C2f(16, 24, 2, shortcut).eval()
    plain.load_state_dict(module.state_dict(), strict=False)
    for ours, theirs in zip(module.m, plain.m, strict=True):
        theirs.cv2 = ours.cv2
    x = torch.randn(2, 16, 5, 6)
    assert torch.equal(module(x), plain(x))
    assert torch.equal(module.forward_split(x), plain(x)), "some exports swap the forward"


def test_arguments_reach_the_op():
    dcn = C2f_DCNv4(16, 32, 1, False, 4, 2.0, 3, True, True).m[0].cv2
    assert (dcn.groups, dcn.offset_scale, dcn.taps, dcn.center_feature_scale) == (4, 2.0, 8, True)
    assert isinstance(dcn.offset_mask_dw, nn.Conv2d)
    assert C2f_SPConv(16, 32, ratio=0.25).m[0].cv2.heavy == 4
    dynamic = C2f_DynamicConv(16, 32, num_experts=2, gate="softmax").m[0].cv2
    assert (dynamic.routing.out_features, dynamic.gate) == (2, "softmax")
