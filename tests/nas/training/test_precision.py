"""In which precision proxies are validated: in float32, whatever they train in."""

from __future__ import annotations

import inspect
import re
from types import SimpleNamespace

import pytest
from ultralytics.engine.trainer import BaseTrainer
from ultralytics.engine.validator import BaseValidator
from ultralytics.utils.metrics import Metric

from nas.errors import NotANumber, failure_kind
from nas.training.proxy_trainer import ProxyTrainer

METRICS = {"metrics/mAP50(B)": 0.5, "metrics/mAP50-95(B)": 0.3, "val/box_loss": 1.0, "val/cls_loss": 2.0}


@pytest.fixture
def validate(monkeypatch):
    """Return what validates with given metrics: what the host is given to decide by, and the trainer."""

    def run(**metrics):
        seen = []
        monkeypatch.setattr(
            BaseTrainer, "validate", lambda self: seen.append(self.amp) or ({**METRICS, **metrics}, 0.3)
        )
        trainer = object.__new__(ProxyTrainer)
        trainer.amp = True
        trainer.validator = SimpleNamespace(metrics=SimpleNamespace(box=Metric()))
        try:
            return trainer.validate(), seen, trainer.amp
        finally:
            assert trainer.amp is True

    return run


def test_the_host_is_not_to_validate_in_float16(validate):
    (metrics, fitness), seen, amp = validate()
    assert (metrics, fitness) == (METRICS, 0.3)
    assert (seen, amp) == ([False], True)


def test_the_host_decides_by_what_is_changed():
    """Of the trainer's precision it reads `trainer.amp` alone, whichever release it is."""
    source = inspect.getsource(BaseValidator.__call__)
    assert len(re.findall(r"!= .cpu. and trainer\.amp", source)) == source.count("trainer.amp") == 1
    assert "trainer.args.amp" not in source


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_validation_loss_that_is_no_number_is_a_failure(validate, loss):
    with pytest.raises(NotANumber, match="the validation loss is not a number") as caught:
        validate(**{"val/cls_loss": loss})
    assert failure_kind(caught.value) == "nan"
