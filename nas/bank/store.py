"""The swap bank: every candidate of every slot of a space, distilled from a trained baseline (`nas.bank.distil`)."""

from __future__ import annotations

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from nas.bank.jobs import CONTROL, Candidate, Distilled
from nas.errors import ArtifactError
from nas.files import from_plain, read_json
from nas.space.choice import AFTER
from nas.space.search_space import SearchSpace

_OLD_CONTROL = "again"
"""The value of `CONTROL` in the banks of earlier versions."""
IDLE = 0.001
"""mAP50-95 that the baseline must lose without a layer's information for the layer to matter."""


@dataclass(frozen=True)
class SwapBank:
    """The distilled candidates of a space.

    Attributes:
        folder: Folder of their files.
        teacher_map: mAP50-95 of the baseline that they were distilled from.
        drops: Slot to the mAP50-95 that the baseline loses without the layer's information.
        candidates: By slot and label.
        cpu_seconds: CPU time of distilling all of them.
        levels: Detection level to its share of the positives of the baseline's assigner (`nas.data.assigned`); empty
            if unknown, as in banks of earlier versions.
    """

    folder: Path
    teacher_map: float = 0.0
    drops: dict[str, float] = field(default_factory=dict)
    candidates: dict[tuple[str, str], Distilled] = field(default_factory=dict)
    cpu_seconds: float = 0.0
    levels: dict[str, float] = field(default_factory=dict)

    def subset(self, wanted: Sequence[Candidate]) -> SwapBank:
        """Return the bank with these candidates only: other spaces may have added more."""
        kept = {(c.slot, c.label): self.candidates[c.slot, c.label] for c in wanted}
        slots = {slot for slot, _ in kept}
        return replace(self, drops={s: d for s, d in self.drops.items() if s in slots}, candidates=kept)

    def files(self, swaps: Iterable[tuple[str, str]]) -> tuple[str, ...]:
        """Return the files with the tensors of the swaps."""
        return tuple(str(self.folder / self.candidates[swap].file) for swap in swaps)

    def problem(self, swaps: Iterable[tuple[str, str]]) -> str:
        """Return why a variant cannot be assembled; empty if it can."""
        for slot, label in swaps:
            if self.candidates[slot, label].failure:
                return f"{slot}={label}: {self.candidates[slot, label].failure}"
        return ""

    def is_suspect(self, swaps: Iterable[tuple[str, str]]) -> bool:
        """Return whether the problem is an error of a candidate distilled without others: maybe the machine's fault."""
        return any(self.candidates[swap].raised for swap in swaps)

    def error(self, swaps: Iterable[tuple[str, str]]) -> float | None:
        """Return the largest distillation error among swaps; None for none."""
        errors = [self.candidates[swap].error for swap in swaps if swap in self.candidates]
        return max(errors, default=None)

    @property
    def facts(self) -> dict[str, Any]:
        """What belongs to a ranking, as plain values."""
        return {
            "folder": str(self.folder),
            "teacher_map": self.teacher_map,
            "drops": self.drops,
            **({"levels": self.levels} if self.levels else {}),
            "failures": {f"{c.candidate.slot}={c.candidate.label}": c.failure for c in self.failures},
        }

    @property
    def failures(self) -> list[Distilled]:
        """The candidates that cannot be used."""
        return [c for c in self.candidates.values() if c.failure and c.candidate.label != CONTROL]

    @property
    def idle_slots(self) -> list[str]:
        """The slots that cannot matter on these data: nothing is lost without the layer's information."""
        return [slot for slot, drop in self.drops.items() if drop < IDLE]


def bank_facts(stored: Any) -> dict[str, Any]:
    """Return what `SwapBank.facts` stored.

    Raises:
        ValueError: It is something else.
    """
    facts = {**from_plain(Mapping[str, Any], stored)}
    if "levels" in facts:
        facts["levels"] = {**from_plain(Mapping[str, float], facts["levels"])}
    return facts


def candidates_of(space: SearchSpace) -> tuple[Candidate, ...]:
    """Return the candidates of a space: every choice of every layer, and each layer's control."""
    found: dict[Candidate, None] = {}
    for slot in space.active:
        for layer in slot.layers:
            for label in slot.choices[1:]:
                found[Candidate(layer, label)] = None
            if not layer.startswith(AFTER) and space.graph[layer].kind != "up":  # an upsampling has nothing to learn
                found[Candidate(layer, CONTROL)] = None
    return tuple(found)


def divide_by_slot(candidates: Sequence[Candidate], parts: int) -> list[tuple[Candidate, ...]]:
    """Divide candidates into at most `parts` parts of similar size, those of a slot in one part, in their order.

    What a slot costs once, such as the validation without it, is then spent once.
    """
    sizes = Counter(c.slot for c in candidates)
    taken: list[set[str]] = [set() for _ in range(min(parts, len(sizes)))]
    for slot, _ in sizes.most_common():
        min(taken, key=lambda slots: sum(sizes[s] for s in slots)).add(slot)
    return [tuple(c for c in candidates if c.slot in slots) for slots in taken]


def bank_json(bank: SwapBank) -> dict[str, Any]:
    """Return a bank as plain values, with the digests of its files."""
    candidates = [
        {
            **asdict(c),
            "start_error": c.start_error if math.isfinite(c.start_error) else None,  # JSON has no NaN
            "error": c.error if math.isfinite(c.error) else None,
            "sha256": _sha256(bank.folder / c.file) if c.file else "",
        }
        for c in bank.candidates.values()
    ]
    body = {"teacher_map": bank.teacher_map, "drops": bank.drops, "cpu_seconds": bank.cpu_seconds}
    return {**body, **({"levels": bank.levels} if bank.levels else {}), "candidates": candidates}


def open_bank(folder: Path, about: dict[str, Any]) -> SwapBank:
    """Return the bank in a folder, without candidates whose files are missing.

    Raises:
        ArtifactError: It was made from something else, or a file is not the one that was distilled.
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


def find_bank(like: Path, weights: Path, **changed: Any) -> SwapBank | None:
    """Return the bank that was made as another one, but for some facts; None if there is none.

    Args:
        like: Folder of the other bank.
        weights: The folder that holds banks.
        changed: Facts about the wanted bank that differ, such as its seed.

    Raises:
        ArtifactError: A bank is damaged.
    """

    def about(folder: Path) -> dict[str, Any]:
        return read_json(folder / "bank.json", lambda body: dict(body["about"]))

    wanted = {**about(like), **changed}
    folders = sorted(file.parent for file in weights.glob("bank-*/bank.json"))
    found = next((folder for folder in folders if about(folder) == wanted), None)
    return open_bank(found, wanted) if found else None


def _read_bank(folder: Path, body: Any) -> tuple[dict[str, Any], SwapBank, dict[tuple[str, str], str]]:
    """Return the content of a file of `bank_json`: what the bank was made from, the bank, the digests of its files."""
    found, digests = {}, {}
    for entry in body["candidates"]:
        slot, label = entry["candidate"]["slot"], entry["candidate"]["label"]
        c = Candidate(slot, CONTROL if label == _OLD_CONTROL else label)
        start, error = (math.nan if entry[k] is None else float(entry[k]) for k in ("start_error", "error"))
        found[c.slot, c.label] = Distilled(c, entry["file"], start, error, entry["failure"])
        digests[c.slot, c.label] = entry["sha256"]
    levels = {str(level): float(share) for level, share in body.get("levels", {}).items()}
    bank = SwapBank(folder, body["teacher_map"], dict(body["drops"]), found, body["cpu_seconds"], levels)
    return dict(body["about"]), bank, digests


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
