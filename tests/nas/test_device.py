"""What ``--device`` and ``--precision`` mean, on machines that are made up."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
from made_up_gpu import CU130, as_torch_sees

from nas import device as devices
from nas.device import Gpu, assign_devices, choose_device, choose_precision, describe_device, has_code, query_gpus
from nas.errors import OptionError
from nas.training.recipe import make_recipe

T4 = Gpu("Tesla T4", (7, 5), bf16=False, code=True)
A100 = Gpu("NVIDIA A100", (8, 0), bf16=True, code=True)
P40 = Gpu("Tesla P40", (6, 1), bf16=False, code=False)


@pytest.fixture
def machine(monkeypatch):
    """Return what makes a machine of some GPUs."""

    def make(*gpus: Gpu) -> None:
        monkeypatch.setattr(devices, "gpus", lambda: gpus)

    return make


def recipe_for(device=None, amp=None):
    return make_recipe(init="bank", epochs=4, imgsz=160, batch=16, base_epochs=None, device=device, amp=amp)


@pytest.mark.parametrize(
    ("name", "capability", "native"),
    [("Tesla T4", (7, 5), False), ("NVIDIA A100", (8, 0), True), ("NVIDIA H200", (9, 0), True)],
)
def test_bfloat16_counts_only_where_it_is_native(name, capability, native, monkeypatch):
    as_torch_sees(monkeypatch, name, capability)
    assert query_gpus() == [Gpu(name, capability, native, code=True)]


@pytest.mark.parametrize(
    ("capability", "built", "runs"),
    [
        ((6, 1), CU130, False),
        ((7, 0), CU130, False),
        ((7, 5), CU130, True),
        ((8, 9), CU130, True),  # machine code of 8.6
        ((8, 7), ["sm_80"], True),
        ((8, 0), ["sm_86"], False),
        ((9, 0), ["sm_90a"], True),
        ((9, 1), ["sm_90a"], False),
        ((10, 3), ["sm_100f"], True),
        ((12, 1), ["compute_90"], True),
        ((12, 1), ["sm_90", "sm_120"], True),
        ((8, 0), ["compute_90"], False),
        ((9, 0), ["gfx942"], False),
        ((9, 0), [], False),
    ],
)
def test_code_for_a_capability(capability, built, runs):
    assert has_code(capability, built) is runs


@pytest.mark.parametrize(
    ("gpus", "device", "amp", "words"),
    [
        ((), "cpu", False, "on the CPU in fp32"),
        ((T4,), "0", False, r"GPU 0 \(Tesla T4, compute capability 7.5\) in fp32, because it has no native bfloat16"),
        ((A100,), "0", "bf16", r"GPU 0 \(NVIDIA A100, compute capability 8.0\) in bf16$"),
        ((P40,), "cpu", False, r"on the CPU in fp32; GPU 0: the installed PyTorch has no code for it \(Tesla P40"),
        ((P40, A100), "1", "bf16", "GPU 1"),
    ],
)
def test_a_machine_chooses(gpus, device, amp, words, machine):
    machine(*gpus)
    recipe = recipe_for()
    assert (recipe.device, recipe.amp) == (device, amp)
    assert re.search(words, describe_device(recipe.device, recipe.amp))


@pytest.mark.parametrize(
    ("given", "meant"),
    [("cpu", "cpu"), ("CPU", "cpu"), ("0", "0"), ("01", "1"), ("cuda", "0"), ("cuda:1", "1"), (" cuda:0 ", "0")],
)
def test_what_names_a_device(given, meant, machine):
    machine(T4, A100)
    assert choose_device(given) == meant
    assert recipe_for(given).device == meant


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("0,1", "--device 0,1: a training runs on one device; --workers 2 uses both"),
        ("cuda:0,cuda:1", "--workers 2 uses both"),
        ("0,1,2", "--workers 3 uses all of them"),
        ("2", r"--device 2: the GPUs here are 0 \(Tesla T4\), 1 \(Tesla P40\)"),
        ("1", r"--device 1: the installed PyTorch has no code for it \(Tesla P40, compute capability 6.1\)"),
        ("-1", "--device -1: expected cpu or the number of a GPU"),
        ("gpu", "--device gpu: expected cpu or the number of a GPU"),
        ("mps", "--device mps: GPUs of Apple are not supported"),
    ],
)
def test_what_names_none_is_refused_at_once(given, words, machine):
    machine(T4, P40)
    with pytest.raises(OptionError, match=words):
        recipe_for(given)


def test_a_gpu_where_there_is_none(machine):
    machine()
    with pytest.raises(OptionError, match="--device 0: there is no CUDA GPU here"):
        choose_device("0")


def test_a_precision_that_is_only_emulated_is_refused(machine):
    machine(T4)
    with pytest.raises(OptionError, match=r"--precision bf16: GPU 0 \(Tesla T4, .* has no native bfloat16"):
        recipe_for("0", "bf16")
    assert recipe_for("cpu", "bf16").amp == "bf16"
    assert recipe_for("0", False).amp is False


@pytest.mark.parametrize(
    ("gpus", "device", "workers", "amp", "expected"),
    [
        ((), "cpu", 3, False, ["cpu"] * 3),
        ((A100, A100), "0", 1, "bf16", ["0"]),
        ((A100, A100), "0", 3, "bf16", ["0", "1", "0"]),
        ((A100, A100), "1", 2, "bf16", ["1", "0"]),
        ((A100, P40, A100), "0", 2, "bf16", ["0", "2"]),
        ((A100, T4), "0", 2, "bf16", ["0", "0"]),
        ((A100, T4), "0", 2, False, ["0", "1"]),
    ],
)
def test_gpus_are_assigned_in_turn(gpus, device, workers, amp, expected, machine):
    machine(*gpus)
    assert assign_devices(device, workers, amp) == expected


@pytest.mark.parametrize(
    ("system", "device", "last"), [("Windows", "0", False), ("Windows", "cpu", True), ("Linux", "0", True)]
)
def test_channels_last_is_off_where_it_is_slow(system, device, last, machine, monkeypatch):
    machine(A100)
    monkeypatch.setattr("platform.system", lambda: system)
    assert recipe_for(device).channels_last is last


def test_this_process_makes_no_cuda_context(monkeypatch):
    """Another one is asked; here, it finds no GPU."""

    def never(*_):
        raise AssertionError("asked for in this process")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for name in ("get_device_properties", "get_device_capability", "get_device_name", "is_bf16_supported", "init"):
        monkeypatch.setattr(torch.cuda, name, never)
    devices.gpus.cache_clear()
    try:
        assert isinstance(devices.gpus(), tuple)
    finally:
        devices.gpus.cache_clear()


def test_what_does_not_run_is_reported():
    """A convolution comes first, then the kernels; here there is no GPU for either."""
    if torch.cuda.is_available():
        pytest.skip("there is a GPU")
    (problem,) = devices.gpu_problems(0)
    assert problem.startswith("PROBLEM: ")


def test_each_kernel_has_its_test_when_a_gpu_is_checked():
    """In a fresh process, as `nas doctor` starts one: no other import brings the operators."""
    code = (
        "from nas.device import gpu_problems; gpu_problems(0)\n"
        "from nas.ops.kernels.self_test import SELF_TESTS; print(sorted(SELF_TESTS))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "['carafe', 'dcnv4', 'dysample', 'spconv_blend']\n"


def test_importing_it_is_cheap():
    code = "import sys, nas.device; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_what_a_device_is(machine, monkeypatch):
    machine(T4, A100)
    assert devices.hardware("1") == devices.hardware("cuda:1") == "NVIDIA A100"
    for cores, words in ((1, "1 core"), (16, "16 cores")):
        monkeypatch.setattr(devices.os, "cpu_count", lambda cores=cores: cores)
        assert devices.hardware("cpu") == f"{devices.processor()}, {words}"
        assert devices.hardware("2") == devices.hardware("cpu")  # of a study from elsewhere
    assert devices.processor()


def test_a_precision_follows_the_device(machine):
    machine(T4, A100)
    assert [choose_precision(d) for d in ("cpu", "0", "1")] == [False, False, "bf16"]
