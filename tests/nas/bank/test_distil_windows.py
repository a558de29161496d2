"""Distilling on windows: they are drawn anew in each step, by the seed and the step only."""

from __future__ import annotations

import math

from nas.bank.distil import distil
from nas.bank.jobs import CONTROL, Candidate, DistilJob
from nas.data.dataset import load, write_resolved
from nas.model.render import render
from nas.space.variant import Variant
from nas.training.jobs import ProxyJob
from nas.training.recipe import Recipe
from nas.training.windows import WindowDataset

RECIPE = Recipe(epochs=2, imgsz=64, windows_at=128, batch=8, init="baseline", bank_epochs=2)


def test_candidates_learn_from_windows(tiny_data, tmp_path, monkeypatch):
    monkeypatch.setattr("nas.bank.jobs.MIN_TEACHER_MAP", -1.0)  # an untrained baseline is one to imitate too
    dataset, variant = load(tiny_data), Variant("yolov8", "n")
    job = ProxyJob(
        name=variant.name, yaml=render(variant).yaml, base="yolov8", scale="n", swaps=(),
        data=str(write_resolved(dataset, tmp_path)), data_key=dataset.fingerprint, recipe=RECIPE, seed=0,
    )  # fmt: skip
    candidates = (Candidate("backbone.down_p3", "SPConv"), Candidate("backbone.down_p3", CONTROL))
    seen, get = [], WindowDataset.get_image_and_label

    def kept(self, index):
        found = get(self, index)
        if self.augment:
            seen.append(found["img"].tobytes())
        return found

    monkeypatch.setattr(WindowDataset, "get_image_and_label", kept)
    made = [distil(DistilJob(job, candidates, str(tmp_path / name)), 1, lambda _: None) for name in "ab"]
    assert all(math.isfinite(c.error) and c.error <= c.start_error for c in made[0].candidates)
    assert [c.error for c in made[0].candidates] == [c.error for c in made[1].candidates]
    assert dict(made[0].drops).keys() == {"backbone.down_p3"}
    half = len(seen) // 2
    assert seen[:half] == seen[half:]
    learnt = seen[: RECIPE.bank_epochs * len(dataset.train)]  # after them, windows on which positives are counted
    assert half > len(learnt)
    assert len(set(learnt)) > len(dataset.train)  # another window of an image in the second epoch
