"""Which slots idle: in proxies of several kinds, against the truth at the size that the user will train at.

    python benchmarks/target_scale.py bccd/data.yaml --out bccd.json
    python benchmarks/target_scale.py raccoon/data.yaml --out raccoon-s.json --scale s --weights best.pt --epochs 10

Trains one baseline for each fidelity (the target's own size, 160 px, the proxy that `nas data` chooses, and images
shrunk to the same number of pixels, or windows of it), and measures what it loses in mAP50-95 when a layer puts out
only its channel means. A slot idles if that is less than 0.001. Windows are validated twice, on fixed windows and on
whole images, with the seconds that each takes.

Everything runs in this process, with one thread. Each result is written at once, and a killed training resumes from its
last epoch: start the same command again. `--only NAME` makes one fidelity, so that two processes with an `--out` each
can share the work; `--table FILE...` prints the table of several files.

Cost on one core, 40 epochs of yolov8n, estimated from 0.5 s for a step of 16 images of 160 px and the number of pixels:
bccd (272 images) 6 min at 160 px, 11 min for windows or images of 224 px, 90 min at 640 px, and some 10 min for all
ablations at 640 px; raccoon (144 images) about half of that.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

IDLE = 0.001


def fidelities(images: Any, target: int) -> dict[str, tuple[Any, tuple[str, ...]]]:
    """Return the fidelities by name, and what each is validated on."""
    from nas.data.fidelity import Fidelity, choose_fidelity

    chosen = choose_fidelity(images, target)
    other = Fidelity(chosen.imgsz, 0 if chosen.windows_at else target)
    found = {"target": Fidelity(target), "160 px": Fidelity(160), f"chosen: {chosen.words}": chosen}
    if chosen != Fidelity(target):
        found[f"not chosen: {other.words}"] = other
    return {name: (f, ("windows", "whole") if f.windows_at else ("windows",)) for name, f in found.items()}


def measure(options: argparse.Namespace, data: Path, fingerprint: str, fidelity: Any, on: tuple[str, ...]) -> Any:
    """Train a baseline at a fidelity and return its curve, its cost, and the drops by what it is validated on."""
    from nas.model.render import render
    from nas.space.bases import load_base
    from nas.space.variant import Variant
    from nas.study.settings import current_versions
    from nas.training.jobs import ProxyJob, checkpoint_key
    from nas.training.recipe import make_recipe
    from nas.training.train import train

    folder = Path(f"{options.out}.files")
    recipe = make_recipe(
        init="bank", epochs=0, imgsz=fidelity.imgsz, windows_at=fidelity.windows_at, batch=options.batch,
        base_epochs=options.epochs, device=options.device, weights=options.weights,
    ).for_baseline()  # fmt: skip
    variant = Variant(options.base, options.scale)
    job = ProxyJob(
        name=variant.name, yaml=render(variant).yaml, base=variant.base, scale=variant.scale, swaps=(), data=str(data),
        data_key=fingerprint, recipe=recipe, seed=options.seed, init=options.weights or None, average=False,
        scratch=str(folder / "scratch"),
    )  # fmt: skip
    key = checkpoint_key(job, current_versions())
    weights = folder / f"{key}.pt"
    job = replace(job, save=str(weights), checkpoint=str(folder / key))
    done = weights.with_suffix(".json")
    if not (weights.exists() and done.exists()):
        print(f"training: {fidelity.words}, {options.epochs} epochs", flush=True)
        result = train(job, 1, lambda score: print(f"  epoch {score.epoch}: loss {score.train_loss:.3f}", flush=True))
        last = result.curve[-1].validation
        done.write_text(json.dumps({"map": last.map if last else 0.0, "cpu_seconds": result.cpu_seconds}))
    graph = load_base(options.base)
    slots = {layer.name: row for row, layer in enumerate(graph.layers) if layer.kind}
    made = {"trained": json.loads(done.read_text()), "validated_on": {}}
    for where in on:
        untrained = replace(recipe, epochs=0, init="baseline", validated_on=where)
        made["validated_on"][where] = ablate(replace(job, init=str(weights), recipe=untrained, save=None), slots)
    return made


def ablate(job: Any, slots: dict[str, int]) -> dict[str, Any]:
    """Return a trained baseline's mAP50-95, the drop of each layer, and the seconds of one validation."""
    from nas.bank.distil import ablated
    from nas.training.train import open_trainer

    with open_trainer(job, 1) as trainer:
        trainer.set_up()
        trainer.validate_now()  # the first one also decodes images
        started = time.process_time()
        value = trainer.validate_now().map
        seconds = time.process_time() - started
        drops = {slot: value - without for slot, without in ablated(trainer.ema.ema, slots, trainer)}
    return {"map": value, "seconds": seconds, "drops": drops}


def table(bodies: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table: a column for each fidelity, a row for each slot."""
    columns: dict[str, dict[str, Any]] = {}
    minutes = {}
    for body in bodies:
        for name, found in body.items():
            for where, seen in found["validated_on"].items():
                several = len(found["validated_on"]) > 1
                label = f"{name}, validated on {where}" if several else name
                columns[label], minutes[label] = seen, found["trained"]["cpu_seconds"] / 60
    lines = ["| | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]

    def row(name: str, cells: list[str]) -> None:
        lines.append(f"| {name} | " + " | ".join(cells) + " |")

    row("mAP50-95", [f"{c['map']:.3f}" for c in columns.values()])
    row("CPU minutes of the training", [f"{minutes[name]:.1f}" for name in columns])
    row("CPU seconds of a validation", [f"{c['seconds']:.1f}" for c in columns.values()])
    for slot in next(iter(columns.values()))["drops"]:
        drops = [c["drops"][slot] for c in columns.values()]
        row(slot, [f"{drop:.4f}" + (" idle" if drop < IDLE else "") for drop in drops])
    if "target" in columns:
        from scipy.stats import spearmanr

        truth = columns["target"]["drops"]
        idle = {slot for slot, drop in truth.items() if drop < IDLE}
        for name, column in columns.items():
            here = {slot for slot, drop in column["drops"].items() if drop < IDLE}
            rho = spearmanr([truth[s] for s in truth], [column["drops"][s] for s in truth]).statistic
            lines.append(
                f"{name}: {len(here)} idle ({len(here - idle)} that matter at the target: "
                f"{', '.join(sorted(here - idle)) or 'none'}; {len(idle - here)} that idle there and not here: "
                f"{', '.join(sorted(idle - here)) or 'none'}); Spearman of the drops with the target's {rho:.2f}"
            )
    return lines


def main() -> None:
    """Measure what is missing, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", nargs="?", type=Path)
    parser.add_argument("--out", type=Path, default=Path("target_scale.json"))
    parser.add_argument("--target", type=int, default=640)
    parser.add_argument("--base", default="yolov8")
    parser.add_argument("--scale", default="n")
    parser.add_argument("--weights", default="", help="a .pt file that every baseline starts from")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", help="make only the fidelities whose name contains this")
    parser.add_argument("--table", nargs="+", type=Path, help="only print the table of these files")
    options = parser.parse_args()
    if options.table:
        return print("\n".join(table([json.loads(file.read_text()) for file in options.table])))
    from nas.files import cache_dir, write_json
    from nas.model.offline import go_offline

    go_offline(cache_dir())
    from nas.data.dataset import load, write_resolved
    from nas.data.fidelity import shares_at
    from nas.data.levels import read_labels

    dataset = load(options.data)
    images = read_labels(dataset)[0]
    data = write_resolved(dataset, Path(f"{options.out}.files"))
    body = json.loads(options.out.read_text()) if options.out.exists() else {}
    for name, (fidelity, on) in fidelities(images, options.target).items():
        print(f"{name}: {shares_at(images, fidelity).words}", flush=True)
        if name not in body and (not options.only or options.only in name):
            body[name] = measure(options, data, dataset.fingerprint, fidelity, on)
            write_json(options.out, body)
    if body:
        print("\n".join(table([body])))
    return None


if __name__ == "__main__":
    main()
