"""Model YAMLs of forks: classes that only the fork has become choices, and what is read is what the file says."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import ultralytics
import ultralytics.nn.tasks as tasks
import yaml
from torch import nn

from nas.errors import ModelError
from nas.model.render import render
from nas.ops import registry
from nas.space.bases import load_base
from nas.space.choice import parse_choice
from nas.space.import_yaml import Imported, variant_of_yaml
from nas.space.model_yaml import ModelYaml, parse_model_yaml, read_model_yaml
from nas.space.variant import make_variant

MODELS = Path(ultralytics.__file__).parent / "cfg/models"
V8, V8P2 = ((MODELS / "v8" / f"{name}.yaml").read_text() for name in ("yolov8", "yolov8-p2"))
V5, V11 = (MODELS / "v5/yolov5.yaml").read_text(), (MODELS / "11/yolo11.yaml").read_text()
LEAST_SHARE = 0.6


def give_classes(text: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Put a class of each name into the host that neither it nor the registry has; return these names."""
    body = yaml.safe_load(text)
    found = {str(row[2]) for part in ("backbone", "head") for row in body[part]}
    unknown = [n for n in sorted(found) if n.isidentifier() and not hasattr(tasks, n) and n not in registry.entries()]
    for name in unknown:
        monkeypatch.setattr(tasks, name, type(name, (nn.Identity,), {}), raising=False)
    return unknown


def wrongly_read(model: ModelYaml, found: Imported) -> list[str]:
    """Return the rows of a variant that are not those of the file that it was read from, in full."""
    wrong = []
    rows = found.variant.graph().rows()
    for row, given in zip(rows, model.rows, strict=True):
        sources = row.source if isinstance(row.source, tuple) else (row.source,)
        numbers = tuple(row.index + s if s < 0 else s for s in sources)
        args = row.layer.args
        choice = parse_choice(row.layer.swap) if row.layer.swap else None
        if choice and not choice.row:  # a registered module: what the row leaves out are its defaults
            entry = registry.get(choice.module)
            defaults = [p.default if isinstance(p, registry.Arg) else None for p in entry.params]
            own = 0 if entry.rule in ("same", "guided") else 1
            rest = zip(args[len(given.args) :], defaults[len(given.args) - own :], strict=False)
            if odd := [(a, default) for a, default in rest if default is not None and a != default]:
                wrong.append(f"{given.line}: other values than the defaults: {odd}")
            args = args[: len(given.args)]
        if (numbers, row.layer.repeats, row.layer.module, args) != (
            given.sources,
            given.repeats,
            given.module,
            given.args,
        ):
            wrong.append(f"{given.line}: {row} in place of {given}")
    return wrong


def insert(text: str, after: str, row: str) -> str:
    """Return a YOLOv8 YAML with a row after a row, and every later number moved."""
    lines, out, number, place = text.splitlines(), [], -1, None
    for line in lines:
        if re.match(r"\s*- \[", line):
            number += 1
        if place is None and after in line:
            place = number
            out += [line, f"  - {row}"]
            continue
        if place is not None and (match := re.match(r"(\s*- \[)(\[[^\]]*\])(.*)", line)):
            moved = [int(n) + (int(n) >= place > 0 and int(n) >= 0) for n in match[2][1:-1].split(",")]
            line = f"{match[1]}{moved}{match[3]}"
        out.append(line)
    return "\n".join(out) + "\n"


KINDS: dict[str, tuple[str, dict[str, str]]] = {
    "blocks with another class": (
        V8.replace("C2f, [512, True]", "C2f_Odd, [512, True]").replace("C2f, [256]", "C2f_Odd, [256]"),
        {"backbone.c2f_p4": "host:C2f_Odd", "neck.c2f_p3": "host:C2f_Odd"},
    ),
    "blocks with arguments before the shortcut": (
        V8.replace("C2f, [512, True]", "C2f_Odd, [512, 7, True]"),
        {"backbone.c2f_p4": "host:C2f_Odd(channels,7,true)"},
    ),
    "lists and text as arguments": (
        V8.replace("C2f, [1024, True]", "C2f_Odd, [1024, [20, 20], 'chunk', 1e-4]"),
        {"backbone.c2f_p5": "host:C2f_Odd(channels,[20,20],chunk,0.0001)"},
    ),
    "a block without repeats": (
        V8.replace("[-1, 6, C2f, [512, True]]", "[-1, 1, OddELAN, [512, 256, 128, 1, 9]]"),
        {"backbone.c2f_p4": "host:OddELAN(channels,256,128,1,9,repeats=1)"},
    ),
    "a downsampling without arguments": (
        V8.replace("Conv, [512, 3, 2]] # 5", "OddDown, []] # 5"),
        {"backbone.down_p4": "host:OddDown()"},
    ),
    "a block of another family": (
        V8.replace("C2f, [512]", "C3, [512, False]"),
        {"neck.c2f_n4": "host:C3(channels,false)", "neck.c2f_p4": "host:C3(channels,false)"},
    ),
    "YOLOv5": (V5.replace("C3, [1024]", "C3_Odd, [1024]"), {"backbone.c3_p5": "host:C3_Odd"}),
    "YOLO11": (V11.replace("C2PSA, [1024]", "C2Odd, [1024]"), {"backbone.c2psa": "host:C2Odd"}),
    "attention after the backbone": (
        insert(V8, "SPPF", "[-1, 1, OddAttention, [8]]"),
        {"after backbone.sppf": "host:OddAttention(8)"},
    ),
    "attention without arguments, twice": (
        insert(insert(V8, "SPPF", "[-1, 1, OddAttention, []]"), "# 15 (P3", "[-1, 2, OddAttention, []]"),
        {"after backbone.sppf": "host:OddAttention", "after neck.c2f_p3": "host:OddAttention(repeats=2)"},
    ),
    "attention of ours, beside a P2 head": (
        insert(V8P2, "SPPF", "[-1, 1, SE, [8]]"),
        {"after backbone.sppf": "SE(reduction=8)"},
    ),
}


@pytest.mark.parametrize("base", ["yolov5-p2", "yolo11-p2", "yolo12-p2"])
def test_a_p2_head_of_another_family_is_read(base):
    swaps = {"neck.up_p2": "DySample", f"after {load_base(base).layers[-1].sources[0]}": "SimAM"}
    variant = make_variant(base, "n", swaps)
    found = variant_of_yaml(parse_model_yaml(render(variant).yaml, "mine.yaml"))
    assert (found.variant, found.left_out) == (variant, ())


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_of_edit_is_read_as_it_is(kind, monkeypatch):
    text, swaps = KINDS[kind]
    give_classes(text, monkeypatch)
    model = parse_model_yaml(text, "mine.yaml")
    found = variant_of_yaml(model)
    assert found.left_out == ()
    assert dict(found.variant.swaps) == swaps
    assert wrongly_read(model, found) == []
    again = variant_of_yaml(parse_model_yaml(render(found.variant).yaml, f"{found.variant.name}.yaml"))
    assert again.variant == found.variant


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("C2f, [512, True]", "C2f_Absent, [512, True]", "C2f_Absent is not registered .*, and Ultralytics"),
        ("Conv, [512, 3, 2]] # 5", "DWConv, [256, 3, 2]] # 5", "DWConv has 256 output channels in place of 512"),
        ("SPPF, [1024, 5]", "Conv, [1024, 3, 2]", "SPPF replaced by Conv, which has another place in a model"),
        ("[-1, 3, C2f, [512]] # 12", "[[-1, 6], 3, C2fOdd, [512]] # 12", "C2fOdd takes 2 inputs in place of 1"),
        ("C2f, [512, True]", "C2fOdd, [512, channels]", "with the text 'channels'"),
        ("Detect, [nc]", "DetectOdd, [nc]", "Detect replaced by DetectOdd: a head cannot be swapped"),
        (
            "Detect, [nc]",
            "Segment, [nc, 32, 256]",
            "Segment .* instance segmentation; yolov8 is a base of detection",
        ),
        ("nc: 80", "nc: 80\nwide: 64", ""),
        ("C2f, [512, True]", "C2fOdd, [wide]", ""),
    ],
)
def test_what_is_not_understood_is_listed(old, new, message, monkeypatch):
    text = V8.replace(old, new)
    assert text != V8
    give_classes(text.replace("C2f_Absent", "C2f"), monkeypatch)
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-mine.yaml"), base="yolov8")
    assert any(re.search(message, what) for _, what in found.left_out) == bool(message)


def test_a_key_that_rows_refer_to_is_named(monkeypatch):
    text = V8.replace("nc: 80", "nc: 80\nwide: 64").replace("C2f, [256]", "C2fOdd, [wide]")
    give_classes(text, monkeypatch)
    found = variant_of_yaml(parse_model_yaml(text, "yolov8n-mine.yaml"))
    assert any(what.startswith("wide: a fork's parse_model looks it up") for _, what in found.left_out)


@pytest.mark.parametrize(
    ("scales", "file", "letter", "complete"),
    [
        ("depth_multiple: 0.33\nwidth_multiple: 0.25", "mine.yaml", "n", True),
        ("depth_multiple: 0.33\nwidth_multiple: 0.50", "yolov8n-mine.yaml", "s", True),
        ("depth_multiple: 0.67\nwidth_multiple: 0.75", "mine.yaml", "n", False),  # m ends at 768 channels, the file not
        ("scales:\n  s: [0.33, 0.50, 1024]\n  n: [0.33, 0.25, 1024]", "mine.yaml", "s", True),
        ("scales:\n  s: [0.33, 0.50, 1024]\n  n: [0.33, 0.25, 1024]", "yolov8n-mine.yaml", "n", True),
    ],
)
def test_scales_are_read_as_the_host_does(scales, file, letter, complete):
    text = re.sub(r"scales:.*?\n(?=\S|\n)", f"{scales}\n", V8, flags=re.S)
    found = variant_of_yaml(parse_model_yaml(text, file))
    assert (found.variant.scale, not found.left_out) == (letter, complete)


def test_what_is_near_no_base_is_listed_by_line(monkeypatch):
    text = "backbone:\n" + "  - [-1, 1, Conv, [64, 3, 1]]\n" * 9 + "head:\n  - [[-1], 1, Detect, [nc]]\n"
    with pytest.raises(ModelError) as raised:
        variant_of_yaml(parse_model_yaml(text, "m.yaml"))
    first, *lines = str(raised.value).splitlines()
    assert "is no variant of any known base" in first
    assert lines
    assert all(re.match(r"m\.yaml:\d+: ", line) for line in lines)


def test_the_same_swaps_have_one_id_everywhere():
    swaps = {"neck.c2f_p3": "host:C3(channels, False)", "after backbone.sppf": "host:nn.Dropout(0.5)"}
    variant = make_variant("yolov8", "n", swaps)
    assert variant.modules == ()
    assert variant.canonical == (
        "after backbone.sppf=host:nn.Dropout(0.5)\nneck.c2f_p3=host:C3(channels,false)\nbase=yolov8\nscale=n"
    )


def files_of_forks() -> Iterator[Path]:
    folder = os.environ.get("NAS_FORK_YAMLS")
    yield from sorted(Path(folder).rglob("*.yaml")) if folder else ()


@pytest.mark.skipif(not os.environ.get("NAS_FORK_YAMLS"), reason="NAS_FORK_YAMLS names a folder of forks' model YAMLs")
def test_the_share_of_public_yamls_that_is_read(monkeypatch, capsys):
    """Where the host has classes of their names: at least 60 % in full, none wrongly, each other with its lines."""
    outcome: dict[str, list[str]] = {"in full": [], "in part": [], "not": []}
    for path in files_of_forks():
        with monkeypatch.context() as patch:
            give_classes(path.read_text(encoding="utf-8"), patch)
            try:
                model = read_model_yaml(path)
                found = variant_of_yaml(model)
            except ModelError as error:
                if not re.search(rf"^{re.escape(str(path))}:\d+: ", str(error), re.M):
                    pytest.fail(f"no lines in {error}")
                outcome["not"].append(path.name)
                continue
            if found.left_out:
                assert all(1 <= line <= model.rows[-1].line for line, _ in found.left_out)
                outcome["in part"].append(f"{path.name}: {found.left_out[0][1]}")
                continue
            assert wrongly_read(model, found) == [], path
            outcome["in full"].append(path.name)
    total = sum(map(len, outcome.values()))
    with capsys.disabled():
        for what, listed in outcome.items():
            shown = [f"  {one}" for one in listed if what != "in full"]
            sys.stdout.write("\n".join(["", f"read {what}: {len(listed)} of {total}", *shown]))
    assert len(outcome["in full"]) >= LEAST_SHARE * total
