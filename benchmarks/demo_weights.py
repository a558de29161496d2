"""Train the weights that the demo starts from: YOLOv8n on other scenes of the demo data's generator.

    python benchmarks/demo_weights.py --scenes 1200 --epochs 40 -o nas/data/demo_weights.pt

Users start from a stock model that is trained; so does the demo. The file holds the tensors by layer name, in half
precision. It takes about 40 minutes of one core; a run that is killed resumes. The scenes are drawn from numbers that
the demo data does not use.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

FIRST_SCENE = 100_000


def main() -> None:
    """Draw, train, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scenes", type=int, default=1200)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument(
        "--folder", type=Path, default=Path("demo-weights"), help="where scenes and checkpoint are kept"
    )
    parser.add_argument("-o", "--output", type=Path, required=True)
    args = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    folder = args.folder.resolve()
    from nas.model.offline import go_offline, offline_environment

    os.environ.update(offline_environment(folder))
    go_offline(folder)
    import torch

    from nas.data.dataset import load, write_resolved
    from nas.data.demo import SIZE, generate
    from nas.files import replacing
    from nas.model.render import render
    from nas.space.variant import Variant
    from nas.training.jobs import ProxyJob
    from nas.training.recipe import make_recipe
    from nas.training.train import train

    for name, content in generate({"train": args.scenes, "val": 128}, FIRST_SCENE).items():
        (folder / "scenes" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "scenes" / name).write_bytes(content)
    dataset = load(folder / "scenes" / "data.yaml")
    data, variant = write_resolved(dataset, folder), Variant("yolov8", "n")
    recipe = make_recipe(
        init="scratch", epochs=args.epochs, imgsz=SIZE, batch=16, base_epochs=args.epochs, device="cpu"
    )
    job = ProxyJob(
        variant.name, render(variant).yaml, "yolov8", "n", (), str(data), dataset.fingerprint, recipe, seed=0,
        average=False, save=str(folder / "trained.pt"), checkpoint=str(folder / "checkpoint"), checkpoint_s=60,
    )  # fmt: skip
    train(job, 1, lambda score: print(score, flush=True))
    state = torch.load(folder / "trained.pt", weights_only=True)
    half = {name: t.half() if t.is_floating_point() else t for name, t in state.items()}
    assert all(t.isfinite().all() for t in half.values() if t.is_floating_point())
    with replacing(args.output) as temporary:
        torch.save(half, temporary)


if __name__ == "__main__":
    main()
