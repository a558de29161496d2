"""The swap bank: every candidate of every slot of a space, distilled from a trained baseline (`nas.bank.distil`)."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.bank.jobs import CONTROL, Candidate, Distilled
from nas.errors import ArtifactError
from nas.files import read_json
from nas.space.search_space import SearchSpace
from nas.space.variant import AFTER

_OLD_CONTROL = "again"
"""What `CONTROL` was called in the banks of earlier versions."""
IDLE = 0.001
"""mAP50-95 that the baseline has to lose without what a layer says, for the layer to matter."""


@dataclass(frozen=True)
class SwapBank:
    """The distilled candidates of a space.

    Attributes:
        folder: Where their files lie.
        teacher_map: mAP50-95 of the baseline that they learnt from.
        drops: Slot to the mAP50-95 that the baseline loses without what the layer says.
        candidates: By slot and label.
        cpu_seconds: Of distilling all of them.
    """

    folder: Path
    teacher_map: float = 0.0
    drops: dict[str, float] = field(default_factory=dict)
    candidates: dict[tuple[str, str], Distilled] = field(default_factory=dict)
    cpu_seconds: float = 0.0

    def of(self, wanted: Sequence[Candidate]) -> SwapBank:
        """Return the bank with these candidates alone: what other spaces have put into it does not concern this one."""
        kept = {(c.slot, c.label): self.candidates[c.slot, c.label] for c in wanted}
        slots = {slot for slot, _ in kept}
        return replace(self, drops={s: d for s, d in self.drops.items() if s in slots}, candidates=kept)

    def files(self, swaps: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the files whose tensors make the swaps."""
        return tuple(str(self.folder / self.candidates[swap].file) for swap in swaps)

    def problem(self, swaps: Iterable[tuple[str, str]]) -> str:
        """Say why a variant cannot be assembled; empty if it can."""
        for slot, label in swaps:
            if self.candidates[slot, label].failure:
                return f"{slot}={label}: {self.candidates[slot, label].failure}"
        return ""

    def is_suspect(self, swaps: Iterable[tuple[str, str]]) -> bool:
        """Whether the problem is an error that was raised where nothing else was distilled: it may be the machine's."""
        return any(self.candidates[swap].raised for swap in swaps)

    def error(self, swaps: Iterable[tuple[str, str]]) -> float | None:
        """Return the largest distillation error among swaps; None for none."""
        errors = [self.candidates[swap].error for swap in swaps if swap in self.candidates]
        return max(errors, default=None)

    @property
    def failures(self) -> list[Distilled]:
        """The swaps that cannot be made."""
        return [c for c in self.candidates.values() if c.failure and c.candidate.label != CONTROL]

    @property
    def idle_slots(self) -> list[str]:
        """The slots that cannot matter on these data: without what the layer says, nothing is lost."""
        return [slot for slot, drop in self.drops.items() if drop < IDLE]


def candidates_of(space: SearchSpace) -> tuple[Candidate, ...]:
    """Return what a bank of a space holds: every choice of every layer, and each layer's own module anew."""
    found: dict[Candidate, None] = {}
    for slot in space.active:
        for layer in slot.layers:
            for label in slot.choices[1:]:
                found[Candidate(layer, label)] = None
            if not layer.startswith(AFTER) and space.graph[layer].kind != "up":  # an upsampling has nothing to learn
                found[Candidate(layer, CONTROL)] = None
    return tuple(found)


def bank_json(bank: SwapBank) -> dict[str, Any]:
    """Return a bank as plain values, with the digests of its files."""
    candidates = [
        {
            **asdict(c),
            "start_error": c.start_error if math.isfinite(c.start_error) else None,  # JSON has no other word for it
            "error": c.error if math.isfinite(c.error) else None,
            "sha256": _sha256(bank.folder / c.file) if c.file else "",
        }
        for c in bank.candidates.values()
    ]
    body = {"teacher_map": bank.teacher_map, "drops": bank.drops, "cpu_seconds": bank.cpu_seconds}
    return {**body, "candidates": candidates}


def open_bank(folder: Path, about: dict[str, Any]) -> SwapBank:
    """Return the bank in a folder as far as it is there; candidates whose files are gone are left out.

    Raises:
        ArtifactError: It is the bank of something else, or a file is not what was distilled.
    """
    index = folder / "bank.json"
    if not index.exists():
        return SwapBank(folder)
    theirs, bank, digests = read_json(index, lambda body: _read_bank(folder, body))
    different = [k for k in about if theirs.get(k) != about[k]]
    if different:
        raise ArtifactError(
            f"{folder} holds a bank of something else ("
            + "; ".join(f"{k}: {theirs.get(k)}, not {about[k]}" for k in different)
            + "): move it away"
        )
    found = {swap: c for swap, c in bank.candidates.items() if not c.file or (folder / c.file).exists()}
    for (slot, label), c in found.items():
        if c.file and _sha256(folder / c.file) != digests[slot, label]:
            raise ArtifactError(f"{folder / c.file} is not what was distilled ({slot}={label}): delete it")
    return replace(bank, candidates=found)


def _read_bank(folder: Path, body: Any) -> tuple[dict[str, Any], SwapBank, dict[tuple[str, str], str]]:
    """Return what `bank_json` wrote: what it is the bank of, the bank, and the digests of its files."""
    found, digests = {}, {}
    for entry in body["candidates"]:
        slot, label = entry["candidate"]["slot"], entry["candidate"]["label"]
        c = Candidate(slot, CONTROL if label == _OLD_CONTROL else label)
        start, error = (math.nan if entry[k] is None else float(entry[k]) for k in ("start_error", "error"))
        found[c.slot, c.label] = Distilled(c, entry["file"], start, error, entry["failure"])
        digests[c.slot, c.label] = entry["sha256"]
    bank = SwapBank(folder, body["teacher_map"], dict(body["drops"]), found, body["cpu_seconds"])
    return dict(body["about"]), bank, digests


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
