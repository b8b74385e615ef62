"""Optimizers other than AdamW under the training loop: their state comes back bit-equal, whatever its shapes."""

from __future__ import annotations

import shutil

import pytest
import torch

from factotum.optim import HierarchicalRNN
from factotum.training.checkpoint import latest_checkpoint
from factotum.training.distributed import load_optimizer_tensors, optimizer_tensors
from factotum.training.train import train
from tests.training.identity import Model, batch_at, load, objective, save
from tests.training.test_train import checkpoint_bytes, small, untimed


def learned(model, config):
    return HierarchicalRNN(model.parameters(), lr=config.learning_rate, seed=config.seed)


def start(run, **changes):
    return train(
        make_model=Model,
        batch_source=lambda step, rank, world_size, micro: batch_at(step, step % 2),
        objective=objective,
        config=small(steps=8, checkpoint_every=3, keep_checkpoints=0, learning_rate=1.0, device="cpu"),
        run=run,
        save_model=save,
        load_model=load,
        **{"make_optimizer": learned, **changes},
    )


def test_resumed_with_the_learned_optimizer_is_bit_equal(tmp_path):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    start(whole)
    start(resumed)
    for step in (6, 8):
        shutil.rmtree(resumed / "checkpoints" / f"step-{step:08d}")
    result = start(resumed)
    assert result.finished
    last = latest_checkpoint(whole)
    assert checkpoint_bytes(last) == checkpoint_bytes(resumed / "checkpoints" / last.name)
    assert untimed(whole) == untimed(resumed)
    names = {name.rsplit("/", 1)[-1] for name in optimizer_tensors(*stepped())}
    assert {"hidden", "square", "tensor", "pace", "step", "global"} <= names


def test_the_optimizer_asked_for_is_the_one_that_trains(tmp_path):
    start(tmp_path / "learned")
    start(tmp_path / "adamw", make_optimizer=None)
    ours, theirs = (untimed(tmp_path / name)[-1]["loss"] for name in ("learned", "adamw"))
    assert ours != theirs


def stepped():
    torch.manual_seed(0)
    model = Model()
    optimizer = HierarchicalRNN(model.parameters())
    for step in range(3):  # the part with the picture's parameters comes last
        loss, _, _ = objective(model, batch_at(step, int(step == 2)))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, optimizer


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_state_comes_back_as_it_was_and_the_next_step_is_the_same(dtype):
    model, optimizer = stepped()
    optimizer.state_dtype = dtype
    fresh = HierarchicalRNN(model.parameters(), state_dtype=dtype)
    load_optimizer_tensors(model, fresh, optimizer_tensors(model, optimizer))
    for parameter in model.parameters():
        for key, value in optimizer.state[parameter].items():
            found = fresh.state[parameter][key]
            wanted = (
                value if key in ("tensor", "global", "log_rate_mean", "pace", "step") else value.to(dtype)
            )
            assert torch.equal(found, wanted), key
            assert found.data_ptr() != value.data_ptr()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.pop("optimizer/head.weight/hidden"), "missing .'hidden'"),
        (
            lambda t: t.update({"optimizer/head.weight/hidden": torch.zeros(3, 4, 4)}),
            "expected hidden of shape",
        ),
        (lambda t: t.update({"optimizer/tail.weight/hidden": torch.zeros(1)}), "got 'tail.weight'"),
    ],
)
def test_state_of_another_model_is_refused(change, message):
    model, optimizer = stepped()
    tensors = optimizer_tensors(model, optimizer)
    change(tensors)
    fresh = HierarchicalRNN(model.parameters())
    with pytest.raises(ValueError, match=message):
        load_optimizer_tensors(model, fresh, tensors)
    assert not fresh.state
