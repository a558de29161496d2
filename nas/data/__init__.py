"""Datasets, checked before anything is trained."""

# The training scripts that `nas emit-yaml` has written import these two from here.
from nas.data.dataset import load as load
from nas.data.dataset import write_resolved as write_resolved
