"""What a training process has to say of its machine reaches the user: its own warnings are not shown."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import pytest

from nas.ops.kernels import runtime
from nas.workers import process
from nas.workers.process import ProxyWorker
from nas.workers.worker import _send_notes


@pytest.fixture(autouse=True)
def forget():
    runtime.say_once.cache_clear()
    process._say_once.cache_clear()
    yield
    runtime.say_once.cache_clear()
    process._say_once.cache_clear()


def test_kernels_that_are_not_used_are_sent(monkeypatch):
    sent = []
    monkeypatch.setattr(runtime, "notify", None)
    _send_notes(SimpleNamespace(send=sent.append))
    for _ in range(2):
        runtime.say_once("the CUDA kernels of carafe fail on cuda:0")
    ((kind, text),) = sent
    assert kind == "note"
    assert text.startswith("the CUDA kernels of carafe fail on cuda:0: CUDA tensors take the plain PyTorch path")


def test_what_is_sent_is_said_once(tmp_path, monkeypatch):
    messages = [("note", "the kernels fail"), ("progress", 1), ("note", "the kernels fail"), ("done", "result")]
    heard = []

    def worker() -> ProxyWorker:
        made = ProxyWorker(tmp_path)
        monkeypatch.setattr(made, "_start", lambda: None)
        made._pipe = SimpleNamespace(send=lambda _job: None, recv=iter(messages).__next__)
        return made

    with pytest.warns(UserWarning, match="the kernels fail") as caught:
        assert worker().work("a job", heard.append) == "result"
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert worker().work("a job", heard.append) == "result"  # another process says the same
    assert heard == [1, 1]
