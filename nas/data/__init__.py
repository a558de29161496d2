"""Datasets: resolve and check a ``data.yaml`` before anything is trained; generate the demo dataset."""

# The training scripts that `nas emit-yaml` has written import these two from here.
from nas.data.dataset import load as load
from nas.data.dataset import write_resolved as write_resolved
