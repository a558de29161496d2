"""How a kernel's threads are laid over pixels, groups of channels and channels."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from nas.ops.kernels.runtime import SHARED_LIMIT, Launch

THREADS = 256
"""Threads of a block, at most; the sources say so to the compiler."""

GRID = 65535
"""Blocks along the last dimension of a grid, at most: CUDA's limit."""

WIDE = 2**31
"""Elements of an image from which indices within it take 64 bits."""

SLACK = 32
"""Bytes of shared memory that a pixel may take beyond what its groups need."""

_TILES = {1: (1, 1), 2: (2, 1), 4: (2, 2), 8: (4, 2), 16: (4, 4), 32: (8, 4), 64: (8, 8)}
"""Width and height of a tile of so many pixels: as square as can be, so that neighbours share what they read."""


def vector_width(channels: int, *tensors: torch.Tensor, limit: int = 8) -> int:
    """Return how many of `channels` neighbouring elements a thread may move at once: a power of two that divides them.

    At most 16 bytes of every tensor, and no more than their addresses are multiples of.

    Args:
        channels: Neighbours in memory.
        *tensors: All that are read or written so.
        limit: At most this many elements.
    """
    width = limit
    while width > 1 and (
        channels % width
        or any(width * t.element_size() > 16 or t.data_ptr() % (width * t.element_size()) for t in tensors)
    ):
        width //= 2
    return width


def next_power(value: int) -> int:
    """Return the smallest power of two that is not below `value`."""
    return 1 << (value - 1).bit_length()


@dataclass(frozen=True)
class Tiles:
    """A block for a tile of pixels and a chunk of groups; see the sources of the kernels.

    Attributes:
        lanes: Neighbouring threads that share a group, a power of two.
        groups: Groups that a block handles at once.
        width: Pixels of the tile along the width.
        height: Pixels of the tile along the height.
    """

    lanes: int
    groups: int
    width: int
    height: int

    @staticmethod
    def of(lanes: int, groups: int, shared_per_group: int = 0) -> Tiles:
        """Choose them.

        Args:
            lanes: Neighbouring threads that share a group, a power of two up to 32.
            groups: Groups there are.
            shared_per_group: Shared memory that a pixel needs for a group, bytes.
        """
        held = min(groups, max(1, THREADS // 2 // lanes))
        pixels = max(p for p in _TILES if p == 1 or p * lanes * held <= THREADS)
        # Every lane of a warp has to be there for the reductions; idle groups fill it up.
        while True:
            while lanes * held * pixels % 32:
                held += 1
            assert held * lanes * pixels <= THREADS, "the bound of the sources"
            if (min(held, groups) * shared_per_group + SLACK) * pixels <= SHARED_LIMIT:
                return Tiles(lanes, held, *_TILES[pixels])
            assert pixels > 1 or held * lanes > 32, "one warp's groups of one pixel fit: the ops see to it"
            pixels, held = (pixels // 2, held) if pixels > 1 else (pixels, max(held // 2, 1))

    @property
    def pixels(self) -> int:
        """Pixels of the tile."""
        return self.width * self.height

    def chunks(self, groups: int) -> int:
        """Return how many blocks it takes for all groups of a tile."""
        return -(-groups // self.groups)

    def launch(self, images: int, height: int, width: int, groups: int, shared: int = 0) -> Launch:
        """Return the launch for all pixels and groups of a batch.

        Args:
            images: Batch.
            height: Pixels along the height.
            width: Pixels along the width.
            groups: Groups.
            shared: Shared memory of a block, bytes.
        """
        tiles = -(-width // self.width) * -(-height // self.height)
        grid = (tiles, 1, min(images * self.chunks(groups), GRID))
        return Launch(grid, (self.lanes * self.groups, self.width, self.height), shared)


@dataclass(frozen=True)
class Layout:
    """The order in memory of images (N, C, H, W).

    Attributes:
        last: Whether channels come last; else first.
    """

    last: bool

    @staticmethod
    def of(x: torch.Tensor) -> Layout:
        """Return the order that `x` has; channels first, if it has neither or both."""
        return Layout(x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous())

    @property
    def format(self) -> torch.memory_format:
        """PyTorch's name for it."""
        return torch.channels_last if self.last else torch.contiguous_format

    def dense(self, x: torch.Tensor) -> torch.Tensor:
        """Return `x` in this order and without gaps, itself if it is so."""
        return x.contiguous(memory_format=self.format)

    def new(self, x: torch.Tensor, scale: int = 1) -> torch.Tensor:
        """Return uninitialised memory in this order, for `x`'s batch and channels, its sides times `scale`."""
        n, c, h, w = x.shape
        return torch.empty((n, c, h * scale, w * scale), dtype=x.dtype, device=x.device, memory_format=self.format)
