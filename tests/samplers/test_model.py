"""What holds for the cores whatever their weights are; saving, loading and every way in which that can fail."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from factotum.core.checks import UserError
from factotum.core.trees import tree_items
from factotum.samplers import axial
from factotum.samplers import model as models
from factotum.samplers.axial import AxialCore, InwardClamp, r_sequence_rates
from factotum.samplers.config import SamplerConfig
from factotum.samplers.history import Observation, first_observation
from factotum.samplers.model import load_core, make_core, save_core, shipped_cores

CORES = ["lstm", "dnc", "axial"]


def wild_core(name="axial", dimensions=3, seed=0, **sizes):
    """Weights so large that proposals follow everything that is told."""
    torch.manual_seed(seed)
    sizes = {"width": 16, "memory_slots": 6, "memory_width": 5, **sizes}
    core = make_core(SamplerConfig(core=name, dimensions=dimensions, budget=40, **sizes))
    for parameter in core.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return core


def start(core, batch_size=2, dimensions=3, seed=0):
    return core.initial_state(batch_size, dimensions, torch.Generator().manual_seed(seed))


def search(core, function, evaluations, *, batch_size=2, dimensions=3, seed=0, state=None):
    """Closed loop; the proposals x_TBD, their values y_TB and the last state."""
    state = start(core, batch_size, dimensions, seed) if state is None else state
    observation = first_observation(batch_size, dimensions, float(evaluations))
    xs, ys = [], []
    for t in range(evaluations):
        x_BD, state = core.step(observation, state)
        y_B = function(x_BD)
        left_B = torch.full((batch_size,), float(max(evaluations - t - 1, 1)))
        observation = Observation(x_BD, y_B, torch.ones(batch_size, dtype=torch.bool), left_B)
        xs.append(x_BD)
        ys.append(y_B)
    return torch.stack(xs), torch.stack(ys), state


def bowl(x_BD):
    return (x_BD - torch.linspace(0.2, 0.7, x_BD.shape[1])).square().sum(1)


def whole_bowl(x_BD):
    """Values that are whole numbers, so that rescaling rounds nothing."""
    return (1e4 * bowl(x_BD.double())).round()


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize(("a", "b"), [(1.0, 0.0), (1.0, -7.0), (1e3, 0.0), (1e3, 1e3), (2.0**-10, 0.0)])
def test_rescaled_functions_get_the_same_proposals_bit_by_bit(name, a, b):
    core = wild_core(name)
    plain, _, _ = search(core, whole_bowl, 30)
    assert torch.equal(plain, search(core, lambda x: a * whole_bowl(x) + b, 30)[0])
    assert not torch.allclose(plain[5:], search(core, lambda x: -whole_bowl(x), 30)[0][5:], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize("a", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("b", [0.0, 1e3])
def test_rescaled_functions_get_the_same_proposals_but_for_rounding(name, a, b):
    core = wild_core(name)
    plain, _, _ = search(core, lambda x: bowl(x.double()), 30)
    torch.testing.assert_close(
        plain, search(core, lambda x: a * bowl(x.double()) + b, 30)[0], atol=1e-3, rtol=0
    )


def permuted(state, order, batch_size):
    """The state of an axial core with its coordinates in another order."""
    D = len(order)

    def rows(x):
        return x.unflatten(0, (batch_size, D))[:, order].flatten(0, 1)

    history = state.history._replace(best_x_BD=state.history.best_x_BD[:, order])
    recurrent = type(state.recurrent)(*(tuple(map(rows, part)) for part in state.recurrent))
    by_coordinate = {name: getattr(state, name)[:, order] for name in ("tags_BDK", "rates_BD2", "shifts_BD2")}
    return state._replace(history=history, recurrent=recurrent, **by_coordinate)


@torch.no_grad()
def test_axial_core_is_equivariant_to_the_order_of_coordinates():
    core, order = wild_core(dimensions=6).double(), torch.tensor([3, 0, 5, 1, 4, 2])
    state = tree_double(start(core, 2, 6))

    def reordered(x_BD):
        return bowl(x_BD[:, order.argsort()])

    plain, _, last = search(core, bowl, 20, dimensions=6, state=state)
    other, _, other_last = search(core, reordered, 20, dimensions=6, state=permuted(state, order, 2))
    torch.testing.assert_close(plain[..., order], other)
    for (name, a), (_, b) in zip(tree_items(permuted(last, order, 2)), tree_items(other_last), strict=True):
        torch.testing.assert_close(a, b, msg=name)
    assert not torch.allclose(plain[..., 0], plain[..., 1], atol=1e-2)


def tree_double(state):
    """The same state in double precision, so that the order of sums does not grow into another search."""
    history = type(state.history)(*(part.double() for part in state.history))
    recurrent = type(state.recurrent)(*(tuple(x.double() for x in part) for part in state.recurrent))
    return state._replace(history=history, recurrent=recurrent, tags_BDK=state.tags_BDK.double())


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_step_leaves_the_old_state_as_it_was(name):
    core = wild_core(name)
    _, _, state = search(core, bowl, 5)
    before = {path: leaf.clone() for path, leaf in tree_items(state)}
    ones_B = torch.ones(2)
    finished = Observation(torch.rand(2, 3), torch.rand(2), ones_B > 0, 9 * ones_B)
    first = core.step(finished, state)
    core.step(finished._replace(observed_B=ones_B < 0), state)
    second = core.step(finished, state)
    assert all(torch.equal(leaf, before[path]) for path, leaf in tree_items(state))
    assert all(
        torch.equal(a, b) for (_, a), (_, b) in zip(tree_items(first), tree_items(second), strict=True)
    )


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_rows_of_a_batch_do_not_mix(name):
    core = wild_core(name)
    state = start(core)

    def row(x):
        return x if x.dim() == 0 else x[: len(x) // 2]

    rebuilt = tree_like(state, row)
    together, _, _ = search(core, bowl, 8, state=state)
    alone, _, _ = search(core, bowl, 8, batch_size=1, state=rebuilt)
    torch.testing.assert_close(together[:, :1], alone, atol=1e-4, rtol=0)


def tree_like(tree, function):
    """`tree_map` that keeps named tuples."""
    if isinstance(tree, tuple):
        parts = [tree_like(part, function) for part in tree]
        return type(tree)(*parts) if hasattr(tree, "_fields") else tuple(parts)
    return function(tree)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_proposals_stay_in_the_unit_cube_and_follow_what_is_told(name):
    core = wild_core(name)
    x_TBD, _, _ = search(core, bowl, 60)
    assert x_TBD.min() >= 0
    assert x_TBD.max() <= 1
    assert x_TBD.isfinite().all()
    changed, _, _ = search(core, lambda x: bowl(1 - x), 60)
    assert torch.equal(x_TBD[0], changed[0])
    assert not torch.allclose(x_TBD[10:], changed[10:], atol=1e-2)


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_core_sees_budget_and_pending_points(name):
    core = wild_core(name)
    state = start(core)
    at = first_observation(2, 3, 30.0)
    x_BD, _ = core.step(at, state)
    assert not torch.allclose(x_BD, core.step(at._replace(remaining_B=torch.full((2,), 3.0)), state)[0])
    assert not torch.allclose(x_BD, core.step(at._replace(x_BD=torch.full((2, 3), 0.9)), state)[0])
    assert not torch.allclose(x_BD, core.step(at._replace(observed_B=torch.ones(2) > 0), state)[0])
    assert torch.equal(x_BD, core.step(at._replace(y_B=torch.full((2,), torch.nan)), state)[0])


@torch.no_grad()
def test_the_generator_alone_decides():
    core = wild_core()
    first, _, _ = search(core, bowl, 10, seed=1)
    torch.manual_seed(7)
    again, _, _ = search(core, bowl, 10, seed=1)
    other, _, _ = search(core, bowl, 10, seed=2)
    assert torch.equal(first, again)
    assert not torch.allclose(first, other, atol=1e-2)
    assert not torch.allclose(
        first[:, 0], first[:, 1], atol=1e-2
    )  # functions of a batch have tags of their own


@torch.no_grad()
@pytest.mark.parametrize("dimensions", [1, 2, 7, 20])
def test_one_axial_core_serves_every_number_of_dimensions(dimensions):
    core = AxialCore(SamplerConfig(width=8, dimensions=20))
    x_TBD, _, _ = search(core, bowl, 4, dimensions=dimensions)
    assert x_TBD.shape == (4, 2, dimensions)


@pytest.mark.parametrize(
    ("name", "dimensions", "message"),
    [
        ("axial", 4, "made for 1 to 3, got 4"),
        ("axial", 0, "made for 1 to 3, got 0"),
        ("lstm", 2, "lstm core was made for 3, got 2"),
        ("dnc", 4, "dnc core was made for 3, got 4"),
    ],
)
def test_other_numbers_of_dimensions_are_refused(name, dimensions, message):
    with pytest.raises(UserError, match=message):
        start(wild_core(name), dimensions=dimensions)


@torch.no_grad()
def test_an_untrained_axial_core_searches_the_whole_cube():
    torch.manual_seed(0)
    core = AxialCore(SamplerConfig(width=16, dimensions=4))
    x_TBD, y_TB, _ = search(core, bowl, 64, batch_size=16, dimensions=4)
    for d in range(4):
        counts = torch.histc(x_TBD[..., d], bins=4, min=0, max=1) / x_TBD[..., d].numel()
        assert counts.min() > 0.1
    assert (y_TB.min(0).values < y_TB[0]).float().mean() > 0.9


@pytest.mark.parametrize("dimensions", [1, 2, 5])
def test_noise_fills_the_cube_evenly_and_depends_on_the_step_alone(dimensions):
    state = start(AxialCore(SamplerConfig(width=8)), 3, dimensions)
    T = 256
    noise_TBD2 = torch.stack(
        [axial.noise(state._replace(steps=torch.tensor(float(t)).double())) for t in range(T)]
    )
    assert noise_TBD2.min() >= 0
    assert noise_TBD2.max() < 1
    for d in range(dimensions):
        even, white = (torch.histc(noise_TBD2[:, 0, d, k], bins=8, min=0, max=1) for k in (0, 1))
        assert (even - T / 8).abs().max() <= 4  # at random: about 3 sigma = 16
        assert (white - T / 8).abs().max() <= 24
    rates = r_sequence_rates(dimensions)
    root = 1 / rates[0]
    torch.testing.assert_close(root ** (dimensions + 1), root + 1)
    assert torch.equal(state.rates_BD2[1, :, 0].sort(descending=True).values, rates)


@torch.no_grad()
def test_white_noise_keeps_its_precision_over_long_searches():
    state = start(AxialCore(SamplerConfig(width=8)), 1, 1)
    late = [axial.noise(state._replace(steps=torch.tensor(1e5 + t).double()))[0, 0, 1] for t in range(50)]
    assert len({round(float(value), 4) for value in late}) > 45


@pytest.mark.parametrize("name", CORES)
@pytest.mark.parametrize(
    ("function", "evaluations"),
    [
        (bowl, 1),
        (bowl, 2),
        (bowl, 40),
        (lambda x: 0 * x.sum(1) + 3, 6),
        (lambda x: (4 * x[:, 0]).round(), 12),
    ],
)
def test_gradients_are_finite(name, function, evaluations):
    core = wild_core(name)
    x_TBD, y_TB, _ = search(core, function, evaluations)
    (y_TB.sum() + x_TBD.square().sum()).backward()
    for path, parameter in core.named_parameters():
        if parameter.grad is not None:
            assert parameter.grad.isfinite().all(), path
    assert core.output.weight.grad.any()


def test_every_weight_is_trained():
    for name in CORES:
        core = wild_core(name)
        search(core, bowl, 6)[1].sum().backward()
        for path, parameter in core.named_parameters():
            assert parameter.grad is not None, path
            assert parameter.grad.any(), path


def test_a_point_at_the_wall_can_come_back_but_is_not_pushed_further():
    x = torch.tensor([-0.5, -0.5, 0.5, 1.5, 1.5], requires_grad=True)
    slopes = torch.tensor([-1.0, 1.0, 1.0, -1.0, 1.0])  # descent goes the other way
    (InwardClamp.apply(x) * slopes).sum().backward()
    assert x.grad.tolist() == [-1.0, 0.0, 1.0, 0.0, 1.0]


@torch.no_grad()
@pytest.mark.parametrize("name", CORES)
def test_load_gives_back_what_was_saved(name, tmp_path):
    core = wild_core(name)
    save_core(core, tmp_path / "core")
    loaded = load_core(tmp_path / "core")
    assert loaded.config == core.config
    assert torch.equal(search(core, bowl, 10)[0], search(loaded, bowl, 10)[0])
    assert not any(parameter.requires_grad for parameter in loaded.parameters())
    assert not loaded.training
    assert {path.name for path in (tmp_path / "core").iterdir()} == {"config.json", "model.safetensors"}


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of shipped weights: one core, and weights of another system beside it."""
    save_core(wild_core(), tmp_path / "axial-20d")
    (tmp_path / "adam").mkdir()
    (tmp_path / "adam" / "config.json").write_text('{"system": "optim", "format_version": 1}')
    monkeypatch.setattr(models, "SHIPPED", tmp_path)
    return tmp_path


def test_shipped_weights_have_names(shelf, monkeypatch):
    assert shipped_cores() == ["axial-20d"]
    assert load_core("axial-20d").config.core == "axial"
    assert load_core(str(shelf / "axial-20d")).config == load_core("axial-20d").config
    monkeypatch.chdir(shelf)
    save_core(wild_core("lstm"), shelf / "elsewhere" / "axial-20d")
    monkeypatch.chdir(shelf / "elsewhere")
    assert load_core("axial-20d").config.core == "axial"
    assert load_core("./axial-20d").config.core == "lstm"


@pytest.mark.parametrize("name", ["axial-2d", "axial_20d", "nothing/like/it", "", "../axial-20d"])
def test_unknown_names_are_refused_with_a_hint(shelf, monkeypatch, name):
    monkeypatch.chdir(shelf / "adam" if name != "../axial-20d" else "/")
    with pytest.raises(UserError, match=r"unknown weights .*axial-20d"):
        load_core(name)


def broken_config(**changes):
    def change(folder):
        stored = json.loads((folder / "config.json").read_text())
        for key, value in changes.items():
            inner = stored["config"] if key in stored.get("config", {}) or key == "colour" else stored
            inner.pop(key, None)
            if value is not None:
                inner[key] = value
        (folder / "config.json").write_text(json.dumps(stored))

    return change


def broken_weights(change):
    def applied(folder):
        weights = load_file(folder / "model.safetensors")
        change(weights)
        save_file(weights, folder / "model.safetensors")

    return applied


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (broken_config(format_version=2), "version 1, got 'samplers', version 2"),
        (broken_config(format_version=None), "version 1, got 'samplers', version None"),
        (broken_config(system="gato"), "system 'samplers', version 1, got 'gato'"),
        (broken_config(system=None), "system 'samplers', version 1, got None"),
        (broken_config(config=None), "expected a key 'config'"),
        (broken_config(colour="red"), "unknown keys .'colour'"),
        (broken_config(core="gru"), "core: expected one of lstm, dnc, axial.* got 'gru'"),
        (broken_config(width="16"), "width: expected a whole number of at least 1, got '16'"),
        (broken_config(width=0), "width: expected a whole number of at least 1, got 0"),
        (broken_config(width=17), "weights do not fit.*other shapes"),
        (lambda folder: (folder / "config.json").unlink(), "expected a file .*config.json, found none"),
        (lambda folder: (folder / "config.json").write_text("{"), "expected JSON"),
        (lambda folder: (folder / "config.json").write_text("[1]"), "system 'samplers', version 1, got None"),
        (lambda folder: (folder / "model.safetensors").unlink(), "found no such file"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"x" * 40), "does not parse"),
        (broken_weights(lambda weights: weights.pop("output.bias")), "missing .'output.bias'"),
        (broken_weights(lambda weights: weights.update(extra=torch.zeros(1))), "unknown .'extra'"),
        (
            broken_weights(lambda weights: weights["output.bias"].fill_(torch.nan)),
            "finite weights.*output.bias",
        ),
    ],
)
def test_damaged_folders_are_refused(tmp_path, damage, message):
    save_core(wild_core(), tmp_path / "core")
    damage(tmp_path / "core")
    with pytest.raises(UserError, match=message):
        load_core(tmp_path / "core")


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"core": "gru"}, "core: expected one of"),
        ({"layers": 0}, "layers: expected a whole number of at least 1, got 0"),
        ({"budget": 1.5}, "budget: expected a whole number of at least 1, got 1.5"),
        ({"dimensions": True}, "dimensions: expected a whole number"),
    ],
)
def test_impossible_sizes_are_refused(sizes, message):
    with pytest.raises(UserError, match=message):
        SamplerConfig(**sizes)
