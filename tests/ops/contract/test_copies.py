"""What every registered module promises of its copies: by deepcopy, pickle and state dict."""

from __future__ import annotations

import copy
import io
import pickle

import torch
from contract_cases import Case, every_case, every_entry, run, slots_of


@every_case
def test_copy_after_a_forward_with_gradients(case):
    """As the moving average of the weights does, which fails where a module keeps an activation."""
    module = case.build()
    x = case.inputs()
    y = module(x)
    copied = copy.deepcopy(module)
    if y.requires_grad:
        y.sum().backward()
    assert copied(x).shape == y.shape
    for m in module.modules():
        assert not any(isinstance(v, torch.Tensor) for v in vars(m).values())


@every_case
def test_pickle(case, perturb):
    module, x = perturb(case.build()).eval(), case.inputs()
    module(x)
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    expected = run(module, x)
    assert torch.equal(run(torch.load(buffer, weights_only=False), x), expected)
    assert torch.equal(run(pickle.loads(pickle.dumps(module)), x), expected)


@every_entry
def test_unpickles_from_before_it_had_its_optional_arguments(entry, perturb):
    """Checkpoints hold whole modules: what is not in one of an earlier version has its default."""
    case = Case(entry, slots_of(entry)[0])
    module, x = perturb(case.build()).eval(), case.inputs()
    expected = run(module, x)
    for m in module.modules():
        for name in ("groups", "dilation"):
            if name in vars(type(m)):
                del m.__dict__[name]
    assert torch.equal(run(pickle.loads(pickle.dumps(module)), x), expected)


@every_case
def test_state_dict_round_trip(case, perturb):
    module, other, x = perturb(case.build()).eval(), case.build().eval(), case.inputs()
    assert not module.state_dict() or not torch.equal(run(other, x), run(module, x))
    other.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(run(other, x), run(module, x))
