"""An Ultralytics that lacks what modules are made of: these are not offered, and `nas ops` says why."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
from ultralytics.nn.modules import block, transformer
for name in ("C2PSA", "RepNCSPELAN4", "SCDown"):
    delattr(block, name)
del transformer.AIFI
from nas.ops import listing, registry
classes_of = listing._classes
listing._classes = lambda file: classes_of(file) - {{"C2PSA", "RepNCSPELAN4", "SCDown", "AIFI"}}
from click.testing import CliRunner
from nas.cli import cli
for arguments in {calls}:
    done = CliRunner().invoke(cli, ["ops", *arguments])
    print(done.exit_code, done.output)
"""


def said(*calls: list[str]) -> str:
    """Return what `nas ops` says on an Ultralytics without some classes."""
    code = WITHOUT.format(calls=calls)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


def test_what_a_release_lacks_is_not_offered_and_said_so():
    found = said([], ["C2PSAInsert"], ["GELAN", "--json"])
    lacking = {"AIFIInsert": "AIFI", "C2PSAInsert": "C2PSA", "GELAN": "RepNCSPELAN4", "SCDown": "SCDown"}
    for name, lacked in lacking.items():
        assert f"{name}: not available, as the installed Ultralytics has no {lacked}" in found
        assert f"\n{name} " not in found.partition("not available")[0]
    assert "C3k2Block" in found
    for name in ("C2PSAInsert", "GELAN"):
        reason = f"the installed Ultralytics has no {lacking[name]}"
        assert f"1 error: {name} is not available: {reason}" in found


def test_the_host_is_as_it_was():
    import ultralytics.nn.modules.block as block

    from nas.ops import listing

    assert listing.absent() == {}
    with pytest.raises(AttributeError):
        _ = block.NoSuchBlock
    with pytest.raises(ImportError):
        exec("from ultralytics.nn.modules.block import NoSuchBlock")
