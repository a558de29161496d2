"""How engines take each registered module: does it export, how far off is its answer, how long does it take.

    python benchmarks/modules_engines.py                              # resumes: what has been measured stays
    python benchmarks/modules_engines.py --only CARAFE --engine ncnn  # measures these again

Each module is fused, exported with an input of the size that it has in a model at 640 px (`nas.model.module_card`), and
run by ONNX Runtime, OpenVINO and NCNN with one thread. Its values are perturbed, so that offsets and gates do
something. It is timed alternately with the stock layer that it replaces, as in benchmarks/modules_cpu.py. Written are
the ratio of their processor times, and the largest difference from PyTorch's answer as a share of its largest value.
`nas ops` and docs/modules.md show it, from nas/model/modules_engines.json.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from modules_cpu import replaced

RESULTS = Path(__file__).parents[1] / "nas" / "model" / "modules_engines.json"
ENGINES = ("onnxruntime", "openvino", "ncnn")


def main() -> None:
    """Measure, print and write after each module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", action="append", choices=ENGINES, help="this engine alone; may be repeated")
    parser.add_argument("--only", action="append", default=[], help="measure this module again; may be repeated")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()

    from nas.model.offline import set_offline

    set_offline()
    import torch

    import nas.engines
    from nas.engines.export import OPSET
    from nas.engines.measure import engine_machine
    from nas.model.module_card import in_order
    from nas.ops.registry import entries

    torch.set_num_threads(1)
    conditions = nas.engines.Conditions(imgsz=640, rounds=args.rounds, pause_s=0.05)
    ordered = sorted(entries().values(), key=in_order)
    unknown = set(args.only) - {entry.name for entry in ordered}
    if unknown:
        sys.exit(f"no such module: {', '.join(sorted(unknown))}")
    for engine in nas.engines.chosen_engines(",".join(args.engine or ENGINES), conditions):
        body = json.loads(args.output.read_text(encoding="utf-8")) if args.output.is_file() else {}
        on = engine_machine(engine, conditions) + f", opset {OPSET}" * (engine.name == "onnxruntime")
        kept = body.get(engine.name, {})
        found = kept.get("modules", {}) if kept.get("on") == on else {}
        for entry in ordered:
            if (entry.name in found and entry.name not in args.only) or (args.only and entry.name not in args.only):
                continue
            found[entry.name] = measured(entry, engine, conditions)
            body[engine.name] = {"on": on, "modules": {e.name: found[e.name] for e in ordered if e.name in found}}
            args.output.write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
            print(f"{engine.name:12}{entry.name:24}{found[entry.name]}", flush=True)


def measured(entry, engine, conditions) -> dict:
    """Return a module's figures in an engine."""
    import tempfile

    import torch

    from nas.engines.board import measure_in_process
    from nas.engines.folder import write_folder
    from nas.engines.measure import EngineLatency, part_subject, result_of
    from nas.model.module_card import example

    torch.manual_seed(0)
    module, inputs = example(entry)
    module.eval()
    stock, name = replaced(entry, module, inputs)
    taken = inputs if name == "Detect" or not isinstance(inputs, list) else inputs[0]
    subjects = [part_subject(name, ready(stock), taken), part_subject(entry.name, ready(module), inputs)]
    if name == entry.name:
        subjects = subjects[1:]
    with tempfile.TemporaryDirectory(prefix="nas-engine-") as folder:
        written = write_folder(Path(folder), engine, subjects, conditions, lambda _: None)
        if entry.name in written.failures:
            result = EngineLatency(entry.name, "", written.failures[entry.name])
        else:
            result = result_of(measure_in_process(written.folder, entry.name, subjects[0].name))
    return {
        "beside": name,
        "failure": result.failure,
        "difference": result.values and float(f"{result.values:.2g}"),
        "ms": result.ms and float(f"{result.ms:.3g}"),
        "time": result.ratio and float(f"{result.ratio:.3g}"),
        "quartiles": [float(f"{x:.3g}") for x in (result.ratio_low, result.ratio_high) if x is not None],
    }


def ready(module):
    """Return a module with perturbed values, fused as Ultralytics fuses it; a head gives its maps in one tensor."""
    import torch
    from torch import nn
    from ultralytics.nn.tasks import BaseModel

    from nas.engines.prepare import add_noise
    from nas.ops.heads import head_maps, is_head

    class One(BaseModel):
        """A model of one layer."""

        def __init__(self, layer) -> None:
            super().__init__()
            self.model = nn.Sequential(layer)

        def is_fused(self, thresh: int = 0) -> bool:  # noqa: ARG002  the host calls it so
            return False

    class Maps(nn.Module):
        """A head's predictions before boxes are decoded."""

        def __init__(self, head) -> None:
            super().__init__()
            self.head = head

        def forward(self, maps):
            return torch.cat([torch.cat(pair, 1).flatten(2) for pair in head_maps(self.head, maps)], 2)

    with torch.no_grad():
        One(add_noise(module.eval())).fuse(verbose=False)
    for parameter in module.parameters():
        parameter.requires_grad = False
    return Maps(module).eval() if is_head(module) else module


if __name__ == "__main__":
    main()
