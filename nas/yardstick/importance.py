"""How much a channel matters: to the loss on training images, by a first-order Taylor score, or by its weights alone.

Setting a channel's activation z to zero changes the loss by about the sum over its places of z times the loss's
gradient (Molchanov et al., "Pruning Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017,
arXiv:1611.06440, equation 7). The score is the mean square of that over images, as in "Importance Estimation for
Neural Network Pruning" (CVPR 2019, arXiv:1906.10771), so that effects of both signs do not cancel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

BATCHES = 8
"""Batches of training images that the scores are from."""


def channel_scores(model: Any, batches: Any) -> dict[str, torch.Tensor]:
    """Return the scores of the output channels of every ``Conv`` of a model, by its name, (C,) on the CPU.

    Args:
        model: A model of the host, which returns its loss for a batch; its weights and statistics do not change.
        batches: Batches of images with their labels.
    """
    convs = {name: module for name, module in model.named_modules() if type(module).__name__ in ("Conv", "DWConv")}
    scores = {name: torch.zeros(module.conv.out_channels) for name, module in convs.items()}
    seen: dict[str, torch.Tensor] = {}

    def note(name: str) -> Any:
        def hook(_module: nn.Module, _inputs: Any, output: torch.Tensor) -> None:
            output.retain_grad()
            seen[name] = output

        return hook

    handles = [module.register_forward_hook(note(name)) for name, module in convs.items()]
    was_training = model.training
    model.train()
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()
    images = 0
    try:
        for batch in batches:
            loss, _ = model(batch)
            loss.sum().backward()
            for name, output in seen.items():
                assert output.grad is not None
                moved = (output.detach() * output.grad).float().sum((2, 3))
                scores[name] += moved.square().sum(0).cpu()
            images += len(batch["img"])
            seen.clear()
            model.zero_grad(set_to_none=True)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return {name: score / max(1, images) for name, score in scores.items()}


def weight_scores(model: Any) -> dict[nn.Module, torch.Tensor]:
    """Return the norm of the weights of every output channel of every ``Conv``, as its BatchNorm scales them, (C,).

    It needs no images. Source: Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017, arXiv:1608.08710, here
    with the norm of the fused weights.
    """
    found: dict[nn.Module, torch.Tensor] = {}
    for module in model.modules():
        if type(module).__name__ in ("Conv", "DWConv"):
            scale = module.bn.weight / torch.sqrt(module.bn.running_var + module.bn.eps)
            found[module] = (module.conv.weight.flatten(1).norm(dim=1) * scale.abs()).detach()
    return found
