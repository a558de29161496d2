"""Files of the tool: where they lie, and that they are written whole or not at all."""

from __future__ import annotations

from pathlib import Path

from nas import files


def test_where_the_cache_is(monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    monkeypatch.setattr(files.sys, "platform", "linux")
    assert files.cache_dir() == tmp_path / ".cache" / "swapnas"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert files.cache_dir() == tmp_path / "xdg" / "swapnas"
    monkeypatch.setattr(files.sys, "platform", "darwin")
    assert files.cache_dir() == tmp_path / "Library" / "Caches" / "swapnas"
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "own"))
    assert files.cache_dir() == tmp_path / "own"
