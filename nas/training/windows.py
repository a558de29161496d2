"""The host's dataset, of windows: parts of images at the target's scale, so that objects keep their size in pixels.

Training windows are drawn anew for each image of each epoch, from the random generator that augmentation draws from:
all variants of a seed see the same ones. Mosaic, letterboxing and all else that the host does with images of `imgsz`
pixels, it does with windows. See `nas.data.windows` for what a window holds.
"""

from __future__ import annotations

import random
from copy import deepcopy
from typing import Any

import numpy as np
import numpy.typing as npt
from ultralytics.data import YOLODataset
from ultralytics.utils.ops import resample_segments

from nas.data.windows import Boxes, Place, draw_box, draw_window, fixed_windows, move_points, paint_ignored, see

_DENSE = 1000
"""Number of points of an outline that a window cuts: as many as the host makes of one."""


class WindowDataset(YOLODataset):  # type: ignore[misc]  # Ultralytics is untyped
    """Windows of the images of a dataset: drawn ones for training, fixed ones for validation."""

    imgsz: Any

    def __init__(self, *args: Any, window: int, **kwargs: Any) -> None:
        """Read labels and images as the host does.

        Args:
            args: As for the host's dataset.
            window: Side of the windows in pixels.
            kwargs: As for the host's dataset; `imgsz` is the long side that images are scaled to, and `rect` is False.
        """
        self.window = window
        super().__init__(*args, **kwargs)
        self.fixed: list[tuple[int, Place]] = []
        if not self.augment:
            for i, label in enumerate(self.labels):
                shape = self._shape(label["shape"])
                self.fixed += [(i, place) for place in fixed_windows(_corners(label, shape), shape, window, i)]

    def __len__(self) -> int:
        """Return the number of images in training, and of windows in validation."""
        return len(self.labels) if self.augment else len(self.fixed)

    def build_transforms(self, hyp: Any = None) -> Any:
        """Build the host's augmentation for images of the windows' size."""
        scale, self.imgsz = self.imgsz, self.window
        try:
            return super().build_transforms(hyp)
        finally:
            self.imgsz = scale

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        """Return a window and its labels, as the host returns those of an image."""
        image, place = (index, None) if self.augment else self.fixed[index]
        label = deepcopy(self.labels[image])
        pixels, _, shape = self.load_image(image)
        boxes = _corners(label, shape)
        if place is None:
            held = draw_box(boxes, random.randint)
            place = draw_window(None if held is None else boxes[held], shape, self.window, random.randint)
        clipped, labelled = see(boxes, place, shape)
        x, y, side = place
        window = pixels[y : y + side, x : x + side].copy()
        paint_ignored(window, clipped, labelled)
        height, width = window.shape[:2]
        shown = clipped[labelled] / np.array([width, height, width, height])
        label.pop("shape", None)
        label.update(
            img=window,
            ori_shape=(height, width),
            resized_shape=(height, width),
            ratio_pad=(1.0, 1.0),
            cls=label["cls"][labelled],
            bboxes=np.concatenate(
                [(shown[:, :2] + shown[:, 2:]) / 2, shown[:, 2:] - shown[:, :2]], 1, dtype=np.float32
            ),
            segments=self._outlines(label["segments"], labelled, place, shape),
        )
        if self.use_keypoints:
            points = label["keypoints"][labelled]  # x, y and visibility
            points[..., :2], seen = move_points(points[..., :2], place, shape)
            points[..., 2] *= seen
            label["keypoints"] = points
        return dict(self.update_labels_info(label))

    def _outlines(
        self, outlines: list[Any], labelled: npt.NDArray[np.bool_], place: Place, shape: tuple[int, int]
    ) -> list[Any]:
        """Return what a window shows of outlines, or of rotated boxes; nothing where boxes are what is detected."""
        if not (self.use_segments or self.use_obb):
            return []
        found = []
        for outline, wanted in zip(outlines, labelled, strict=True):
            if wanted:
                whole = move_points(outline, place, shape)[1].all()
                dense = outline if whole else resample_segments([outline], max(_DENSE, len(outline) + 1))[0]
                found.append(move_points(dense, place, shape)[0])
        return found

    def _shape(self, original: tuple[int, int]) -> tuple[int, int]:
        """Return the height and width that the host scales an image to."""
        ratio = self.imgsz / max(original)
        height, width = (min(int(np.ceil(length * ratio)), self.imgsz) for length in original)
        return height, width


def _corners(label: dict[str, Any], shape: tuple[int, int]) -> Boxes:
    """Return the boxes of a label of the host as x1, y1, x2, y2 in pixels of an image of this height and width."""
    boxes = label["bboxes"].astype(np.float64).reshape(-1, 4)
    corners = np.concatenate([boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2], 1).clip(0, 1)
    scaled: Boxes = corners * np.array([shape[1], shape[0], shape[1], shape[0]])
    return scaled
