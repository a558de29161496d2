"""Runs kernels on the host, under AddressSanitizer: a backend for `nas.ops.kernels.runtime`.

Every instance of a kernel becomes a program (the kernel's own text, the shim, and a main), which is kept for later
runs. A launch writes its arguments to a file, runs the program and reads the tensors back.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tempfile
from pathlib import Path

import torch

from nas.ops.kernels import runtime

HERE = Path(__file__).parent
HEADERS = ("shim.h", "serve.h")
COMPILER = shutil.which("g++")
FLAGS = (
    "-std=c++17",
    "-O1",
    "-g1",
    "-fsanitize=address,undefined,float-cast-overflow",
    "-fno-sanitize-recover=all",
    "-Wall",
    "-Werror",
    "-Wno-unknown-pragmas",
    "-Wno-attributes",
)


class HostError(AssertionError):
    """The program stopped: a bad access, undefined arithmetic, or a barrier that not all threads met."""


class Host:
    """Runs kernels on CPU tensors.

    Attributes:
        launched: Every kernel that ran, in order.
        seed: Order of blocks and threads.
    """

    def __init__(self, folder: Path, seed: int = 0) -> None:
        self.folder = folder
        self.seed = seed
        self.launched: list[runtime.Kernel] = []

    def launch(self, kernel: runtime.Kernel, how: runtime.Launch, arguments) -> None:
        self.launched.append(kernel)
        program = self._program(kernel)
        tensors = [a for a in arguments if isinstance(a, torch.Tensor)]
        parts = [struct.pack("<9I", *how.grid, *how.block, how.shared, self.seed, len(arguments))]
        for argument in arguments:
            if isinstance(argument, torch.Tensor):
                data = _bytes(argument)
                parts += [b"t", struct.pack("<QQ", argument.data_ptr() % 16, len(data)), data.numpy().tobytes()]
            else:
                parts += [b"n", struct.pack("<Q", argument.nbytes), argument.tobytes()]
        with tempfile.TemporaryDirectory() as scratch:
            file = Path(scratch) / "arguments"
            file.write_bytes(b"".join(parts))
            options = {"ASAN_OPTIONS": "detect_leaks=0:detect_stack_use_after_return=0"}
            done = subprocess.run([program, file], capture_output=True, text=True, env=os.environ | options)
            if done.returncode:
                raise HostError(f"{kernel.expression}, {how}: exit {done.returncode}\n{done.stderr[:3000]}")
            results = torch.frombuffer(bytearray(file.read_bytes() or b"\0"), dtype=torch.uint8)
        place = 0
        for tensor in tensors:
            data = _bytes(tensor)
            written = results[place : place + len(data)]
            if not torch.equal(data, written):  # autograd counts every write
                data.copy_(written)
            place += len(data)

    def _program(self, kernel: runtime.Kernel) -> Path:
        text = "\n".join(
            (
                '#include "shim.h"',
                runtime.source(kernel.source),
                '#include "serve.h"',
                f"int main(int, char **argv) {{ return shim::serve(&{kernel.expression}, argv[1]); }}",
            )
        )
        headers = "".join((HERE / name).read_text() for name in HEADERS)
        key = hashlib.sha256("\0".join((text, headers, *FLAGS)).encode()).hexdigest()[:16]
        program = self.folder / f"{kernel.name}-{key}"
        if not program.exists():
            self._prepare()
            built = self.folder / f"{program.name}.{os.getpid()}"
            source = built.with_name(f"{built.name}.cpp")
            source.write_text(text)
            self._compile(str(source), "-o", str(built))
            built.rename(program)  # whole, as other processes may look for it
        return program

    def _prepare(self) -> None:
        """Copy the headers, and compile the larger one in advance: half of the time of every program."""
        if (self.folder / "shim.h.gch").exists():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in HEADERS:
            copy = self.folder / f"{name}.{os.getpid()}"
            shutil.copyfile(HERE / name, copy)
            copy.rename(self.folder / name)
        built = self.folder / f"shim.h.gch.{os.getpid()}"
        self._compile("-x", "c++-header", "shim.h", "-o", str(built), "-w")
        built.rename(self.folder / "shim.h.gch")

    def _compile(self, *arguments: str) -> None:
        assert COMPILER is not None
        command = [COMPILER, *FLAGS, *arguments]
        done = subprocess.run(command, capture_output=True, text=True, cwd=self.folder)
        assert done.returncode == 0, done.stderr[:3000]


def _bytes(tensor: torch.Tensor) -> torch.Tensor:
    """Return the memory from a tensor's first element to its last, gaps included, as bytes that share it."""
    if tensor.numel() == 0:
        return torch.empty(0, dtype=torch.uint8)
    span = 1 + sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    return tensor.detach().as_strided((span,), (1,)).view(torch.uint8)
