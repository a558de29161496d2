"""What modules ask of their place: kernels and strides that they fit, and divisions of channels."""

from __future__ import annotations

import math
from collections.abc import Mapping

from nas.ops.registry import Arg, Value

GROUPS = Arg("groups", 1, "groups of channels, which they divide", low=1, high=256, optional=True)
"""The groups of a convolution, as ``nn.Conv2d`` has them."""


def odd_kernel(slot: Mapping[str, Value]) -> bool:
    """Odd kernels of 3 and more, any stride."""
    return int(slot["kernel"]) >= 3 and int(slot["kernel"]) % 2 == 1


def odd_kernel_in_place(slot: Mapping[str, Value]) -> bool:
    """Odd kernels of 3 and more, stride 1."""
    return odd_kernel(slot) and slot["stride"] == 1


def three(slot: Mapping[str, Value]) -> bool:
    """Only 3x3, any stride."""
    return slot["kernel"] == 3


def odd_kernel_by_two(slot: Mapping[str, Value]) -> bool:
    """Odd kernels of 3 and more, stride 1 or 2."""
    return odd_kernel(slot) and slot["stride"] in (1, 2)


def three_by_two(slot: Mapping[str, Value]) -> bool:
    """Only 3x3, stride 1 or 2."""
    return three(slot) and slot["stride"] in (1, 2)


def halving(slot: Mapping[str, Value]) -> bool:
    """Odd kernels of 3 and more, stride 2."""
    return odd_kernel(slot) and slot["stride"] == 2


def check_kernel(name: str, k: int, s: int, *, strides: bool = True) -> None:
    """Refuse what a convolution with padding ``k // 2`` is not meant for.

    Args:
        name: Of the module, for the message.
        k: Kernel size.
        s: Stride.
        strides: Whether it can stride.

    Raises:
        ValueError: An even or negative kernel, or a stride that it cannot take.
    """
    if k < 1 or k % 2 == 0 or s < 1 or (s > 1 and not strides):
        stride = "a stride of 1 or more" if strides else "stride 1"
        raise ValueError(f"{name}: k={k}, s={s}: expected an odd kernel and {stride}")


def check_three(name: str, k: int, s: int) -> None:
    """Refuse what is not the place of a 3x3 convolution.

    Raises:
        ValueError: Another kernel, or a stride below 1.
    """
    if k != 3 or s < 1:
        raise ValueError(f"{name}: k={k}, s={s}: expected kernel 3 and a stride of 1 or more")


def check_halving(name: str, k: int, s: int) -> None:
    """Refuse what is not the place of a convolution that halves.

    Raises:
        ValueError: An even kernel, one below 3, or another stride than 2.
    """
    if k < 3 or k % 2 == 0 or s != 2:
        raise ValueError(f"{name}: k={k}, s={s}: expected an odd kernel of 3 or more, and stride 2")


def check_least(name: str, least: int = 1, **values: int) -> None:
    """Refuse arguments below the least value that makes sense.

    Args:
        name: Of the module, for the message.
        least: The least value.
        **values: Arguments by name.

    Raises:
        ValueError: One is below it.
    """
    for argument, value in values.items():
        if value < least:
            raise ValueError(f"{name}: {argument}={value}: expected {least} or more")


def check_groups(name: str, groups: int, *channels: int) -> None:
    """Refuse groups that do not divide the channels.

    Args:
        name: Of the module, for the message.
        groups: Groups of channels.
        *channels: What they divide.

    Raises:
        ValueError: They do not, or are less than 1.
    """
    if groups < 1 or any(c % groups for c in channels):
        given = " to ".join(map(str, channels))
        raise ValueError(f"{name}: {given} channels, groups={groups}: expected groups that divide the channels")


def divisor(limit: int, *channels: int) -> int:
    """Return the largest number up to `limit` that divides all of `channels`."""
    common = math.gcd(*channels)
    return max(d for d in range(1, min(limit, common) + 1) if common % d == 0)
