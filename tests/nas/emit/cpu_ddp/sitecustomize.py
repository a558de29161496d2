"""Lets the ranks that Ultralytics starts run on the CPU; see cpu_ddp.py, which the launching script imports itself."""

import os

if "LOCAL_RANK" in os.environ:
    import cpu_ddp  # noqa: F401
