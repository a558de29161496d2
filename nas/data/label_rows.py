"""Rows of label files, by task: what each needs, and what is wrong with one.

The rules are those of Ultralytics' scan, which skips an image that breaks one. More is checked here: a box or outline
without area, which trains nothing, a point outside the image, and rows of another task. An outline counts as a box
where boxes are needed, as in Ultralytics.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from nas.task.task import Labels

TOLERANCE = 0.01
"""Distance from the range 0 to 1 that Ultralytics tolerates in a coordinate: exporters round."""
OTHER = "labels"
"""Kind of the problem that a row is one of another task."""
POINTS = "points"
"""Kind of the problem that a row has another number of key points."""
NEEDED = {
    "boxes": "`class x y width height` or a class and 3 or more points",
    "polygons": "a class and 3 or more points (`class x1 y1 x2 y2 x3 y3 ...`)",
    "rotated boxes": "a class and 4 corners (`class x1 y1 x2 y2 x3 y3 x4 y4`)",
}
"""What a row of labels has, in words; of key points it depends on their number."""


@dataclass(frozen=True)
class RowRule:
    """What a row has to be.

    Attributes:
        classes: Number of classes; 0 if unknown.
        source: Name of the file that defines them.
        labels: What is labelled.
        points: Of key points, how many a row has and how many values each (2, or 3 with its visibility).
    """

    classes: int
    source: str
    labels: Labels = "boxes"
    points: tuple[int, int] = (0, 0)

    @property
    def needed(self) -> str:
        """What a row has, in words."""
        if self.labels != "keypoints":
            return NEEDED[self.labels]
        count, values = self.points
        of_each = "x, y and visibility" if values == 3 else "x and y"
        return f"`class x y width height` and {of_each} of {count} key points, {5 + count * values} values"


def wrong_row(words: list[str], outline: int, rule: RowRule) -> tuple[str, str]:
    """Return what is wrong with a label row: the kind of problem and its text; both empty if it is valid.

    Args:
        words: The row's values.
        outline: Number of the file's first line with an outline; 0 without one.
        rule: What it has to be.
    """
    count = len(words)
    if problem := _wrong_count(count, outline, rule):
        return problem
    try:
        index, *values = map(float, words)
    except ValueError:
        return "row", f"{' '.join(words)[:60]!r} holds something that is not a number"
    if not math.isfinite(index) or index != int(index):
        return "class", f"class {words[0]} is not a whole number"
    if rule.classes and not 0 <= index < rule.classes:
        some = "1 class (0)" if rule.classes == 1 else f"{rule.classes} classes (0 to {rule.classes - 1})"
        return "class", f"class {index:.0f}, but {rule.source} names {some}"
    seen = values[6::3] if rule.labels == "keypoints" and rule.points[1] == 3 else []
    if wrong := next((value for value in seen if value not in (0, 1, 2)), None):
        return "visibility", f"{wrong:g} is no visibility of a key point: 0 not labelled, 1 hidden, 2 visible"
    for place, (word, value) in enumerate(zip(words[1:], values, strict=True)):
        if seen and place >= 6 and place % 3 == 0:
            continue
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            return "range", f"{word} is not within 0 to 1: positions and sizes are fractions of the image's"
    if (count == 5 or rule.labels == "keypoints") and min(values[2:4]) <= 0:
        return "size", f"width {words[3]} and height {words[4]} must both be more than 0"
    if rule.labels == "keypoints" or count == 5:
        return "", ""
    if max(values[::2]) <= min(values[::2]) or max(values[1::2]) <= min(values[1::2]):
        return "size", "the outline has no width or no height"
    return "", ""


def _wrong_count(count: int, outline: int, rule: RowRule) -> tuple[str, str] | None:
    """Return what is wrong with the number of values of a row; None if nothing is."""
    is_outline = count >= 7 and count % 2 == 1
    if rule.labels == "keypoints":
        wanted = 5 + rule.points[0] * rule.points[1]
        if count == wanted:
            return None
        return (OTHER if count == 5 else POINTS), f"{count} values, where {rule.needed} are needed"
    if rule.labels in ("polygons", "rotated boxes"):
        if count == 5:
            return OTHER, f"a box, where {rule.needed} are needed"
        if not is_outline or (rule.labels == "rotated boxes" and count != 9):
            return (OTHER if is_outline else "row"), f"{count} values, where {rule.needed} are needed"
        return None
    if count != 5 and not is_outline:
        return "row", f"{count} values, where {rule.needed} are needed"
    if count == 5 and outline:
        return "row", f"a box, but line {outline} is an outline, and Ultralytics skips images that have both"
    return None
