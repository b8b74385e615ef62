from __future__ import annotations

import pytest
import torch
from torch import nn

from factotum.training.schedule import decay_groups, learning_rate_at, make_optimizer, set_learning_rate


@pytest.mark.parametrize(
    ("step", "expected"),
    [
        (0, 1e-7),
        (1, 1e-7 + 9.99e-5 / 15_000),
        (7_500, 5.005e-5),
        (15_000, 1e-4),
        (15_000 + 985_000 // 4, 1e-5 + 9e-5 * (1 + 2**-0.5) / 2),
        (15_000 + 985_000 // 2, 5.5e-5),
        (1_000_000, 1e-5),
        (2_000_000, 1e-5),
    ],
)
def test_golden_values_of_gatos_schedule(step, expected):
    """Warm-up over 15,000 steps from 1e-7, then a cosine by 10x until a million."""
    found = learning_rate_at(step, steps=1_000_000, peak=1e-4, warmup_steps=15_000, initial=1e-7)
    assert found == pytest.approx(expected, rel=1e-9)


def test_without_warm_up_the_first_rate_is_the_peak():
    assert learning_rate_at(0, steps=10, peak=0.5, warmup_steps=0) == 0.5


def test_the_rate_rises_then_falls():
    rates = [learning_rate_at(step, steps=100, peak=1.0, warmup_steps=20) for step in range(101)]
    assert rates[:21] == sorted(rates[:21])
    assert rates[20:] == sorted(rates[20:], reverse=True)


def test_norms_biases_and_vectors_do_not_decay():
    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.embedding = nn.Embedding(5, 4)
            self.attention = nn.MultiheadAttention(4, 2)
            self.norm = nn.LayerNorm((3, 4))
            self.scale = nn.Parameter(torch.ones(4))
            self.table_bias = nn.Parameter(torch.zeros(2, 2))
            self.frozen = nn.Linear(4, 4).requires_grad_(False)
            self.tied = nn.Linear(4, 5, bias=False)
            self.tied.weight = self.embedding.weight

    model = Model()
    decayed, plain = decay_groups(model, 0.1)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert [names[id(p)] for p in decayed["params"]] == [
        "embedding.weight",
        "attention.in_proj_weight",
        "attention.out_proj.weight",
    ]
    assert sorted(names[id(p)] for p in plain["params"]) == [
        "attention.in_proj_bias",
        "attention.out_proj.bias",
        "norm.bias",
        "norm.weight",
        "scale",
        "table_bias",
    ]
    assert (decayed["weight_decay"], plain["weight_decay"]) == (0.1, 0.0)


def test_decay_alone_shrinks_matrices_only():
    model = nn.Linear(2, 2)
    nn.init.ones_(model.bias)
    before = model.weight.detach().clone()
    optimizer = make_optimizer(model, learning_rate=0.5, weight_decay=0.1)
    set_learning_rate(optimizer, 1.0)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    torch.testing.assert_close(model.weight.detach(), before * 0.9)
    assert model.bias.tolist() == [1.0, 1.0]


def test_a_model_without_parameters_is_refused():
    with pytest.raises(ValueError, match="expected a model with trainable parameters"):
        make_optimizer(nn.Linear(2, 2).requires_grad_(False), learning_rate=1.0)
