"""The choice of a proxy's images: the cheapest of windows and sizes in which boxes fall as at the target."""

from __future__ import annotations

import numpy as np
import pytest

from nas.data.fidelity import Fidelity, check_windows, choose_fidelity, compare, fidelity_of
from nas.data.levels import Labelled
from nas.errors import DataError, OptionError


def images(*sides: float, size: int = 640) -> list[Labelled]:
    """Return images of `size` px with a square in the middle, of these sides in pixels."""
    around = [(size / 2 - side / 2, size / 2 + side / 2) for side in sides]
    return [Labelled((size, size), np.array([[a, a, b, b]]) / size) for a, b in around]


def test_small_objects_need_windows():
    small = images(20, 50, 60, 100, 110)
    assert choose_fidelity(small, 640) == Fidelity(128, 640)
    assert compare(small, 640).distance <= 0.1


def test_large_objects_need_smaller_images():
    assert choose_fidelity(images(300, 400, 500), 640) == Fidelity(224)


def test_some_data_need_the_targets_own_size():
    both = images(33, 33, 33, 33, 150, 150, size=160)
    assert choose_fidelity(both, 160) == Fidelity(160)


def test_a_proxy_that_idles_a_level_is_named_with_what_would_do():
    found = compare(images(*[60] * 3, *[110] * 7), 640, Fidelity(160))
    assert found.got.of == (1, 0, 0)
    assert found.warning == (
        "P4 (30% of the boxes) and P5 (70% of the boxes) will idle in this proxy, though the target uses them: swaps "
        "of their layers cannot be judged. windows of 128 px at 640 px would do: --window 128"
    )
    assert found.line == ("boxes at 640 px (target): P3 0%, P4 30%, P5 70%; proxy, 160 px: P3 100%, P4 0%, P5 0%")
    assert found.to_json()["idle"] == ["P4", "P5"]
    assert not compare(images(60, 110), 640).warning
    assert compare(images(60, 110), 640, Fidelity(640)).line.endswith("the proxy has the same size")


def test_windows_that_hold_no_object_are_refused():
    with pytest.raises(DataError, match=r"windows of 128 px at 640 px show hardly any object.*224 px would do"):
        compare(images(300, 400, 500), 640, Fidelity(128, 640))


class Splits(tuple):
    """Names of the images of both splits, in place of a dataset."""

    is_folder = False


def test_windows_of_rungs_and_calibrations_are_checked_in_both_splits(monkeypatch):
    splits = {"small": images(40), "large": images(630)}
    monkeypatch.setattr("nas.data.fidelity.read_labels", lambda dataset: tuple(splits[name] for name in dataset))
    fidelities = [Fidelity(128), Fidelity(224, 640)]
    check_windows(Splits(("small", "small")), fidelities)
    check_windows(Splits(("large", "large")), [Fidelity(128), Fidelity(640)])  # no windows
    with pytest.raises(
        DataError, match="224 px at 640 px show hardly any object of the training images, because nearly"
    ):
        check_windows(Splits(("large", "large")), fidelities)
    with pytest.raises(DataError, match=r"hardly any object of the validation images.* 128 px would do: --imgsz 128"):
        check_windows(Splits(("small", "large")), fidelities)


def test_options():
    assert fidelity_of(640, None, None) is None
    assert fidelity_of(640, 160, None) == Fidelity(160)
    assert fidelity_of(640, None, 224) == Fidelity(224, 640)


@pytest.mark.parametrize(
    ("imgsz", "window", "message"),
    [
        (160, 224, "--imgsz 160 shrinks images and --window 224 cuts windows: give one of them"),
        (None, 100, "--window 100: give a multiple of 32"),
        (None, 640, "--window 640 is not smaller than the target's images of 320 px"),
        (None, 320, "give a smaller window, or a larger target"),
    ],
)
def test_options_that_contradict_each_other(imgsz, window, message):
    with pytest.raises(OptionError) as error:
        fidelity_of(320, imgsz, window)
    assert message in str(error.value)
