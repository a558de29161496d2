"""The private parts of Optuna: each one is there, does what it did, and is used in one file only."""

from __future__ import annotations

import ast
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState, create_trial

import nas
from nas.study import optuna_private
from nas.study.location import StudyLocation

CHOICES = optuna.distributions.CategoricalDistribution(("a", "b"))
PRIVATE = {"_storage", "_study_id", "_trial_id"}


@pytest.fixture
def study():
    """A study whose trials have other IDs than numbers, since another study of its storage has a trial already."""
    storage = optuna.storages.InMemoryStorage()
    optuna.create_study(storage=storage).ask()
    return optuna.create_study(storage=storage)


def running(**attributes):
    return create_trial(
        state=TrialState.RUNNING, params={"x": "a"}, distributions={"x": CHOICES}, user_attrs=attributes
    )


def check(owner, *names):
    known = ", ".join(optuna_private.CHECKED)
    for name in names:
        assert hasattr(owner, name), (
            f"Optuna {optuna.__version__}: {type(owner).__name__} has no {name!r} any more; "
            f"nas/study/optuna_private.py needs another way to it (checked with Optuna {known})"
        )


def test_every_part_is_there(study):
    check(study, "_storage", "_study_id")
    check(study._storage, "create_new_trial", "get_trial", "set_trial_user_attr")
    check(study.ask(), "_trial_id")
    check(study.trials[0], "_trial_id")


def test_a_part_that_is_gone_is_named():
    words = rf"Optuna {optuna.__version__}: object has no '_study_id' any more; nas/study/.*Optuna 5\.0\.0"
    with pytest.raises(AssertionError, match=words):
        check(object(), "_study_id")


def test_a_trial_is_running_and_complete_from_its_first_moment(study, monkeypatch):
    seen = []
    create = study._storage.create_new_trial

    def look(*args, **kwargs):
        made = create(*args, **kwargs)
        seen.extend((t.state, t.params, t.user_attrs) for t in study.get_trials(deepcopy=False))
        return made

    monkeypatch.setattr(study._storage, "create_new_trial", look)
    made = optuna_private.add_trial(study, running(owner="me"))
    assert seen == [(TrialState.RUNNING, {"x": "a"}, {"owner": "me"})]
    handle = optuna_private.open_trial(study, made)
    assert (optuna_private.trial_id(handle), handle.number, handle.params) == (made, 0, {"x": "a"})
    assert optuna_private.trial_id(study.trials[0]) == made != 0


def test_a_trial_is_read_and_marked_by_its_id(study):
    made = optuna_private.add_trial(study, running(owner="me"))
    optuna_private.set_trial_attribute(study, made, "beat", 3)
    assert optuna_private.read_trial(study, made).user_attrs == {"owner": "me", "beat": 3}
    study.tell(optuna_private.open_trial(study, made), 0.5)
    assert optuna_private.read_trial(study, made).state == TrialState.COMPLETE


def test_the_tables_say_what_optuna_says(tmp_path):
    """Of the right study of several, in the order of numbers, with the choices and attributes of each trial."""
    where = StudyLocation("a", tmp_path / "a.db")
    storage = optuna.storages.RDBStorage(where.url)
    optuna.create_study(storage=storage, study_name="other").add_trial(running(record={"n": 9}))
    made = optuna.create_study(storage=storage, study_name="a", direction="maximize")
    made.set_user_attr("words", ["é", None, 1.5])
    kept = create_trial(value=0.3, params={"x": "b"}, distributions={"x": CHOICES}, user_attrs={"record": {"n": 1}})
    ends = [TrialState.PRUNED, TrialState.FAIL]
    for trial in (running(record={"n": 0}), kept, *(create_trial(state=s, user_attrs={"id": "i"}) for s in ends)):
        made.add_trial(trial)
    tables = optuna_private.read_tables(where)
    assert tables.schema == optuna_private.SCHEMA == storage.get_current_version()
    assert tables.names() == sorted(optuna.get_all_study_names(storage), key=["other", "a"].index)
    assert tables.attributes() == made.user_attrs
    assert {s.name for s in TrialState} == optuna_private._STATES
    assert {d.name for d in optuna.study.StudyDirection} == optuna_private._DIRECTIONS
    assert optuna_private.Tables(where.named("none")).attributes() is None
    theirs = made.get_trials(deepcopy=False)
    rows = tables.trials()
    assert [(t.id, t.number, t.state) for t in rows] == [
        (optuna_private.trial_id(t), t.number, t.state.name) for t in theirs
    ]
    assert tables.parts([row.id for row in rows], "record") == {
        row.id: (t.params, t.user_attrs["record"])
        for row, t in zip(rows, theirs, strict=True)
        if "record" in t.user_attrs
    }
    assert tables.plain(("id",)) == [
        (row, t.value, {k: v for k, v in t.user_attrs.items() if k == "id"})
        for row, t in zip(rows, theirs, strict=True)
    ]


def test_no_other_file_uses_them():
    found = {
        path.name
        for path in Path(nas.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute) and node.attr in PRIVATE
    }
    assert found == {"optuna_private.py"}
