"""The built-in demo data: 160-pixel scenes of five shapes among clutter, the same bytes on every machine.

Shapes are from 8 pixels to most of the image, so that all three levels of a detector have work.

Pixels come from integer arithmetic and our own random generator, and are written as BMP, whose bytes depend on no
compressor: the set is identical on every system, Python and NumPy, which `DIGEST` checks. A change to the drawing is a
new set: increase `VERSION`, which gives it another folder, and update the digests.

The scenes of all tasks are the same; their labels differ (`nas.data.demo_labels`). Of classification each image is a
part of a scene, around one shape, in the folder of its class.
"""

from __future__ import annotations

import hashlib
import math
import struct
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from nas.data.demo_labels import FURTHER, Shape, label
from nas.errors import OutputError
from nas.files import cache_dir
from nas.task.task import CLASSIFY, DETECT, TASKS

VERSION = 3
DIGEST = "9b580f6b9248f778e01e2c4271ad56ccaa3106fd83a110ac061019e0d393a886"
DIGESTS: Mapping[str, str] = {
    "classify": "fe998b8201ce1c61cbe540205b5c40fa449f809049ed1ed41a9f802a5b1491a7",
    "segment": "282dc1923b879091f517a87cda19fb2babba0b99d376572c9139961a76481ff9",
    "pose": "842f17743bfee5ef15a7d32cde12d640dc9346000bf3f30ae4eeda112ed669de",
    "obb": "7bd918939d4df700730048675a32c38bf6c6f954610c407def8ffa4c3db9add9",
}
"""Those of the sets of other tasks."""
NAMES = ("disc", "ring", "square", "cross", "star")
COUNTS = {"train": 96, "val": 64}
WEIGHTS = Path(__file__).with_name("demo_weights.pt")
"""Trained weights from which the demo starts, as users start from a stock model: `benchmarks/demo_weights.py`."""
WEIGHTS_OF = ("yolov8", "n")
"""Base and scale of the weights."""
_LEAST_SHAPE = 20
"""Pixels: of a smaller shape, a part of a scene would hardly show more than blurred edges."""
_KINDS = (("images", "bmp"), ("labels", "txt"))
SIZE = 160
_RADII = ((45, 32, 124), (78, 124, 376), (100, 376, 600))
"""Of a hundred shapes up to the first number: the least and the largest reach, in eighths of a pixel."""

_Ints = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_Window = tuple[slice, slice]

# Pythagorean triples: a rotation by exact fractions, and no cosine that differs in its last bit between C libraries.
_TURNS = ((1, 0, 1), (56, 33, 65), (40, 9, 41), (24, 7, 25), (12, 5, 13), (15, 8, 17), (4, 3, 5), (21, 20, 29))
# The directions of a star's five points, in thousandths: inside it, no more than one of them leads out of the middle.
_POINTS = ((0, 1000), (951, 309), (-951, 309), (588, -809), (-588, -809))
_AT = np.arange(SIZE, dtype=np.int64)
_WORD = 2**64 - 1
_MIX = (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)


class _Random:
    """SplitMix64 over a counter. Integers only, so that no release of anything can change its stream."""

    def __init__(self, seed: int) -> None:
        self._at = seed << 32

    def array(self, low: int, high: int, *shape: int) -> _Ints:
        """Draw uniform integers from `low` to `high`, both included."""
        count = math.prod(shape)
        z = np.arange(self._at, self._at + count, dtype=np.uint64) * np.uint64(_MIX[0])
        self._at += count
        z = (z ^ (z >> np.uint64(30))) * np.uint64(_MIX[1])
        z = (z ^ (z >> np.uint64(27))) * np.uint64(_MIX[2])
        bits = (z >> np.uint64(40)).astype(np.int64)
        drawn: _Ints = low + (bits * (high - low + 1) >> 24).reshape(shape)
        return drawn

    def pick(self, low: int, high: int) -> int:
        """Draw one integer from `low` to `high`: the same stream, without the cost of an array."""
        z = self._at * _MIX[0] & _WORD
        self._at += 1
        z = (z ^ (z >> 30)) * _MIX[1] & _WORD
        z = (z ^ (z >> 27)) * _MIX[2] & _WORD
        return low + ((z >> 40) * (high - low + 1) >> 24)

    def odds(self, percent: int) -> bool:
        """Return True with a probability of `percent` in a hundred."""
        return self.pick(0, 99) < percent


# ---- outlines: which points (u, v), turned with the shape, lie inside it; r is its reach ----------------------------


def _disc(u: _Ints, v: _Ints, r: int) -> _Mask:
    return u * u + v * v <= r * r


def _ring(u: _Ints, v: _Ints, r: int) -> _Mask:
    square = u * u + v * v
    return (square <= r * r) & (square * 25 >= r * r * 9)


def _square(u: _Ints, v: _Ints, r: int) -> _Mask:
    return np.maximum(abs(u), abs(v)) * 8 <= r * 7


def _cross(u: _Ints, v: _Ints, r: int) -> _Mask:
    return (np.minimum(abs(u), abs(v)) * 3 <= r) & (np.maximum(abs(u), abs(v)) <= r)


def _star(u: _Ints, v: _Ints, r: int) -> _Mask:
    votes = np.zeros(u.shape, np.int64)
    for a, b in _POINTS:
        votes += u * a + v * b <= r * 390
    return (votes >= 4) & (u * u + v * v <= r * r)


def _bar(u: _Ints, v: _Ints, r: int) -> _Mask:
    return (abs(u) <= r) & (abs(v) * 14 <= r)


def _bow(u: _Ints, v: _Ints, r: int) -> _Mask:
    return _ring(u, v, r) & (u * 3 > r)


def _crescent(u: _Ints, v: _Ints, r: int) -> _Mask:
    return _disc(u, v, r) & ~_disc(u - r // 2, v, r)


def _corner(u: _Ints, v: _Ints, r: int) -> _Mask:
    return _square(u, v, r) & ((u * 3 < -r) | (v * 3 < -r))


_Outline = Callable[[_Ints, _Ints, int], _Mask]
_SHAPES: tuple[_Outline, ...] = (_disc, _ring, _square, _cross, _star)
_CLUTTER: tuple[_Outline, ...] = (_bar, _bar, _bow, _crescent, _corner)


def _cover(rng: _Random, outline: _Outline, x: int, y: int, r: int) -> tuple[_Window, _Ints, int, tuple[int, int, int]]:
    """Lay an outline at (x, y), of reach r, in eighths of a pixel, turned and stretched by chance.

    Returns:
        A window of the canvas; how much of each of its pixels is covered, in sixteenths (4 x 4 points are looked at);
        how many pixels would be covered on an endless canvas; and the turn, as of `nas.data.demo_labels.Shape`.
    """
    a, b, c = _TURNS[rng.pick(0, len(_TURNS) - 1)]
    a, b = ((a, b), (b, a), (-b, a), (-a, b))[rng.pick(0, 3)]
    wide, tall = rng.pick(14, 18), rng.pick(14, 18)
    reach = r * 3 // 2 + 8
    left, top, side = (x - reach) // 8, (y - reach) // 8, reach // 4 + 2
    points = np.arange(side * 4, dtype=np.int64) * 2 + 1
    dx, dy = (points + left * 8 - x)[None, :], (points + top * 8 - y)[:, None]
    inside = outline((dx * a + dy * b) * wide, (dy * a - dx * b) * tall, r * c * 16)
    rows = sum((inside[k::4].view(np.uint8) for k in range(1, 4)), inside[::4].view(np.uint8))
    cover = sum((rows[:, k::4] for k in range(1, 4)), rows[:, ::4]).astype(np.int64)
    x0, y0, x1, y1 = max(left, 0), max(top, 0), min(left + side, SIZE), min(top + side, SIZE)
    part = cover[y0 - top : y1 - top, x0 - left : x1 - left]
    return (slice(y0, y1), slice(x0, x1)), part, int((cover >= 8).sum()), (a, b, c)


def _texture(rng: _Random, cells: tuple[int, ...], depth: int) -> _Ints:
    """Make value noise around 0: random grids, one for each cell size, stretched over the canvas and added up."""
    total = np.zeros((SIZE, SIZE), np.int64)
    for cell in cells:
        grid = rng.array(-depth, depth, -(-SIZE // cell) + 1, -(-SIZE // cell) + 1)
        i, far = _AT // cell, _AT % cell
        near: _Ints = cell - far
        rows: _Ints = grid[i] * near[:, None] + grid[i + 1] * far[:, None]
        total += (rows[:, i] * near + rows[:, i + 1] * far) // (cell * cell)
    return total


def _paint(rng: _Random, image: _Ints, window: _Window, cover: _Ints) -> None:
    """Paint a fill over the covered pixels; its colour is visible, and independent of the class."""
    part, cover = image[window], cover[:, :, None]
    under = (part * cover).sum(axis=(0, 1)) // max(int(cover.sum()), 1)
    apart = rng.pick(150, 330)
    for _ in range(12):
        fill = rng.array(10, 245, 1, 1, 3)
        if int(abs(fill - under).sum()) >= apart:
            break
    style = rng.pick(0, 7)
    if style < 3:  # stripes, patches, or a slope of light; else a plain colour
        a, b = rng.pick(-4, 4), rng.pick(-4, 4)
        across = (_AT * a)[None, :] + (_AT * b)[:, None]
        if style == 0:
            change = across // 12 % 2 * 40 - 20
        elif style == 1:
            change = _texture(rng, (8, 4), 24)
        else:
            change = np.clip((across - SIZE // 2 * (a + b)) // 4, -50, 50)
        fill = fill + change[window][:, :, None]
    image[window] = (part * (16 - cover) + fill * cover + 8) // 16


def _scene(rng: _Random, task: str) -> tuple[npt.NDArray[np.uint8], list[str]]:
    """Draw one picture (blue, green, red), and write its label rows."""
    light = _texture(rng, (64, 32, 16, 8, 4)[rng.pick(0, 1) : rng.pick(3, 5)], rng.pick(6, 32))
    image = light[:, :, None] + rng.array(50, 205, 3)
    image = image + np.stack([_texture(rng, (64, 32), 18) for _ in range(3)], axis=2)
    owner = np.full((SIZE, SIZE), -1, np.int64)
    placed: list[tuple[int, int, tuple[int, int, int], int, int, int]] = []
    for radius in sorted((_radius(rng) for _ in range(rng.pick(4, 7))), reverse=True):  # small ones are in front
        if rng.odds(30):  # clutter is between the shapes, and may hide those below it
            outline = _CLUTTER[rng.pick(0, len(_CLUTTER) - 1)]
            x, y = rng.pick(0, 8 * SIZE - 1), rng.pick(0, 8 * SIZE - 1)
            window, cover, *_ = _cover(rng, outline, x, y, rng.pick(40, 260))
            _paint(rng, image, window, cover)
            owner[window][cover >= 8] = -1
        kind = rng.pick(0, len(NAMES) - 1)
        inside = max(48, radius * 2 // 3)
        for _ in range(8):  # shapes overlap, but seldom by much
            x, y = rng.pick(inside, 8 * SIZE - inside), rng.pick(inside, 8 * SIZE - inside)
            if all((x - a) ** 2 + (y - b) ** 2 > (radius + r) ** 2 // 2 for *_, a, b, r in placed):
                break
        window, cover, full, turn = _cover(rng, _SHAPES[kind], x, y, radius)
        _paint(rng, image, window, cover)
        owner[window][cover >= 8] = len(placed)
        placed.append((kind, full, turn, x, y, radius))
    if rng.odds(20):  # out of focus
        for _ in range(2):
            edged = np.pad(image, ((1, 1), (0, 0), (0, 0)), mode="edge")
            image = ((edged[:-2] + 2 * image + edged[2:]) // 4).transpose(1, 0, 2)
    grain = rng.array(0, 2**24 - 1, SIZE, SIZE, 3)
    grain = (grain & 255) + (grain >> 8 & 255) + (grain >> 16) - 382
    image = image + (grain * rng.pick(2, 12) >> 8)
    image = 128 + (image - 128) * rng.pick(10, 18) // 16 + rng.pick(-24, 24)  # contrast, brightness
    shapes = (Shape(kind, owner == number, full, turn) for number, (kind, full, turn, *_) in enumerate(placed))
    labels = (label(shape, task) for shape in shapes)
    return np.clip(image, 0, 255).astype(np.uint8), [row for row in labels if row]


def _radius(rng: _Random) -> int:
    """Draw the reach of a shape, in eighths of a pixel."""
    part = rng.pick(0, 99)
    least, most = next((least, most) for share, least, most in _RADII if part < share)
    return rng.pick(least, most)


def _bmp(image: npt.NDArray[np.uint8]) -> bytes:
    """Encode a 24-bit BMP: two headers, and the rows from the bottom up; their length is a multiple of 4 pixels."""
    rows = image[::-1].tobytes()
    height, width = image.shape[:2]
    header = struct.pack("<2sIHHI", b"BM", 54 + len(rows), 0, 0, 54)
    return header + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, len(rows), 2835, 2835, 0, 0) + rows


def generate(counts: Mapping[str, int] | None = None, first: int = 1, task: str = DETECT.name) -> dict[str, bytes]:
    """Draw a set.

    Args:
        counts: Split to its number of images; None is `COUNTS`.
        first: Number of the first scene; other numbers are other scenes.
        task: Name of the task that the labels are for.

    Returns:
        The path of every file within the set, and its bytes.
    """
    # No `path`: both Ultralytics and this tool then count from the file's own folder.
    names = "".join(f"  {index}: {name}\n" for index, name in enumerate(NAMES))
    if task == CLASSIFY.name:
        return _class_folders(counts or COUNTS, first)
    files = {"data.yaml": f"train: images/train\nval: images/val\nnames:\n{names}{FURTHER.get(task, '')}".encode()}
    for split, count in (counts or COUNTS).items():
        for number in range(count):
            image, rows = _scene(_Random(first - 1 + len(files)), task)
            files[f"images/{split}/{number:04d}.bmp"] = _bmp(image)
            files[f"labels/{split}/{number:04d}.txt"] = "".join(f"{row}\n" for row in rows).encode()
    return files


def _class_folders(counts: Mapping[str, int], first: int) -> dict[str, bytes]:
    """Return the set of classification: of each scene the parts around its shapes, by class."""
    files = {}
    seed = first
    for split, count in counts.items():
        for number in range(count):
            image, rows = _scene(_Random(seed), DETECT.name)
            seed += 2  # as the scenes of the other tasks
            for place, row in enumerate(rows):
                kind, *box = map(float, row.split())
                x, y, width, height = (round(value * SIZE) for value in box)
                if max(width, height) >= _LEAST_SHAPE:
                    side = min(max(width, height) * 5 // 16 * 4 + 4, SIZE)
                    left, top = (min(max(middle - side // 2, 0), SIZE - side) for middle in (x, y))
                    part = image[top : top + side, left : left + side]
                    files[f"{split}/{NAMES[int(kind)]}/{number:04d}-{place}.bmp"] = _bmp(part)
    return files


def digest(files: dict[str, bytes]) -> str:
    """Return the SHA-256 of a set: of paths, lengths and bytes, in order of path."""
    total = hashlib.sha256()
    for name, content in sorted(files.items()):
        total.update(f"{name} {len(content)}\n".encode() + content)
    return total.hexdigest()


def demo_dataset(cache: Path | None = None, task: str = DETECT.name) -> Path:
    """Make the demo data of a task, unless it is there.

    It is written to a temporary folder and moved as a whole, so that several processes may make it at once. Missing or
    changed files of an existing set are restored.

    Args:
        cache: The folder to keep it in; by default `cache_dir()`.
        task: Name of the task.

    Returns:
        The path of its data.yaml; of classification, of its folder.

    Raises:
        OutputError: The folder cannot be written.
    """
    cache = (cache or cache_dir()).absolute()
    place = cache / f"demo-v{VERSION}{TASKS[task].mark}"
    wanted = DIGESTS.get(task, DIGEST)
    given = place if task == CLASSIFY.name else place / "data.yaml"
    if _is_whole(place, wanted):
        return given
    files = generate(task=task)
    assert digest(files) == wanted, "the drawing changed, or this machine's integers did"
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{place.name}-", dir=cache) as scratch:
            made = Path(scratch) / place.name
            for name, content in files.items():
                (made / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).write_bytes(content)
            _move(made, place, files, wanted)
    except OSError as error:
        message = f"{cache}: the demo data cannot be written ({error}): set NAS_CACHE to a folder that can"
        raise OutputError(message) from error
    return given


def current_path(weights: str) -> str:
    """Return the path of a file of weights; that of the demo's weights here, if it was stored elsewhere."""
    return str(WEIGHTS) if Path(weights).name == WEIGHTS.name and not Path(weights).exists() else weights


def _is_whole(place: Path, wanted: str) -> bool:
    if not (place / "data.yaml").exists():
        paths = [path.relative_to(place).as_posix() for path in place.rglob("*.bmp")]
        return digest({path: (place / path).read_bytes() for path in paths}) == wanted
    paths = ["data.yaml"]
    for split, count in COUNTS.items():
        paths += [f"{kind}/{split}/{n:04d}.{end}" for n in range(count) for kind, end in _KINDS]
    try:
        return digest({path: (place / path).read_bytes() for path in paths}) == wanted
    except OSError:
        return False


def _move(made: Path, place: Path, files: dict[str, bytes], wanted: str) -> None:
    try:
        made.rename(place)
    except OSError:  # something is there: another process was first, or the set is damaged
        if not _is_whole(place, wanted):
            for name in files:
                (place / name).parent.mkdir(parents=True, exist_ok=True)
                (made / name).replace(place / name)
