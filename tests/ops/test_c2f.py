"""C2f blocks: Ultralytics' block, with another convolution in the bottlenecks."""

import inspect
import pickle

import pytest
import torch
from torch import nn
from ultralytics.nn.modules.block import C2f

from nas.ops import c2f  # importing the package registers the modules
from nas.ops.c2f import C2f_AKConv, C2f_DCNv4, C2f_DynamicConv, C2f_SPConv, C2fWith, c2f_of
from nas.ops.registry import entries, get

CONVOLUTIONS = [e for e in entries().values() if e.rule == "conv" and "conv" in e.kinds and e.name != "OctConv"]
"""Those of the generic block; that of OctConv has bottlenecks of its own, which keep a low part inside."""
BLOCKS = {cls: cls.convolution for cls in C2fWith.__subclasses__()}
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


@pytest.mark.parametrize("entry", CONVOLUTIONS, ids=lambda e: e.name)
def test_every_convolution_has_its_block(entry):
    block = get(f"C2f_{entry.name}")
    assert block.cls is getattr(c2f, block.name), "generated files and pickles find it by this name"
    assert (block.cls.__module__, block.cls.__qualname__) == ("nas.ops.c2f", block.name)
    assert pickle.loads(pickle.dumps(block.cls)) is block.cls
    assert block.args == entry.args
    assert block.paper == entry.paper
    assert (block.start is None) == (entry.start is None)
    assert block.starts == "" or entry.name in block.starts


def test_a_block_of_ones_own():
    """What a file of a user's does; the class takes the place of the convolution in the constructor."""

    class Mine(nn.Module):
        def __init__(self, c1, c2, k=3, s=1, depth=7):
            super().__init__()
            self.depth = depth

        def forward(self, x):
            return x

    block = c2f_of(Mine)
    assert block.__name__ == "C2f_Mine"
    assert list(inspect.signature(block).parameters) == ["c1", "c2", "n", "shortcut", "depth"]
    assert block(8, 8, 2, True, 3).m[1].cv2.depth == 3
    assert block(8, 8, depth=4).m[0].cv2.depth == 4


def test_wrong_arguments_are_the_convolutions():
    with pytest.raises(ValueError, match="AKConv: num_param=0"):
        C2f_AKConv(8, 8, 1, True, 0)
    with pytest.raises(TypeError, match="points"):
        C2f_AKConv(8, 8, points=3)


def test_arguments_reach_the_op():
    dcn = C2f_DCNv4(16, 32, 1, False, 4, 2.0, 3, True, True).m[0].cv2
    assert (dcn.groups, dcn.offset_scale, dcn.taps, dcn.center_feature_scale) == (4, 2.0, 8, True)
    assert isinstance(dcn.offset_mask_dw, nn.Conv2d)
    assert C2f_SPConv(16, 32, ratio=0.25).m[0].cv2.heavy == 4
    dynamic = C2f_DynamicConv(16, 32, num_experts=2, gate="softmax").m[0].cv2
    assert (dynamic.routing.out_features, dynamic.gate) == (2, "softmax")
