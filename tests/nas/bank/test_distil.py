"""Distilling: what is learnt, what is undone, and that nothing but the seed decides it, however often it is stopped."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch import nn

import nas.bank.distil
from nas.bank import jobs
from nas.bank.distil import distil
from nas.bank.jobs import MIN_TEACHER_MAP, Candidate, DistilJob
from nas.bank.store import IDLE
from nas.errors import ProxyError
from nas.model import host
from nas.ops import registry
from nas.ops.kernels.runtime import KernelError

pytestmark = pytest.mark.usefixtures("inside")

SPCONV = Candidate("backbone.down_p3", "SPConv")
DYNAMIC = Candidate("backbone.down_p3", "DynamicConv")
CONTROL = Candidate("backbone.down_p3", jobs.CONTROL)
CARAFE = Candidate("neck.up_p3", "CARAFE")
IDLER = Candidate("neck.c2f_n5", "C2f_SPConv")
EVERY = (SPCONV, CONTROL, CARAFE, IDLER)
STEPS = 24


class Gate(nn.Module):
    """An attention for these tests: one learned scale, at a half."""

    def __init__(self, c: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.full((1, c, 1, 1), 0.5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gain


class Breaks(nn.Module):
    """A convolution whose output is no number in its third training step."""

    def __init__(self, c1: int, c2: int, k: int = 3, s: int = 2) -> None:
        super().__init__()
        self.conv = nn.Conv2d(c1, c2, k, s, k // 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.conv(x) * (float("nan") if self.training and self.calls == 3 else 1.0)


class Overflows(Breaks):
    """A convolution whose output is no number in evaluation, once it has been trained."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        return self.conv(x) * (1.0 if self.training or not self.calls else float("nan"))


class Raises(Breaks):
    """A convolution that cannot go on in its third training step."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += self.training
        if self.training and self.calls == 3:
            raise RuntimeError("view size is not compatible with input tensor's size and stride")
        return self.conv(x)


class Never(Breaks):
    """A convolution that takes no map of the size of a validation's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.training and len(x) > 1:
            raise RuntimeError("one image at a time")
        return self.conv(x)


BROKEN = (Breaks, Overflows, Raises, Never)


@pytest.fixture
def modules(monkeypatch):
    """Register the modules above for one test, and take them out of the host again."""
    from ultralytics.nn import tasks

    monkeypatch.setattr(registry, "_ENTRIES", registry.entries())
    registry.register(rule="same", kinds={"attention"}, paper="", summary="")(Gate)
    sizes = (registry.FromSlot("k", "kernel"), registry.FromSlot("s", "stride"))
    for broken in BROKEN:
        registry.register(rule="conv", kinds={"down"}, paper="", summary="", params=sizes)(broken)
    host.register()
    yield
    monkeypatch.undo()
    for module in (Gate, *BROKEN):
        delattr(tasks, module.__name__)
    host.register()


@pytest.fixture(scope="module")
def make(taught):
    def make(folder, *candidates: Candidate, report=lambda _: None, init: str | None = "", **recipe):
        changed = {"bank_epochs": 3, **recipe}
        proxy = replace(taught.job(**changed), **({"init": init} if init != "" else {}))
        return distil(DistilJob(proxy, candidates, str(folder)), 1, report)

    return make


@pytest.fixture(scope="module")
def whole(make, tmp_path_factory):
    """Return the folder and the bank of an undisturbed distillation."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, make(folder, *EVERY)


def tensors(folder, made):
    """Return each candidate's tensors by name."""
    return {
        (d.candidate, key): value
        for d in made.candidates
        if d.file
        for key, value in torch.load(folder / d.file, weights_only=True).items()
    }


def equal(one, other) -> bool:
    """Whether two states hold the same bits."""
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def told_of(made):
    return [(d.candidate, d.start_error, d.error, d.failure) for d in made.candidates]


def test_candidates_learn_their_layer(whole, taught):
    folder, made = whole
    assert [d.candidate for d in made.candidates] == list(EVERY)
    found = {d.candidate: d for d in made.candidates}
    for d in made.candidates:
        assert not d.failure
        assert d.error < d.start_error or (d.candidate == IDLER and d.error == d.start_error), d
    assert found[SPCONV].error < 0.8 * found[SPCONV].start_error
    assert made.teacher_map == pytest.approx(taught.baseline.map, abs=0.02)
    assert made.cpu_seconds > 0
    assert sorted(p.name for p in folder.iterdir()) == sorted(d.file for d in made.candidates)


def test_the_control_begins_with_fresh_values(whole, taught):
    """And not with the layer's own, which would have nothing to learn."""
    folder, made = whole
    control = made.candidates[EVERY.index(CONTROL)]
    assert control.start_error > 0.5
    assert 0.001 < control.error < 0.5 * control.start_error
    theirs = torch.load(taught.baseline.file, weights_only=True)
    own = torch.load(folder / control.file, weights_only=True)
    assert own.keys() == {k for k in theirs if k.startswith("backbone.down_p3:")}
    assert (own["backbone.down_p3:conv.weight"] - theirs["backbone.down_p3:conv.weight"]).abs().max() > 0.01


def test_slots_without_influence_are_found(whole):
    drops = dict(whole[1].drops)
    assert drops.keys() == {"backbone.down_p3", "neck.up_p3", "neck.c2f_n5"}
    assert drops["backbone.down_p3"] > 0.3
    assert drops["neck.c2f_n5"] < IDLE


def test_a_start_near_the_layer_is_nearer(make, whole, tmp_path):
    near = {d.candidate: d for d in whole[1].candidates}
    fresh = {d.candidate: d for d in make(tmp_path, SPCONV, CONTROL, start="fresh", bank_epochs=0).candidates}
    assert near[SPCONV].start_error < 0.5 * fresh[SPCONV].start_error
    assert near[CONTROL].start_error == fresh[CONTROL].start_error


def test_an_inserted_module_learns_to_hand_on(make, modules, tmp_path):
    candidate = Candidate("after neck.c2f_p3", "Gate")
    made = make(tmp_path, candidate, bank_lr0=0.05)
    (gate,) = made.candidates
    assert gate.error < 0.2 * gate.start_error
    assert made.drops == ()
    state = torch.load(tmp_path / gate.file, weights_only=True)
    assert list(state) == ["neck.c2f_p3+Gate:gain"]
    assert (state["neck.c2f_p3+Gate:gain"] - 1).abs().mean() < 0.3


def test_an_inserted_module_that_starts_near_is_left_as_it_starts(make, tmp_path):
    """To hand on what it gets, the nearest that it could learn is to do nothing."""
    (se,) = make(tmp_path, Candidate("after neck.c2f_p3", "SE"), bank_epochs=1).candidates
    assert 0 < se.error == se.start_error < 0.02
    state = torch.load(tmp_path / se.file, weights_only=True)
    assert state["neck.c2f_p3+SE:residual_scale"].item() == pytest.approx(0.1)


def test_a_guided_module_learns_from_its_input_and_its_guide(make, tmp_path):
    fade, sapa = make(tmp_path, Candidate("neck.up_p3", "FADE"), Candidate("neck.up_p3", "SAPA(k_up=3)")).candidates
    assert fade.error < fade.start_error < 0.2
    assert sapa.error < sapa.start_error


def test_an_extended_bank_is_the_one_made_at_once(make, whole, tmp_path):
    folder, made = whole
    first, second = make(tmp_path, CARAFE, CONTROL), make(tmp_path, IDLER, SPCONV)
    assert equal(tensors(folder, made), tensors(tmp_path, first) | tensors(tmp_path, second))
    by_candidate = {row[0]: row for row in told_of(first) + told_of(second)}
    assert [by_candidate[c] for c in EVERY] == told_of(made)
    assert {**dict(first.drops), **dict(second.drops)} == dict(made.drops)


def test_another_seed_is_another_bank(make, whole, taught, tmp_path):
    job = DistilJob(replace(taught.job(bank_epochs=3), seed=1), (CARAFE, CONTROL), str(tmp_path))
    other = tensors(tmp_path, distil(job, 1, lambda _: None))
    mine = tensors(*whole)
    assert not any(torch.equal(other[k], mine[k]) for k in other if k[1].endswith("weight") and "bn" not in k[1])


@pytest.fixture(scope="module")
def stopped(make, tmp_path_factory):
    """Return the folder of a distillation that saved every step and was interrupted after the tenth."""
    folder = tmp_path_factory.mktemp("stopped")

    def report(seen) -> None:
        if seen[0] == 10:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nas.bank.distil, "_SAVE_EVERY_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            make(folder, *EVERY, report=report)
    return folder


def test_it_goes_on_from_the_last_save(make, whole, stopped, tmp_path):
    (saved,) = shutil.copytree(stopped, tmp_path, dirs_exist_ok=True).iterdir()
    spent = torch.load(saved, weights_only=True)["spent"]
    seen = []
    made = make(tmp_path, *EVERY, report=seen.append)
    assert seen == [(step, STEPS) for step in range(11, STEPS + 1)]
    assert told_of(made) == told_of(whole[1])
    assert equal(tensors(tmp_path, made), tensors(*whole))
    assert 0 < spent < made.cpu_seconds
    assert not saved.exists()


@pytest.mark.parametrize("damage", ["noise", "torn", "fewer", "other shapes", "too far"])
def test_a_damaged_save_is_as_good_as_none(make, whole, stopped, tmp_path, damage):
    (saved,) = shutil.copytree(stopped, tmp_path, dirs_exist_ok=True).iterdir()
    body = torch.load(saved, weights_only=True)
    if damage == "noise":
        saved.write_bytes(b"not a save")
    elif damage == "torn":
        saved.write_bytes(saved.read_bytes()[:-1000])
    else:
        if damage == "fewer":
            body["learners"].pop()
        elif damage == "other shapes":  # of the last one: the others must not keep what they have taken up by then
            key = next(iter(body["learners"][-1]["module"]))
            body["learners"][-1]["module"][key] = torch.zeros(1, 2)
        else:
            body["step"] = STEPS + 1
        torch.save(body, saved)
    seen = []
    made = make(tmp_path, *EVERY, report=seen.append)
    assert seen[0] == (1, STEPS)
    assert told_of(made) == told_of(whole[1])
    assert equal(tensors(tmp_path, made), tensors(*whole))


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("Breaks", "the error was no longer a number"), ("Overflows", "the output is no longer"),
        ("Raises", "its distillation failed: RuntimeError: view size is not"), ("Never", "one image at a time"),
        ("host:C2f()", "cannot be built: IndexError"), ("host:C3k2(channels)", "builds another Detect"),
    ],
)  # fmt: skip
def test_what_diverges_is_marked_and_disturbs_no_other(make, whole, modules, tmp_path, name, reason):
    broken = Candidate("backbone.down_p3", name)
    made = make(tmp_path, SPCONV, broken, CONTROL, CARAFE, IDLER)
    failed = made.candidates[1]
    assert failed.candidate == broken
    assert reason in failed.failure
    assert failed.file == ""
    rest = replace(made, candidates=made.candidates[:1] + made.candidates[2:])
    assert told_of(rest) == told_of(whole[1])
    assert equal(tensors(tmp_path, rest), tensors(*whole))


def test_errors_of_every_candidate_are_marked(make, modules, tmp_path):
    every = tuple(Candidate(f"backbone.down_{place}", "Raises") for place in ("p3", "p4"))
    made = make(tmp_path, *every).candidates
    assert [(c.raised, c.file) for c in made] == [(True, "")] * 2
    assert all("view size is not" in c.failure for c in made)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: device-side assert"),
        RuntimeError("cuDNN error: CUDNN_STATUS_NOT_INITIALIZED"),
        RuntimeError("x: CUDA_ERROR_ILLEGAL_ADDRESS: While executing a kernel, the device encountered a load"),
        KernelError("carafe_forward<float>: Stream or GraphBuilder expected, got Stream"),
    ],
    ids=["assert", "cudnn", "cuda-core", "kernel"],
)
def test_a_fault_of_the_device_is_no_candidates(make, modules, tmp_path, monkeypatch, error):
    def faults(self, x):
        if len(x) == 1:  # while the model is built
            return self.conv(x)
        raise error

    monkeypatch.setattr(Raises, "forward", faults)
    with pytest.raises(type(error), match=f"^{str(error)[:15]}"):
        make(tmp_path, SPCONV, Candidate("backbone.down_p3", "Raises"))


def test_what_ends_further_off_is_taken_back(make, tmp_path):
    """A module that starts as its layer has nothing to learn, and a high learning rate leads it away."""
    begun = make(tmp_path / "begun", DYNAMIC, bank_epochs=0)
    made = make(tmp_path / "made", DYNAMIC, bank_lr0=0.5, bank_epochs=1)
    assert made.candidates[0].error == made.candidates[0].start_error == begun.candidates[0].error
    assert begun.candidates[0].error < 0.01
    assert equal(tensors(tmp_path / "made", made), tensors(tmp_path / "begun", begun))


def test_a_baseline_that_has_not_learnt_teaches_nothing(make, tmp_path):
    with pytest.raises(
        ProxyError, match=rf"has not learnt: its mAP50-95 is 0\.000.*below {MIN_TEACHER_MAP}.*--base-epochs"
    ):
        make(tmp_path, CARAFE, init=None)
    assert not list(tmp_path.iterdir())


SMALLER = (Candidate("backbone.c2f_p3", "C2f(e=0.25)"), Candidate("backbone.c2f_p4", "Conv"))
HEADS = (
    Candidate("head.detect", "LightDetect(cls=0.5)"),
    Candidate("head.detect", "SharedDetect"),
    Candidate("head.detect", jobs.CONTROL),
)


def test_what_is_smaller_starts_from_the_layer(make, tmp_path):
    """By its inputs on training images: nearer than from its own values, and the same in an extended bank."""
    made = make(tmp_path / "near", *SMALLER, *HEADS)
    fresh = make(tmp_path / "fresh", *SMALLER, *HEADS, start="fresh", bank_epochs=1)
    assert not any(d.failure for d in made.candidates)
    for near, far in zip(made.candidates, fresh.candidates, strict=True):
        assert near.error <= near.start_error
        if near.candidate.label != jobs.CONTROL:
            assert near.start_error < 0.9 * far.start_error
    alone = make(tmp_path / "alone", SMALLER[1])
    assert alone.candidates[0].start_error == made.candidates[1].start_error
    assert equal(
        torch.load(tmp_path / "alone" / alone.candidates[0].file, weights_only=True),
        torch.load(tmp_path / "near" / made.candidates[1].file, weights_only=True),
    )


def test_a_head_learns_the_trained_heads_predictions(make, taught, tmp_path):
    made = make(tmp_path, *HEADS)
    light, shared, control = made.candidates
    assert light.error < 0.5
    assert shared.error < 0.5
    assert control.error < control.start_error
    assert "head.detect" not in dict(made.drops), "a model without its head has no mAP to lose"
    held = torch.load(tmp_path / light.file, weights_only=True)
    assert all(key.startswith("head.detect:") for key in held)
