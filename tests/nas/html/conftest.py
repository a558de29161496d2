"""The studies of `made_reports`, as fixtures."""

from __future__ import annotations

import made_reports
import pytest

from nas.html.source import Source, read_source
from nas.study.study import Study


@pytest.fixture
def full_study(tmp_path) -> Study:
    """Return a study with everything that a report shows."""
    return made_reports.full_study(tmp_path)


@pytest.fixture
def whole(full_study) -> Source:
    """Return its source."""
    return read_source(full_study)


@pytest.fixture
def everything(tmp_path) -> Source:
    """Return the source of a study with yardsticks and full trainings besides."""
    return read_source(made_reports.trained_study(tmp_path))


@pytest.fixture
def one_trial(tmp_path) -> Study:
    """Return a study in which only the baseline has finished."""
    return made_reports.one_trial(tmp_path)


@pytest.fixture
def hostile(full_study) -> Source:
    """Return a source with hostile names."""
    return made_reports.hostile_source(full_study)


@pytest.fixture
def many(one_trial) -> Source:
    """Return a source of 1,000 variants."""
    return made_reports.many(one_trial, 1000)
