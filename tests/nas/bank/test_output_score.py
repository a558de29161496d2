"""Output scores: what they measure, that they add up where they should, and what they do with swaps that fail."""

from __future__ import annotations

import json

import pytest
import torch

from nas.bank.head_error import divergence
from nas.bank.jobs import CONTROL, Assembled
from nas.bank.output_score import score_bank, score_variants
from nas.errors import ArtifactError
from nas.model.host import build
from nas.model.render import render
from nas.model.transfer import copy_matching, started_narrow
from nas.space.bases import load_base
from nas.space.variant import make_variant
from nas.training.host_version import levels_of

BINS, ANCHORS, CLASSES = 16, 12, 3


def _level(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    made = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, BINS, ANCHORS, generator=made), torch.randn(2, CLASSES, ANCHORS, generator=made)


def test_divergence_is_zero_for_the_target_itself_and_positive_for_others() -> None:
    target = [_level(0), _level(1)]
    assert divergence(target, target).abs().max() < 1e-4
    assert (divergence(target, [_level(2), _level(3)]) > 0).all()


def test_divergence_is_that_of_the_distributions() -> None:
    (boxes, classes), (other_boxes, other_classes) = _level(0), _level(1)
    found = divergence([(boxes, classes)], [(other_boxes, other_classes)])
    bernoulli = torch.distributions.Bernoulli
    apart = torch.distributions.kl_divergence(bernoulli(logits=classes), bernoulli(logits=other_classes)).sum((1, 2))
    assert torch.allclose(found[:, 0, 0], apart, rtol=1e-4)
    categorical = torch.distributions.Categorical
    sides = torch.distributions.kl_divergence(
        categorical(logits=boxes.transpose(2, 3)), categorical(logits=other_boxes.transpose(2, 3))
    )
    assert torch.allclose(found[:, 0, 1], (sides.mean(1) * classes.sigmoid().amax(1)).sum(1), rtol=1e-4)


def test_divergence_of_a_head_without_distributions() -> None:
    boxes, classes = torch.zeros(1, 4, 1, ANCHORS), torch.full((1, CLASSES, ANCHORS), 50.0)
    found = divergence([(boxes, classes)], [(boxes + 0.5, classes)])
    assert found[0, 0].tolist() == pytest.approx([0.0, 0.5 * ANCHORS])


def test_levels_of_both_forms_of_a_head() -> None:
    maps = [torch.randn(2, 4 * BINS + CLASSES, size, size) for size in (4, 2)]
    rows = torch.cat([x.flatten(2) for x in maps], -1)
    row = {"boxes": rows[:, : 4 * BINS], "scores": rows[:, 4 * BINS :], "feats": maps}
    for one, other in zip(levels_of(maps, CLASSES), levels_of({"one2many": {}, "one2one": row}, CLASSES), strict=True):
        assert one[0].shape[1:3] == (4, BINS)
        assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


def test_scores_of_a_bank_are_stored_next_to_it(taught, bank, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    file = bank.folder / "scores.json"
    file.unlink(missing_ok=True)  # a bank of a version without scores
    scores = score_bank(weights, taught.recipe_of_bank, 0, bank)
    assert scores.keys() == {swap for swap in bank.candidates if swap[1] != CONTROL}
    good = [score for score in scores.values() if not score.failure]
    assert max(score.total for score in good) > 0.01
    for score in good:
        assert len(score.parts) == 6
        assert score.total > -1e-6  # what rounding leaves of a layer that idles
        assert score.halves[0] == pytest.approx(score.halves[1], rel=0.5, abs=1e-3)
    before = file.read_bytes()
    weights.worker = None  # whatever is stored is not computed again
    assert score_bank(weights, taught.recipe_of_bank, 0, bank) == scores
    assert file.read_bytes() == before


def test_a_bank_that_gains_a_candidate_keeps_its_scores(taught, bank, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    scores = score_bank(weights, taught.recipe_of_bank, 0, bank)
    file = bank.folder / "scores.json"
    body = json.loads(file.read_text())
    lost = body["scores"].pop()
    file.write_text(json.dumps(body))
    again = score_bank(weights, taught.recipe_of_bank, 0, bank)
    assert again[lost["slot"], lost["label"]].total == pytest.approx(scores[lost["slot"], lost["label"]].total)


def test_a_damaged_file_of_scores_is_named(taught, bank, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    score_bank(weights, taught.recipe_of_bank, 0, bank)
    file = bank.folder / "scores.json"
    kept = file.read_text()
    file.write_text('{"kind": "something else"}')
    with pytest.raises(ArtifactError, match=r"scores\.json"):
        score_bank(weights, taught.recipe_of_bank, 0, bank)
    file.write_text(kept)


def test_the_baseline_scores_nothing_and_combinations_add_up(taught, bank, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    scores = score_bank(weights, taught.recipe_of_bank, 0, bank)
    pair: dict[str, str] = {}
    for slot, label in sorted((s for s in scores if not scores[s].failure), key=lambda s: scores[s].total):
        pair.setdefault(slot, label)
    swaps = tuple(sorted(pair.items()))[:2]
    assert len(swaps) == 2
    nothing, both = score_variants(
        weights, taught.recipe_of_bank, 0, [Assembled((), ()), Assembled(swaps, bank.files(swaps))]
    )
    assert nothing.total == 0
    assert both.total == pytest.approx(sum(scores[swap].total for swap in swaps), rel=0.5)


def test_a_swap_that_raises_is_kept_out_with_its_reason(taught, bank, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    swap = next(swap for swap, c in bank.candidates.items() if swap[1] != CONTROL and not c.failure)
    found = score_variants(
        weights, taught.recipe_of_bank, 0, [Assembled((swap,), (str(tmp_path / "none.pt"),)), Assembled((), ())]
    )
    assert "cannot be scored" in found[0].failure
    assert found[1].total == 0


def test_another_head_is_scored_by_its_own_outputs(taught, tmp_path) -> None:
    weights = taught.weights_in(tmp_path)
    heads = [Assembled((("head.detect", label),), ()) for label in ("SharedDetect", "LightDetect(cls=0.5)")]
    for score in score_variants(weights, taught.recipe_of_bank, 0, heads, images=8):
        assert not score.failure
        assert min(score.classes) > 0  # its weights are not distilled here
        assert min(score.boxes) > 0


def test_a_narrow_layer_is_scored_with_its_readers(taught, tmp_path) -> None:
    """The nearer its decoder comes to the wide map, the nearer are the outputs; its readers need not be in a bank."""
    weights = taught.weights_in(tmp_path)
    swap = ("neck.down_n4", "Narrow(0.75)")
    variant = make_variant("yolov8", "n", dict([swap]))
    baseline = build(render(variant.wide).yaml, "n", 2).eval()
    given = torch.load(taught.baseline.file, weights_only=True)
    copy_matching(baseline, load_base("yolov8"), given)
    near = started_narrow(variant, baseline, given, 2)
    far = {key: torch.zeros_like(value) if ":wide." in key else value for key, value in near.items()}
    files = []
    for name, state in (("near", near), ("far", far)):
        torch.save(state, tmp_path / f"{name}.pt")
        files.append(Assembled((swap,), (str(tmp_path / f"{name}.pt"),)))
    one, other = score_variants(weights, taught.recipe_of_bank, 0, files)
    assert not one.failure
    assert 0 < one.total < 0.5 * other.total
