"""The kernel beside the core in torch: the same numbers, whatever the types, sizes and threads."""

from __future__ import annotations

import pytest
import torch

from factotum.core.checks import UserError
from factotum.optim import native
from factotum.optim.config import HierarchicalRNNConfig, paper_config
from factotum.optim.layout import Layout
from factotum.optim.model import OptimizerState, Slots
from factotum.optim.pace import floor
from tests.optim.toys import generator, make_core, wild_core

CONFIGS = {
    "shipped": HierarchicalRNNConfig(),
    "paper": paper_config(),
    "small": HierarchicalRNNConfig(parameter_units=3, scales=1, gradient_shortcut=False),
}
SHAPES = ((), (0,), (3, 0), (1,), (31,), (5, 7), (64,), (3, 5, 7), (4096,), (4097,), (9000,))
SIZES = [torch.Size(shape).numel() for shape in SHAPES]

pytestmark = pytest.mark.skipif(not native.available(), reason=str(native.why_not()))


class Run:
    """A core and its kernel, with states that begin the same."""

    def __init__(self, core, shapes=SHAPES, dtype=torch.float32):
        self.core, self.shapes = core, shapes
        self.layout = Layout.single(torch.Size(shape).numel() for shape in shapes)
        self.kernel = native.pack(core)
        with torch.no_grad():
            self.state = core.initial_state(self.layout, generator())
        columns = [self.split(slot_P.to(dtype)) for slot_P in self.state.slots]
        self.slots = [Slots(*each) for each in zip(*columns, strict=True)]
        self.upper, self.pace_N5 = self.state[1:3], self.state.pace_N5
        self.floor_N = torch.full((len(shapes),), -8.0)  # of some scalars and not of others
        self.steps, self.attended = self.empty(), self.empty() if core.config.attention else None

    def empty(self):
        return [torch.empty(shape) for shape in self.shapes]

    def split(self, x_P):
        """Of a flat vector (P, ...) the tensors, their own shape last."""
        parts = zip(x_P.split(list(self.layout.sizes)), self.shapes, strict=True)
        wide = (part.movedim(0, -1).reshape((*x_P.shape[1:], *shape)) for part, shape in parts)
        return [part.clone(memory_format=torch.contiguous_format) for part in wide]

    def flat(self, number):
        """A slot of all tensors, as the core has it."""
        rows = self.core.config.parameter_units if number == 0 else self.core.config.scales
        wide = (rows,) if number < 3 else ()
        return torch.cat([slots[number].reshape(*wide, -1).T for slots in self.slots]).float()

    @torch.no_grad()
    def sweep(self, gradient_P, **options):
        """One pass by the kernel, and by the core from the same slots."""
        bias_NE = self.core.biases(*self.upper, self.layout)
        slots = Slots(*(self.flat(number) for number in range(6)))
        mean_N = self.core.mean_log_rates(slots.log_rate_P, self.layout)
        expected = self.core.sweep(gradient_P, slots, bias_NE, mean_N, self.floor_N, self.layout)
        sums_NK = native.sweep_(
            self.kernel,
            self.split(gradient_P),
            self.slots,
            bias_NE,
            mean_N,
            self.floor_N,
            self.steps,
            self.attended,
            **options,
        )
        return sums_NK, expected

    @torch.no_grad()
    def step(self, gradient_P, parameters):
        """One whole step by the kernel."""
        self.floor_N = floor(self.pace_N5, self.core.config)
        sums_NK, _ = self.sweep(gradient_P)
        counts_N = self.layout.counts_N(sums_NK)
        self.pace_N5 = self.core.paces(sums_NK, counts_N, self.pace_N5)
        native.finish_(self.kernel, parameters, self.steps, 1 / self.core.scales(sums_NK, counts_N)[0])
        self.upper = self.core.upward(
            sums_NK, counts_N, OptimizerState(self.state.slots, *self.upper, self.pace_N5), self.layout
        )


FUNCTIONS = {
    "exp": (lambda x: x.exp(), torch.linspace(-80, 80, 20_001)),
    "log": (lambda x: x.log(), torch.logspace(-30, 38, 20_001)),
    "asinh": (
        lambda x: x.asinh(),
        torch.cat([torch.logspace(-20, 17, 20_001), -torch.logspace(-20, 17, 20_001)]),
    ),
    "sigmoid": (lambda x: 1 / (1 + x.exp2()), torch.linspace(-120, 120, 20_001)),
    "tanh": (lambda x: (x * 0.34657359027997264).tanh(), torch.linspace(-60, 60, 20_001)),
    "inverse root": (lambda x: x.rsqrt(), torch.logspace(-30, 37, 20_001)),
    "reciprocal": (lambda x: 1 / x, torch.logspace(-36, 36, 20_001)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_have_small_relative_errors(name):
    function, x = FUNCTIONS[name]
    y = torch.empty_like(x)
    native.pack(make_core()).library.evaluate(list(FUNCTIONS).index(name), x.data_ptr(), y.data_ptr(), len(x))
    expected = function(x.double())
    assert ((y - expected).abs() <= 2e-6 * expected.abs()).all()


def test_tanh_and_asinh_keep_small_numbers():
    x = torch.logspace(-12, -1, 1001)
    for name, number in (("asinh", 2), ("tanh", 4)):
        y = torch.empty_like(x)
        native.pack(make_core()).library.evaluate(number, x.data_ptr(), y.data_ptr(), len(x))
        torch.testing.assert_close(y.double(), FUNCTIONS[name][0](x.double()), rtol=2e-6, atol=0)


def close(run, expected, sums_NK, rtol=2e-5):
    """Everything that a sweep gives."""
    for number, slot in enumerate(expected.slots):
        torch.testing.assert_close(run.flat(number), slot, rtol=rtol, atol=rtol / 4)
    whole = (expected.log_step_P + run.core.step_offset).exp() * expected.direction_P
    torch.testing.assert_close(torch.cat([step.flatten() for step in run.steps]), whole, rtol=rtol, atol=1e-8)
    if expected.attended_P is not None:
        attended = torch.cat([part.flatten() for part in run.attended])
        torch.testing.assert_close(
            attended, expected.log_step_P.exp() * expected.attended_P, rtol=rtol, atol=1e-8
        )
    torch.testing.assert_close(sums_NK, expected.sums_NK, rtol=10 * rtol, atol=2e-3)


@pytest.mark.parametrize("name", CONFIGS)
def test_sweeps_are_those_of_the_core(name):
    run = Run(wild_core(CONFIGS[name]))
    for step in range(3):
        gradient_P = torch.randn(run.layout.scalar_count, generator=generator(step)) * 10.0 ** (step - 1)
        sums_NK, expected = run.sweep(gradient_P)
        close(run, expected, sums_NK)
    assert sums_NK[3, 0] != 0


@pytest.mark.parametrize("name", CONFIGS)
def test_fifty_steps_are_those_of_the_core(name):
    core = make_core(CONFIGS[name])
    for parameter in core.parameters():
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=generator())
    run = Run(core)
    draw = generator(1)
    theta_P, slope_P = torch.randn(2, run.layout.scalar_count, generator=draw)
    start_P, parameters, state = theta_P, run.split(theta_P), run.state
    for _ in range(50):
        gradient_P = slope_P.abs() * theta_P + 0.3 * torch.randn(theta_P.shape, generator=draw)
        run.step(gradient_P, parameters)
        with torch.no_grad():
            step, state = core.step(gradient_P, state, run.layout)
        theta_P = theta_P + step.update_P
    found_P = torch.cat([parameter.flatten() for parameter in parameters])
    torch.testing.assert_close(found_P, theta_P, rtol=1e-5, atol=1e-5)
    for number, slot in enumerate(state.slots):
        torch.testing.assert_close(run.flat(number), slot, rtol=1e-4, atol=2e-5)
    for found, expected in zip((*run.upper, run.pace_N5), state[1:], strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert (found_P - start_P).abs().max() > 1e-2


def test_the_number_of_threads_changes_nothing(monkeypatch):
    found = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(native, "_threads", lambda tensors, threads=threads: threads)
        run = Run(wild_core())
        sums_NK, _ = run.sweep(torch.randn(run.layout.scalar_count, generator=generator()))
        found.append([sums_NK, *run.steps, *(slot for slots in run.slots for slot in slots)])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_threads_are_those_of_torch_where_there_is_work(monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    sizes = (0, 100, 2 * native.SCALARS_A_THREAD, 100 * native.SCALARS_A_THREAD)
    assert [native._threads([torch.empty(size, device="meta")]) for size in sizes] == [1, 1, 2, 3]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_gradients_may_be_narrow(dtype):
    special = torch.tensor([0.0, -0.0, 6e-8, -3e-5, 65504.0, float("inf"), -float("inf"), 1e-3])
    gradient_P = torch.cat([special, torch.randn(400, generator=generator())]).to(dtype)
    found = []
    for gradient in (gradient_P, gradient_P.float()):
        run = Run(wild_core(), [gradient.shape])
        found.append([run.sweep(gradient)[0], run.steps[0], *run.slots[0]])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def every_number(dtype):
    """All numbers of two bytes, but those that are none."""
    numbers = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(dtype)
    return numbers[numbers.isfinite()]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_parameters_are_rounded_once(dtype):
    kernel = native.pack(make_core())
    parameter = torch.randn(5000, generator=generator()) if dtype == torch.float32 else every_number(dtype)
    if dtype == torch.bfloat16:
        parameter = parameter[(parameter.abs() > 1e-30) & (parameter.abs() < 1e30)]
    spread = torch.logspace(-9, 5, len(parameter))[torch.randperm(len(parameter), generator=generator())]
    step = torch.randn(len(parameter), generator=generator()) * spread
    expected = (parameter.double() * 0.75 - 0.5 * step.double()).float()
    native.finish_(kernel, [parameter], [step], torch.tensor([0.5]), torch.tensor([0.75]))
    if dtype == torch.float32:
        torch.testing.assert_close(parameter, expected, rtol=1e-5, atol=1e-8)
    else:
        wrong = parameter != expected.to(dtype)  # where single precision lands on the other side of a tie
        assert wrong.float().mean() < 1e-3
        torch.testing.assert_close(parameter, expected.to(dtype), rtol=2**-7, atol=1e-7)


def test_parameters_that_are_not_numbers_stay_so():
    kernel = native.pack(make_core())
    for dtype in (torch.float16, torch.bfloat16):
        parameter = torch.tensor([float("nan"), float("inf"), -float("inf"), 1.0], dtype=dtype)
        native.finish_(kernel, [parameter], [torch.zeros(4)], torch.ones(1))
        assert str(parameter.tolist()) == "[nan, inf, -inf, 1.0]"


def test_narrow_slots_are_the_wide_ones_rounded():
    run = Run(wild_core(), [(3000,)], torch.bfloat16)
    gradient_P = torch.randn(3000, generator=generator())
    for _ in range(2):
        _, expected = run.sweep(gradient_P)
        for number, slot in enumerate(expected.slots):
            torch.testing.assert_close(run.flat(number), slot, rtol=2**-8, atol=1e-6)


def test_rounding_by_chance_is_right_in_the_mean():
    core, ones_P = make_core(), torch.ones(60_000)
    found = {}
    for seed in (1, 1, 2, None):
        run = Run(core, [ones_P.shape], torch.bfloat16)
        run.slots[0].log_rate_P.fill_(-7.0)
        _, expected = run.sweep(ones_P, seed=seed)
        if seed in found:
            assert torch.equal(found[seed], run.flat(0))
        found[seed] = run.flat(0)
    assert not torch.equal(found[1], found[2])
    assert (found[None] == found[None][0]).all()
    exact_H = expected.slots.hidden_PH[0]
    torch.testing.assert_close(found[1].double().mean(0).float(), exact_H, rtol=0, atol=1e-4)
    assert (found[None][0] - exact_H).abs().max() > 2e-4
    assert ((found[1] - exact_H).abs() < 2**-7 * exact_H.abs()).all()


@pytest.mark.parametrize("size", [1e20, 1e-20, 0.0])
def test_extreme_gradients_stay_finite(size):
    run = Run(wild_core(), [(40,)])
    for step in range(40):
        sums_NK, expected = run.sweep((torch.rand(40, generator=generator(step)) + 0.5) * size)
    close(run, expected, sums_NK, rtol=1e-3)
    for step in range(40):
        run.sweep(torch.full((40,), size if step % 2 else -size))
    assert all(slot.isfinite().all() for slot in run.slots[0])
    assert run.steps[0].isfinite().all()


def test_averages_of_nothing_end_at_zero():
    run = Run(make_core(), [(16,)])
    run.sweep(torch.full((16,), 1e-30))
    for _ in range(400):
        sums_NK, _ = run.sweep(torch.zeros(16))
    assert sums_NK.isfinite().all()
    assert (run.slots[0].gradient_PS[0] == 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_what_is_not_a_number_shows(name):
    run = Run(wild_core(CONFIGS[name]), [(40,), (40,)])
    gradient_P = torch.ones(80)
    gradient_P[3] = float("nan")
    sums_NK, _ = run.sweep(gradient_P)
    rms_N, _ = run.core.scales(sums_NK, run.layout.counts_N(sums_NK))
    assert rms_N.isnan().tolist() == [True, False]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_finite_numbers_are_told_from_others(dtype):
    kernel, shapes = native.pack(make_core()), [(), (0,), (3,), (70_001,)]
    fine = [torch.full(shape, torch.finfo(dtype).max, dtype=dtype) for shape in shapes]
    assert native.finite(kernel, []).tolist() == []
    assert native.finite(kernel, fine).tolist() == [True] * 4
    for number in (0, 2, 3):
        for value in (float("inf"), -float("inf"), float("nan")):
            some = [tensor.clone() for tensor in fine]
            some[number].view(-1)[-1] = value
            assert native.finite(kernel, some).tolist() == [n != number for n in range(4)]
    with pytest.raises(UserError, match="finite"):
        native.finite(kernel, [torch.ones(2, dtype=torch.float64)])


def refusals(run, gradient):
    """Calls that must be refused, each with a word of why."""
    slots, bias, mean = run.slots, torch.zeros(1, 30), torch.zeros(1)
    wide = [slots[0]._replace(hidden_PH=slots[0].hidden_PH.double())]
    strided = [slots[0]._replace(hidden_PH=slots[0].hidden_PH.T.contiguous().T)]
    short = [slots[0]._replace(log_rate_P=torch.zeros(7))]
    step = [torch.empty(8)]
    return [
        ((gradient, slots, bias, mean, mean, []), "as many"),
        ((gradient, slots, bias, mean, mean, step, step), "without attention"),
        ((gradient, slots, bias[:, :20], mean, mean, step), "biases"),
        ((gradient, wide, bias, mean, mean, step), "float64"),
        ((gradient, strided, bias, mean, mean, step), "strided"),
        ((gradient, short, bias, mean, mean, step), "8 scalars"),
        ((gradient, slots, bias, mean, mean, [torch.empty(8, dtype=torch.bfloat16)]), "float32"),
        (([gradient[0].to("meta")], slots, bias, mean, mean, step), "meta"),
    ]


@pytest.mark.parametrize("number", range(8))
def test_what_does_not_fit_is_refused(number):
    run = Run(make_core(), [(8,)])
    before = [slot.clone() for slot in run.slots[0]]
    arguments, word = refusals(run, [torch.ones(8)])[number]
    with pytest.raises(UserError, match=word):
        native.sweep_(run.kernel, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(before, run.slots[0], strict=True))


def test_finish_refuses_what_does_not_fit():
    kernel, one = native.pack(make_core()), torch.ones(1)
    for parameter, step in (
        (torch.ones(3), torch.ones(4)),
        (torch.ones(3, dtype=torch.float64), torch.ones(3)),
        (torch.ones(3, 2).T, torch.ones(2, 3)),
        (torch.ones(3), torch.ones(3, dtype=torch.bfloat16)),
    ):
        before = parameter.clone()
        with pytest.raises(UserError, match="finish_"):
            native.finish_(kernel, [parameter], [step], one)
        assert torch.equal(parameter, before)
    with pytest.raises(UserError, match="2 parameters"):
        native.finish_(kernel, [torch.ones(2)] * 2, [torch.ones(2)], one)


def test_weights_are_those_of_the_moment_of_packing():
    core = wild_core()
    run = Run(core, [(9,)])
    with torch.no_grad():
        core.readout.mul_(2.0)
    sums_NK, expected = run.sweep(torch.ones(9))
    with pytest.raises(AssertionError):
        close(run, expected, sums_NK)
