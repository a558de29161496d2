"""The notes under the effects of a study: a line for each group of confounded swaps, and long lists cut."""

from __future__ import annotations

from nas.ranking.effects import Effect, Effects
from nas.report.effects_table import print_effects


def effect(name, *others):
    return Effect("swap", name, 1, 0.0, (-0.1, 0.1), 0.0, (-0.1, 0.1), 1.0, "cannot tell", others)


def test_each_group_of_confounded_swaps_is_one_line(capsys):
    mixed = [effect("a=1", "b=2"), effect("b=2", "a=1", "c=3"), effect("c=3", "b=2"), effect("e=5", "f=6")]
    found = Effects(5, (*mixed, effect("f=6", "e=5"), effect("d=4")), (), tuple(f"s{k}=Conv" for k in range(30)))
    print_effects(found)
    text = " ".join(capsys.readouterr().out.split())
    assert text.count("Confounded: ") == 2
    for group in ("a=1, b=2, c=3", "e=5, f=6"):
        assert f"Confounded: {group}. Variants with some of them and without the others tell them apart." in text
    assert text.endswith("s22=Conv, s23=Conv and 6 others (--json)")
