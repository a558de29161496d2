"""Two CPU processes in place of two GPUs: Ultralytics' own launcher, pickled state, sampler and loop, over gloo.

Ultralytics counts devices in its device string, and a CPU has no number there. What is put in place of its own is how
many processes there are, the backend, and that a CPU has no device index. Nothing here knows of any module.
"""

import torch
import torch.distributed as dist
from torch import nn
from ultralytics.engine import trainer, validator

_init = trainer.BaseTrainer.__init__


def _two(self, *args, **kwargs):
    _init(self, *args, **kwargs)
    self.world_size = 2
    self.ddp = trainer.LOCAL_RANK == -1


def _gloo(self):
    dist.init_process_group("gloo", rank=trainer.RANK, world_size=self.world_size)


class _OnCpu(nn.parallel.DistributedDataParallel):
    def __init__(self, module, device_ids=None, **kwargs):
        super().__init__(module, **kwargs)


class _NoBackend:
    @staticmethod
    def current_device():
        return 0


_backend = validator.AutoBackend
validator.get_torch_device_backend = lambda device_type: _NoBackend
validator.AutoBackend = lambda *args, **kwargs: _backend(*args, **{**kwargs, "device": torch.device("cpu")})
trainer.BaseTrainer.__init__ = _two
trainer.BaseTrainer._setup_ddp = _gloo
nn.parallel.DistributedDataParallel = _OnCpu
