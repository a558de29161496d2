"""The one file that holds modules and needs nothing of this package."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from contract_cases import Case, slots_of
from host_backend import COMPILER, Host

import nas.ops  # noqa: F401  registers the modules
from nas.emit.standalone import standalone_source
from nas.ops.registry import entries, macs_rules

OURS = [e for e in entries().values() if not e.native]


def imported(path, *names):
    """Return the standalone file of some modules, imported from where it is written."""
    path.write_text(f'"""Generated."""\n\nfrom __future__ import annotations\n\n{standalone_source(names)}')
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def everything(tmp_path_factory):
    return imported(tmp_path_factory.mktemp("one") / "all_modules.py", *(e.name for e in OURS))


def case_of(entry):
    return Case(entry, slots_of(entry)[0])


def built(cls, entry):
    return case_of(replace(entry, made=cls)).build()


@pytest.mark.parametrize("entry", OURS, ids=lambda e: e.name)
def test_computes_the_same(entry, everything):
    module = built(entry.cls, entry).train()
    other = built(getattr(everything, entry.name), entry).train()
    assert type(other.head if entry.rule == "head" else other).__module__ == "all_modules"
    other.load_state_dict(module.state_dict(), strict=True)
    x = case_of(entry).inputs()
    assert torch.equal(other(x), module(x))
    for mine, true in zip(other.buffers(), module.buffers(), strict=True):
        assert torch.equal(mine, true)


@pytest.mark.parametrize("entry", OURS, ids=lambda e: e.name)
def test_costs_the_same(entry, everything):
    x = case_of(entry).inputs(1)
    counts, ruled = [], False
    for rules, cls in ((macs_rules(), entry.cls), (everything.macs_rules(), getattr(everything, entry.name))):
        module, total = built(cls, entry).eval(), [0]
        for part in module.modules():
            rule = next((rules[c] for c in type(part).__mro__ if c in rules), None)
            if rule:
                ruled = True
                part.register_forward_hook(
                    lambda m, i, o, rule=rule, total=total: total.__setitem__(0, total[0] + rule(m, i, o))
                )
        module(x)
        counts.append(total[0])
    assert counts[0] == counts[1]
    assert (counts[0] > 0) == ruled


@pytest.mark.parametrize("name", ["CARAFE", "DySample", "DCNv4", "SPConv"])
def test_its_kernels_compute_the_same(name, everything, tmp_path, monkeypatch):
    """The file's own operators, launched by its own runtime."""
    if COMPILER is None:
        pytest.skip("no g++ to compile the kernels for the host with")
    entry = entries()[name]
    module = built(getattr(everything, name), entry)
    x = torch.randn(2, 16, 6, 9).contiguous(memory_format=torch.channels_last)
    expected = module(x)
    expected.square().sum().backward()
    gradients = [p.grad.clone() for p in module.parameters()]
    module.zero_grad()
    host = Host(tmp_path)
    monkeypatch.setattr(everything, "backend_for", lambda device_type, index=None: host)
    y = module(x)
    y.square().sum().backward()
    assert host.launched
    torch.testing.assert_close(y, expected, rtol=1e-3, atol=1e-4)
    for mine, true in zip((p.grad for p in module.parameters()), gradients, strict=True):
        torch.testing.assert_close(mine, true, rtol=1e-2, atol=2e-3)


def test_only_what_is_used_is_in_it():
    text = standalone_source(["DynamicConv"])
    assert "class CondConv2d" in text
    for other in ("class CARAFE", "class DCNv4", "__global__", "custom_op", "def _start", "@register"):
        assert other not in text
    assert "__global__" in standalone_source(["CARAFE"])
    assert "dysample_forward" not in standalone_source(["CARAFE"])


def test_it_says_where_its_modules_come_from():
    text = standalone_source(["DySample"])
    assert '# Paper: Liu et al., "Learning to Upsample by Learning to Sample"' in text
    assert "# Deliberate differences:" in text
    assert "nas.ops" not in text
    assert "import importlib.metadata" in text
    assert "import importlib.util" in text


def test_same_modules_same_bytes():
    assert standalone_source(["CARAFE", "DCNv4"]) == standalone_source(["DCNv4", "CARAFE", "CARAFE"])


@pytest.mark.parametrize("names", [["C2f_DCNv4"], ["SPConv", "DySample"], [e.name for e in OURS]], ids=str)
def test_names_are_all_there_and_none_is_of_the_package(names, tmp_path):
    path = tmp_path / "modules.py"
    path.write_text("from __future__ import annotations\n\n" + standalone_source(names))
    assert "import nas" not in path.read_text()
    assert "from nas" not in path.read_text()
    checked = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F,E9", path], capture_output=True, text=True
    )
    assert checked.returncode == 0, checked.stdout


def test_an_unknown_module_is_named():
    with pytest.raises(ValueError, match="unknown module 'CARAFFE'; did you mean CARAFE"):
        standalone_source(["CARAFFE"])
