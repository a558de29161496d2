"""Space files: what they span, and every problem at once with its line."""

import pytest

from nas.errors import SpaceError
from nas.space.search_space import SearchSpace
from nas.space.space_file import load_space, read_space, shipped_spaces

GOOD = """
base: yolov8
scale: n
slots:
  neck.up_*: [keep, CARAFE, {DySample: {style: [lp, pl], groups: [4, 8]}}]
  neck.c2f_*: {choices: [C2f_SPConv, C2f_DCNv4], tie: true}
  backbone.down_p2: {choices: [SPConv], enabled: false}
forbid:
  - {neck.up_p4: "DySample*", neck.up_p3: CARAFE}
constraints: {max_gflops: 9, max_params: 4e6}
"""


def test_a_space_is_a_product_of_plain_choices():
    space = read_space(GOOD, "good.yaml", "good")
    assert [s.key for s in space.slots] == ["neck.up_p4", "neck.up_p3", "neck.c2f_*", "backbone.down_p2"]
    assert space.slots[0].choices == (
        "keep", "CARAFE", "DySample", "DySample(groups=8)", "DySample(style=pl)", "DySample(groups=8,style=pl)"
    )  # fmt: skip
    assert space.slots[2].layers == ("neck.c2f_p4", "neck.c2f_p3", "neck.c2f_n4", "neck.c2f_n5")
    assert space.size == 6 * 6 * 3
    assert dict(space.limits) == {"max_gflops": 9.0, "max_params": 4e6}
    assert len(list(space.assignments())) == 108 - 4 * 1 * 3
    assert space.forbids({"neck.up_p4": "DySample(style=pl)", "neck.up_p3": "CARAFE"})
    assert not space.forbids({"neck.up_p4": "CARAFE", "neck.up_p3": "CARAFE"})


def test_a_tied_slot_swaps_all_its_layers():
    space = read_space(GOOD, "good.yaml", "good")
    variant = space.variant({"neck.c2f_*": "C2f_DCNv4"})
    assert [slot for slot, _ in variant.swaps] == ["neck.c2f_n4", "neck.c2f_n5", "neck.c2f_p3", "neck.c2f_p4"]


def test_single_swaps_are_complete_and_spread():
    space = load_space("seeds")
    singles = space.single_swaps()
    changed = [next((k, v) for k, v in a.items() if v != "keep") for a in singles]
    expected = {(s.key, c) for s in space.active for c in s.choices[1:]}
    assert set(changed) == expected
    assert len(changed) == len(expected)
    first = changed[: len(space.active)]
    assert len({slot for slot, _ in first}) == len(space.active)
    assert {"CARAFE", "DySample", "SPConv", "DynamicConv", "DCNv4"} <= {label for _, label in first}


def test_seeds_holds_the_five_modules_where_they_fit():
    space = load_space("seeds")
    slots = {s.key: s for s in space.slots}
    assert {k for k, s in slots.items() if not s.enabled} == {"backbone.stem_p1", "backbone.down_p2"}
    assert slots["neck.up_p3"].choices == ("keep", "CARAFE", "DySample", "DySample(style=pl)")
    for key in ("backbone.down_p3", "backbone.down_p4", "backbone.down_p5", "neck.down_n4", "neck.down_n5"):
        assert slots[key].choices == ("keep", "SPConv", "DynamicConv", "DCNv4")
    blocks = [s for k, s in slots.items() if ".c2f_" in k]
    assert len(blocks) == 8
    assert all(s.choices == ("keep", "C2f_SPConv", "C2f_DynamicConv", "C2f_DCNv4") for s in blocks)


def test_json_round_trip_and_fingerprint():
    space = read_space(GOOD, "good.yaml", "good")
    again = SearchSpace.from_json(space.to_json())
    assert again == space
    assert again.fingerprint == space.fingerprint
    assert read_space(GOOD.replace("scale: n", "scale: s"), "x", "x").fingerprint != space.fingerprint
    assert read_space(GOOD, "elsewhere.yaml", "other").fingerprint == space.fingerprint


def test_enable():
    space = load_space("seeds")
    assert "backbone.down_p2" in [s.key for s in space.enable(("backbone.down_*",)).active]
    with pytest.raises(SpaceError, match=r"has no slot 'backbone.dwn_p2'; did you mean backbone.down_p2"):
        space.enable(("backbone.dwn_p2",))


def test_all_problems_at_once_with_file_and_line():
    text = """base: yolov8
scale: q
slots:
  neck.up_*: [kep, CARAFFE, {DySample: {styl: [lp]}}, {DySample: {style: [lp, xx]}}]
  neck.c2f_p44: [C2f_SPConv]
  neck.c2f_*: [CARAFE, C2f_SPConv, C2f_SPConv]
  neck.c2f_p3: {choices: [C2f_SPConv], ti: true}
  neck.cat_p4: [C2f_SPConv]
  neck.down_n4: [keep]
  neck.down_n4: [SPConv]
forbid: [{neck.up_p5: CARAFE}, {neck.up_p4: SPConv}, 3]
constraints: {max_gflop: 3, max_params: -1}
slot: 1
"""
    with pytest.raises(SpaceError) as caught:
        read_space(text, "bad.yaml", "bad")
    message = str(caught.value)
    for expected in (
        "bad.yaml:2: yolov8 has no scale 'q'",
        "bad.yaml:4: neck.up_*: unknown choice 'kep'; did you mean keep?",
        "bad.yaml:4: neck.up_*: unknown module 'CARAFFE'; did you mean CARAFE",
        "bad.yaml:4: neck.up_*: DySample has no argument 'styl'; did you mean style?",
        "bad.yaml:4: neck.up_*: DySample: style='xx': expected one of lp, pl",
        "bad.yaml:5: yolov8 has no layer 'neck.c2f_p44'; did you mean neck.c2f_p4",
        "bad.yaml:6: neck.c2f_*: C2f_SPConv is listed twice",
        "bad.yaml:6: neck.c2f_p4, neck.c2f_p3, neck.c2f_n4, neck.c2f_n5: CARAFE fits slots of kind up",
        "bad.yaml:7: neck.c2f_p3: unknown key 'ti'; did you mean tie?",
        "bad.yaml:7: neck.c2f_p3 is in two slots: 'neck.c2f_*' and 'neck.c2f_p3'",
        "bad.yaml:8: neck.cat_p4: Concat cannot be swapped",
        "bad.yaml:9: neck.down_n4: no choice besides 'keep'",
        "bad.yaml:10: slots: duplicate key 'neck.down_n4'; the first is on line 9",
        "bad.yaml:11: forbid: no slot 'neck.up_p5'; did you mean neck.up_p4",
        "bad.yaml:11: forbid: neck.up_p4 has no choice 'SPConv'",
        "bad.yaml:11: forbid: expected a mapping",
        "bad.yaml:12: constraints: unknown key 'max_gflop'; did you mean max_gflops",
        "bad.yaml:12: constraints: max_params=-1; expected a number above 0",
        "bad.yaml:13: a space: unknown key 'slot'; did you mean slots",
    ):
        assert expected in message, expected
    lines = [int(line.split(":")[1]) for line in message.splitlines()]
    assert lines == sorted(lines)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the file is empty"),
        ("3", "expected a mapping"),
        ("base: [", "not YAML"),
        ("base: yolov8", "a space needs slots"),
        ("base: yolov88\nslots: {}", "unknown base 'yolov88'; did you mean yolov8"),
        ("slots: {neck.up_p4: CARAFE}", "expected a list of choices"),
        ("slots: {neck.up_p4: {tie: true}}", "no choices"),
        ("slots: {neck.up_p4: {choices: [CARAFE], enabled: false}}", "no slot is on"),
        ("slots: {neck.up_p4: {choices: [CARAFE], tie: 3}}", "tie: 3; expected true or false"),
        ("slots: {neck.up_p4: [{CARAFE: 3}]}", "expected arguments"),
        ("slots: {neck.up_p4: [{CARAFE: {}, DySample: {}}]}", "expected a module's name"),
        ("slots: {after neck.c2f_p3: [keep]}", "this slot's own choice is 'none'"),
    ],
)
def test_bad_files(text, message):
    with pytest.raises(SpaceError, match=message):
        read_space(text, "bad.yaml", "bad")


def test_names_and_files(tmp_path):
    assert {"seeds", "quick"} <= set(shipped_spaces())
    with pytest.raises(SpaceError, match="no space named 'seed'; did you mean seeds"):
        load_space("seed")
    with pytest.raises(SpaceError, match=r"cannot read the space file .*nothing.yaml"):
        load_space(str(tmp_path / "nothing.yaml"))
    (tmp_path / "mine.yaml").write_text("\ufeff" + GOOD.replace("\n", "\r\n"))
    assert load_space(str(tmp_path / "mine.yaml")).name == "mine"


def test_a_folder_of_a_shipped_spaces_name_is_in_nobodys_way(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "quick").mkdir()
    assert load_space("quick").name == "quick"
    (tmp_path / "mine").mkdir()
    with pytest.raises(SpaceError, match="no space named 'mine'"):
        load_space("mine")
    (tmp_path / "mine.yaml").mkdir()
    with pytest.raises(SpaceError, match=r"cannot read the space file mine\.yaml"):
        load_space("mine.yaml")


def test_heads_of_detection_are_left_out_where_the_base_has_another():
    text = GOOD.replace("slots:", "slots:\n  head.detect: [LightDetect]").replace(
        "forbid:", "forbid:\n  - {neck.up_p4: CARAFE, head.detect: LightDetect}"
    )
    whole = read_space(text, "good.yaml", "good")
    assert (len(whole.slots), len(whole.forbid), whole.left_out) == (5, 2, ())
    space = read_space(text.replace("base: yolov8", "base: yolov8-seg"), "good.yaml", "good")
    assert [slot.key for slot in space.slots] == [slot.key for slot in whole.slots if slot.key != "head.detect"]
    assert len(space.forbid) == 1
    assert space.left_out == (
        "head.detect is left out: its choices are heads of detection, yolov8-seg is a base of instance segmentation",
    )
    assert SearchSpace.from_json(space.to_json()) == space
    with pytest.raises(SpaceError, match="no slot is on"):
        read_space("base: yolov8-obb\nslots:\n  head.detect: [LightDetect]\n", "heads.yaml", "heads")
    with pytest.raises(SpaceError, match="LightDetect fits slots of kind head, this one is"):
        read_space("base: yolov8-obb\nslots:\n  neck.up_p3: [LightDetect]\n", "heads.yaml", "heads")
