"""Code that came with a study runs only where the user has said so, once."""

from __future__ import annotations

import pytest

from nas import own
from nas.errors import TrustError
from nas.own import trust
from nas.own.files import ModuleFile

pytestmark = pytest.mark.usefixtures("registry_as_before")
TEXT = """
import nas
from torch import nn
open("RAN", "a").write("x")

@nas.module(rule="block", kinds={"block"}, paper="-", summary="-")
class Stored(nn.Conv2d):
    def __init__(self, c1, c2, n=1):
        super().__init__(c1, c2, 1)
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_it_is_asked_once_and_kept_by_the_whole_digest(cache, tmp_path):
    file = ModuleFile("stored.py", f"{TEXT}# {tmp_path}\n")
    with pytest.raises(TrustError) as refused:
        own.use_stored([file], "the study 'blood' of studies/blood.db")
    said = str(refused.value)
    assert said.startswith("the study 'blood' of studies/blood.db brings Python code of own modules")
    assert trust.digest_of(file)[:32] in said
    assert "--trust" in said
    (copy,) = (cache / "untrusted").iterdir()
    assert copy.read_text() == file.text
    assert str(copy) in said
    assert not (tmp_path / "RAN").exists()
    with trust.given():
        own.use_stored([file], "it")
    assert (tmp_path / "RAN").exists()
    assert (cache / "trusted" / trust.digest_of(file)).exists()
    assert len(trust.digest_of(file)) == 64
    own.use_stored([file], "it")  # not asked again
    with pytest.raises(TrustError, match=r"stored\.py, 11 lines"):
        own.use_stored([ModuleFile("stored.py", f"{file.text}\n")], "it")


def test_a_file_that_the_user_names_is_trusted(cache, tmp_path):
    (tmp_path / "stored.py").write_text(TEXT)
    own.load_modules(tmp_path / "stored.py")
    own.use_stored([ModuleFile("stored.py", TEXT)], "it")


def test_the_name_counts(cache):
    with trust.given():
        trust.check_trusted([ModuleFile("a.py", TEXT)], "it")
    with pytest.raises(TrustError):
        trust.check_trusted([ModuleFile("b.py", TEXT)], "it")
