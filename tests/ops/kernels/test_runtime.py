"""Compiling, caching and choosing kernels; none of it needs a GPU."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch

from nas.ops.kernels import runtime, self_test
from nas.ops.kernels.runtime import Kernel, KernelError, Launch

needs_compiler = pytest.mark.skipif(bool(runtime.unavailable()), reason=runtime.unavailable() or "there")
SMALL = Kernel("dysample", "dysample_forward", ("float", "float", "1", "1", "int"))


@pytest.fixture(autouse=True)
def forget():
    runtime.say_once.cache_clear()
    yield
    runtime.say_once.cache_clear()


@pytest.fixture
def own_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("NAS_CACHE", str(tmp_path))
    return tmp_path / "kernels"


def test_cpu_tensors_take_the_reference(monkeypatch):
    for value in ("auto", "cuda", "reference"):
        monkeypatch.setenv("NAS_KERNELS", value)
        assert not self_test.usable("carafe", torch.zeros(1))


def test_an_unknown_choice_is_refused(monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "fast")
    with pytest.raises(ValueError, match="NAS_KERNELS='fast': expected auto, cuda or reference"):
        runtime.backend_for("cuda")


def test_reference_is_chosen_without_a_word(monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "reference")
    monkeypatch.setattr(runtime, "unavailable", lambda: "there is no compiler")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.backend_for("cuda") is None


def test_without_a_compiler_it_says_so_once(monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "auto")
    monkeypatch.setattr(runtime, "unavailable", lambda: "cuda-core is not installed")
    with pytest.warns(UserWarning, match="cuda-core is not installed: CUDA tensors take the plain PyTorch path"):
        assert runtime.backend_for("cuda") is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert runtime.backend_for("cuda") is None


def test_kernels_that_are_demanded_and_cannot_be_had(monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "cuda")
    monkeypatch.setattr(runtime, "unavailable", lambda: "cuda-core is not installed")
    with pytest.raises(KernelError, match="NAS_KERNELS=cuda, but cuda-core is not installed"):
        runtime.backend_for("cuda")


@needs_compiler
def test_with_a_compiler_cuda_has_a_backend(monkeypatch):
    monkeypatch.setenv("NAS_KERNELS", "auto")
    assert runtime.backend_for("cuda") is not None
    assert runtime.backend_for("mps") is None


@pytest.mark.parametrize("package", ["cuda.core", "cuda.bindings"])
@pytest.mark.parametrize(("cuda", "extra"), [("12.6", "cuda12"), ("13.0", "cuda13"), (None, "cuda13")])
def test_a_missing_package_is_named(package, cuda, extra, monkeypatch):
    """With the extra that has the compiler of PyTorch's CUDA."""
    found = importlib.util.find_spec
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else found(name))
    runtime.unavailable.cache_clear()
    try:
        assert runtime.unavailable() == f"{package.replace('.', '-')} is not installed (pip install 'swapnas[{extra}]')"
    finally:
        runtime.unavailable.cache_clear()


def test_float64_takes_the_reference(monkeypatch):
    monkeypatch.setattr(runtime, "backend_for", lambda device_type, index=None: object())
    assert self_test.usable("carafe", torch.zeros(1), torch.zeros(1, dtype=torch.float16))
    assert not self_test.usable("carafe", torch.zeros(1), torch.zeros(1, dtype=torch.float64))


def test_nothing_is_launched_for_nothing(monkeypatch):
    class Never:
        def launch(self, *_):
            raise AssertionError("launched")

    monkeypatch.setattr(runtime, "backend_for", lambda device_type, index=None: Never())
    runtime.launch(SMALL, Launch((0, 1, 1), (32, 1, 1)), torch.zeros(1))
    with pytest.raises(AssertionError, match="launched"):
        runtime.launch(SMALL, Launch((1, 1, 1), (32, 1, 1)), torch.zeros(1), np.int32(1))


def test_sources_need_no_file_of_ours():
    for name in ("dcnv4", "carafe", "dysample"):
        text = runtime.source(name)
        assert '#include "' not in text
        assert "struct Corners" in text


def test_importing_the_ops_loads_no_compiler():
    code = "import sys, nas.ops.families; assert not [m for m in sys.modules if m.startswith('cuda.core')]"
    subprocess.run([sys.executable, "-c", code], check=True)


# ---- the cache ------------------------------------------------------------------------------------------------------


@needs_compiler
def test_machine_code_is_kept_and_found(own_folder, monkeypatch):
    name, code = runtime.cached_kernel(SMALL, "sm_90")
    assert "dysample_forward" in name
    assert code[:4] == b"\x7fELF"
    monkeypatch.setattr(runtime, "compile_kernel", lambda *_: pytest.fail("compiled again"))
    assert runtime.cached_kernel(SMALL, "sm_90") == (name, code)
    (kept,) = own_folder.iterdir()
    assert kept.suffix == ".cubin"


@needs_compiler
def test_another_architecture_or_instance_is_another_entry(own_folder):
    runtime.cached_kernel(SMALL, "sm_90")
    runtime.cached_kernel(SMALL, "sm_80")
    runtime.cached_kernel(Kernel("dysample", "dysample_forward", ("half_t", "float", "1", "1", "int")), "sm_90")
    assert len(list(own_folder.iterdir())) == 3


@needs_compiler
@pytest.mark.parametrize("damage", [b"", b"nonsense", b"name\n0000\ncode"], ids=["empty", "nonsense", "digest"])
def test_a_damaged_entry_is_made_again(damage, own_folder):
    good = runtime.cached_kernel(SMALL, "sm_90")
    (kept,) = own_folder.iterdir()
    kept.write_bytes(damage)
    assert runtime.cached_kernel(SMALL, "sm_90")[0] == good[0]
    assert kept.stat().st_size > 1000


@needs_compiler
def test_a_cut_entry_is_made_again(own_folder):
    good = runtime.cached_kernel(SMALL, "sm_90")
    (kept,) = own_folder.iterdir()
    kept.write_bytes(kept.read_bytes()[:-100])
    assert len(runtime.cached_kernel(SMALL, "sm_90")[1]) == len(good[1])


@needs_compiler
def test_a_cache_that_cannot_be_written_is_done_without(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NAS_CACHE", str(tmp_path / "file"))
    assert runtime.cached_kernel(SMALL, "sm_90")[1][:4] == b"\x7fELF"


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="another place")
def test_the_cache_is_in_the_systems_place(monkeypatch, tmp_path):
    monkeypatch.delenv("NAS_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert runtime.cache_folder() == tmp_path / "swapnas" / "kernels"


# ---- compiling ------------------------------------------------------------------------------------------------------


@needs_compiler
def test_an_error_of_the_compiler_is_shown():
    with pytest.raises(KernelError, match=r"(?s)dysample_forward<nonsense> for sm_90: .*nonsense"):
        runtime.compile_kernel(Kernel("dysample", "dysample_forward", ("nonsense",)), "sm_90")


@needs_compiler
def test_an_unknown_architecture_is_an_error():
    with pytest.raises(KernelError, match="sm_12"):
        runtime.compile_kernel(SMALL, "sm_12")
