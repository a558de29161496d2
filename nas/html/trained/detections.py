"""Detections: the validation images on which the baseline and the winner differ most, with heat maps by the host."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from nas.html.section import Section
from nas.html.source import Source
from nas.pictures.detections import CONFIDENCE, Box, Detections, Shown, Side, look
from nas.pictures.match import IOU
from nas.space.bases import shown_task
from nas.task.task import DETECT

_KINDS = ("found", "missed", "false")
"""Kinds of boxes, which are also the names of their styles in the page."""
_LABELLED = 12
"""Boxes of an image up to which each has its class written next to it; of more, where one points at them."""
_LETTER = 0.56
"""Width of a letter over the size of its type."""


def detections(source: Source) -> Section | None:
    """Return the section; None for a study without weights of both or of another task, and without pictures."""
    if not source.pictures or shown_task(source.settings.space.base) is not DETECT:
        return None
    winner = source.winner
    found = look(source.study, source.full_runs, winner.trial if winner else None, source.note)
    return section_of(found) if found else None


def section_of(found: Detections) -> Section:
    """Return the section of detections."""
    looked, every = found.looked
    which = f"the {every:,} validation images" if looked == every else f"{looked:,} of the {every:,} validation images"
    lead = [
        (
            f"{found.origin} On {which}, at {found.imgsz} px and a confidence of {CONFIDENCE:g}, the baseline has "
            f"{_words(found.base)}; {found.title} has {_words(found.other)}. A box is found where a detection of its "
            f"class overlaps it with an IoU of {IOU:g} or more."
        )
    ]
    if not found.differ:
        return Section("detections", "What they detect", [*lead, "They differ on none of these images."])
    shown = len(found.images)
    lead.append(
        f"They differ on {found.differ:,} images; these are the {shown} on which they differ most."
        if shown < found.differ
        else f"They differ on {'this image' if shown == 1 else f'these {shown} images'} only."
    )
    heat = any(side.heat for image in found.images for side in (image.base, image.other))
    if heat:
        lead.append("Heat maps: Ultralytics’ LayerCAM, where the network looks for what it detects.")
    return Section(
        id="detections",
        title="What they detect",
        lead=lead,
        template="report_detections.html.j2",
        values={
            "kinds": _KINDS,
            "images": [_image(k, image, found.title) for k, image in enumerate(found.images)],
        },
        notes=found.notes,
    )


def _words(counts: tuple[int, int, int]) -> str:
    return f"{counts[0]:,} found, {counts[1]:,} missed, {counts[2]:,} false"


def _image(number: int, image: Shown, title: str) -> dict[str, Any]:
    """Return what the template prints of an image."""
    width, height = image.size
    panels = [_panel(side, who, width) for side, who in ((image.base, "baseline"), (image.other, title))]
    heats = [
        {"who": who, "uri": data_uri(side.heat)}
        for side, who in ((image.base, "baseline"), (image.other, title))
        if side.heat
    ]
    return {
        "id": f"photo-{number}",
        "name": image.name,
        "width": width,
        "height": height,
        "uri": data_uri(image.photo),
        "panels": panels,
        "heats": heats,
    }


def _panel(side: Side, who: str, width: int) -> dict[str, Any]:
    size = round(max(width / 26, 1.0), 1)
    few = len(side.boxes) <= _LABELLED
    return {
        "who": who,
        "words": _words(side.counts),
        "size": size,
        "boxes": [_box(box, size, width, few) for box in side.boxes],
    }


def _box(box: Box, size: float, width: int, labelled: bool) -> dict[str, Any]:
    """Return a box and its label, which is above it, or inside of it at the upper edge of the image."""
    x1, y1, x2, y2 = box.corners
    text = box.name if box.confidence is None else f"{box.name} {box.confidence:.2f}"
    end = width - _LETTER * size * len(text)
    return {
        "kind": box.kind, "x": x1, "y": y1, "width": round(x2 - x1, 1), "height": round(y2 - y1, 1),
        "tip": f"{box.kind}: {text}", "text": text if labelled else "",
        "text_x": round(max(min(x1, end), 0.0), 1),
        "text_y": round(y1 - 0.3 * size if y1 > 1.2 * size else y1 + 1.1 * size, 1),
    }  # fmt: skip


def data_uri(content: bytes) -> str:
    """Return a JPEG as text that a page holds."""
    return f"data:image/jpeg;base64,{b64encode(content).decode('ascii')}"
