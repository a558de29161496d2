"""What a training starts from: tensors inherited by layer name, and swapped layers near what they replace."""

from __future__ import annotations

from typing import Any

from nas.training.jobs import ProxyJob


def graph_of(job: ProxyJob) -> Any:
    """Return the job's named layers."""
    from nas.space.variant import Variant

    return Variant(job.base, job.scale, job.swaps).graph()


def initial_state(job: ProxyJob, nc: int) -> tuple[Any, dict[str, Any], dict[str, Any]]:
    """Return the baseline with what every variant of the study starts from, its initial values, and what is inherited.

    The latter two are named tensors. Without a file to inherit from, they are the same; what a file does not hold, such
    as the head of other classes, starts from the former.

    Raises:
        ProxyError: The file to inherit from holds nothing that fits.
    """
    from nas.errors import ProxyError
    from nas.model.host import build
    from nas.model.render import render
    from nas.model.transfer import inherit, named_state
    from nas.space.bases import load_base
    from nas.space.variant import Variant

    baseline = Variant(job.base, job.scale)
    model = build(render(baseline).yaml, job.scale, nc)
    own = named_state(model.state_dict(), load_base(job.base))
    if job.init is None:
        return model, own, own
    given = _read_state(job.init, job.base)
    shared = {k: v for k, v in given.items() if k in own and own[k].shape == v.shape}
    if len(shared) < 0.8 * len(own):  # the class head alone may differ
        raise ProxyError(
            f"{job.init} holds only {len(shared)} of the {len(own)} tensors of {job.base}{job.scale}: "
            "it is of another model or scale"
        )
    inherit(model, load_base(job.base), shared)
    for file in job.overlay:
        shared.update(_read_state(file, job.base))
    return model, own, shared


def _read_state(path: str, base: str) -> dict[str, Any]:
    """Return named tensors from a file of ours, or from an Ultralytics checkpoint of the same base."""
    import torch

    from nas.errors import ProxyError
    from nas.model.transfer import named_state
    from nas.space.bases import load_base

    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # a checkpoint with classes in it; the host reads those
        from ultralytics.nn.tasks import load_checkpoint

        model, _ = load_checkpoint(path)
        graph = load_base(base)
        if len(model.model) != len(graph.layers):
            raise ProxyError(f"{path} has {len(model.model)} layers, {base} has {len(graph.layers)}") from None
        return named_state(model.float().state_dict(), graph)
    return dict(state)
