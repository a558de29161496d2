"""What is done otherwise for an older Ultralytics: the parts alone; `.ci/hosts` trains with old releases."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch

from nas.training import host_version
from nas.training.host_version import WarmUp, loss_values, set_up_training, settings_of_host


def test_losses_by_name_and_in_a_tensor():
    named = {"box_loss": torch.tensor(1.5), "cls_loss": torch.tensor(2.0)}
    assert loss_values(named) == loss_values(torch.tensor([1.5, 2.0])) == [1.5, 2.0]


def test_a_set_up_with_and_without_the_number_of_processes():
    asked = []

    class Old:
        def _setup_train(self, world_size):
            asked.append(world_size)

    class New:
        def _setup_train(self):
            asked.append("new")

    set_up_training(Old())
    set_up_training(New())
    assert asked == [1, "new"]


@pytest.mark.parametrize("old", [False, True])
def test_settings_that_an_older_release_does_not_take(monkeypatch, old):
    for name in ("_warms_up_as_told", "_knows_bf16"):
        monkeypatch.setattr(host_version, name, lambda: not old)
    given = {"epochs": 2, "warmup_epochs": 0.5, "amp": "bf16"}
    assert settings_of_host(given) == (given | {"warmup_epochs": 0, "amp": False} if old else given)


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 4), (0.5, 2), (0.0, 0), (9.0, 8)])
def test_a_warm_up_takes_the_epochs_that_it_is_given_but_not_the_last(epochs, steps):
    groups = [{"initial_lr": 0.01, "lr": 7.0}, {"initial_lr": 0.01, "lr": 7.0, "momentum": 7.0}]
    trainer = SimpleNamespace(
        train_loader=range(4),
        epochs=3,
        lf=lambda epoch: 1 - epoch / 4,
        optimizer=SimpleNamespace(param_groups=groups),
        args=SimpleNamespace(warmup_momentum=0.8, momentum=0.9),
    )
    warm_up = WarmUp(epochs, 0.1)
    for step in range(12):
        trainer.epoch = step // 4
        if step % 4 == 0:
            warm_up.begin_epoch(trainer)
        for group in groups:
            group["lr"] = 7.0
        warm_up.begin_step(trainer)
        share = step / steps if steps else 2
        top = 0.01 * (1 - trainer.epoch / 4)
        expected = (0.1 + share * (top - 0.1), share * top) if share <= 1 else (7.0, 7.0)
        assert [group["lr"] for group in groups] == pytest.approx(expected), step
    assert groups[1]["momentum"] == pytest.approx(0.9 if steps else 7.0)


def test_the_biases_are_found_by_name_where_groups_have_names():
    groups = [{"initial_lr": 1.0, "param_group": "weight"}, {"initial_lr": 1.0, "param_group": "bias"}]
    trainer = SimpleNamespace(
        train_loader=range(2), epochs=2, epoch=0, lf=lambda _: 1.0, optimizer=SimpleNamespace(param_groups=groups)
    )
    WarmUp(1.0, 0.1).begin_step(trainer)
    assert [group["lr"] for group in groups] == [0.0, 0.1]


def test_mosaic_takes_any_image_that_is_in_memory():
    choose = host_version._mosaic_images(lambda self, buffer=True: ["of the host"])

    class Images(list):
        cache = "ram"

    mosaic = SimpleNamespace(dataset=Images(range(5)), n=4)
    random.seed(0)
    found = [choose(mosaic) for _ in range(50)]
    assert {len(indices) for indices in found} == {3}
    assert {i for indices in found for i in indices} == set(range(5))
    mosaic.dataset.cache = None
    assert choose(mosaic) == ["of the host"]


def test_the_seed_decides_the_order_of_the_images():
    def order(seed: int) -> list[int]:
        generator = torch.Generator()
        generator.manual_seed(6148914691236517205 - 1)
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(seed)
            made = host_version._seeded_loader(
                torch.utils.data.DataLoader, range(32), shuffle=True, generator=generator
            )
        return list(made.sampler)

    assert order(0) == order(0) != order(1)
