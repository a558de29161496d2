"""The ops behind the modules, as functions: plain PyTorch that is the truth, and an operator that runs CUDA kernels.

Each file holds one op: the public function, which checks its arguments and chooses; its reference in plain PyTorch,
which runs on any device, exports and differentiates; and the operators ``torch.ops.nas.NAME`` and ``NAME_backward``
with their fake results, gradients, vmap rules and FLOP formulas. The kernels are in `nas.ops.kernels`.
"""
