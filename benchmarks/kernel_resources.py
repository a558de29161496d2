"""What the kernels take of a GPU's registers, on every architecture; needs no GPU.

    python benchmarks/kernel_resources.py

Compiles each instance that the modules launch with their defaults, and prints the assembler's report: registers of a
thread, and bytes that are spilled where they do not suffice.
"""

from __future__ import annotations

import argparse


def main() -> None:
    """Compile and print."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0]).parse_args()

    from nas.ops.kernels.resources import instances, resources
    from nas.ops.kernels.runtime import ARCHITECTURES

    found = resources(instances())
    print("| kernel | " + " | ".join(ARCHITECTURES) + " |\n|---|" + "---|" * len(ARCHITECTURES))
    for kernel in dict.fromkeys(kernel for kernel, _ in found):
        used = [found[kernel, architecture] for architecture in ARCHITECTURES]
        row = (f"{u.registers}" + (f", {u.spilled + u.stack} B spilled" if u.spilled or u.stack else "") for u in used)
        print(f"| `{kernel.expression}` | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
