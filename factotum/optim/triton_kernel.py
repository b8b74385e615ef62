r"""The per-scalar part of a step as one pass over a GPU's memory, all tensors in one launch: kernels in Triton.

`sweep` computes what `HierarchicalRNNCore.sweep` does, `finish` moves the parameters, `add_rows` adds up sums. Every
number of the state is read once and written once; everything between stays in registers: a program has one
block of a tensor's scalars and goes through all units and inputs, unrolled, with weights as scalars. Sums are formed
in an order that the sizes alone determine, nothing is added atomically.

Where tensors lie is told by a table of addresses (`triton_tables.py`), since a launch has a fixed number of arguments.
Loaded on use alone: it needs Triton, which comes with torch's CUDA wheels.
"""

# mypy: ignore-errors
# (Triton's language is not quite Python's.)
from __future__ import annotations

import torch
import triton
import triton.language as tl

KINDS = {torch.float32: tl.float32, torch.bfloat16: tl.bfloat16, torch.float16: tl.float16}
"""Types of numbers by Triton's names."""

# Of biases: -log2(e) for gates, 2 log2(e) for the candidate; weights have been multiplied already, so 2^x is enough.
GATE_FACTOR, CANDIDATE_FACTOR = tl.constexpr(-1.4426950408889634), tl.constexpr(2.8853900817779268)

# Columns of the table, one row for each tensor.
SIZE, HIDDEN, MEAN, SQUARE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2), tl.constexpr(3)
GRADIENT_DECAY, SQUARE_DECAY, LOG_RATE = tl.constexpr(4), tl.constexpr(5), tl.constexpr(6)
STEP, PARAMETER, NEGATED, POSITION = tl.constexpr(7), tl.constexpr(8), tl.constexpr(9), tl.constexpr(10)
COLUMNS = tl.constexpr(11)

# The packed weights (`native.packed_weights`): gates (3, input, unit), readout (unit, 4), its bias (4), shortcut
# (scale, 4), then six numbers.
READOUTS = tl.constexpr(4)
LOG_STEP, GRADIENT_LOGIT, SQUARE_LOGIT, DIRECTION = (
    tl.constexpr(0),
    tl.constexpr(1),
    tl.constexpr(2),
    tl.constexpr(3),
)
RESET, KEEP, CANDIDATE = tl.constexpr(0), tl.constexpr(1), tl.constexpr(2)


@triton.jit
def _hash(x):
    """32 well mixed bits, those of `factotum.optim.rounding`."""
    x = (x ^ (x >> 16)) * 0x85EBCA6B
    x = (x ^ (x >> 13)) * 0xC2B2AE35
    return x ^ (x >> 16)


@triton.jit
def _noise(seed, STREAM: tl.constexpr):
    """Random bits of a slot at each scalar, where `seed` is made of its position and the step."""
    return _hash(seed + STREAM * 7919)


@triton.jit
def _load(address, at, lanes, inside, TYPE: tl.constexpr):
    """Numbers of a tensor from its scalar `at` on."""
    pointer = address.to(tl.pointer_type(TYPE)) + at
    return tl.load(pointer + lanes, mask=inside, other=0.0).to(tl.float32)


@triton.jit
def _store(address, at, lanes, inside, x, noise, TYPE: tl.constexpr):
    """Write numbers; in bfloat16 up or down by chance, right in the mean."""
    if TYPE == tl.bfloat16:
        bits = x.to(tl.uint32, bitcast=True) + (noise & 0xFFFF)
        x = (bits & 0xFFFF0000).to(tl.float32, bitcast=True)
    pointer = address.to(tl.pointer_type(TYPE)) + at
    tl.store(pointer + lanes, x.to(TYPE), mask=inside)


@triton.jit
def _between(x, low, high):
    """Clipped; what is not a number stays so."""
    return tl.where(x < low, low, tl.where(x > high, high, x))


@triton.jit
def _asinh(x):
    """sign(x) log(1 + y) with y = |x| + x^2 / (1 + sqrt(1 + x^2))."""
    size = tl.abs(x)
    y = size + size * size / (1.0 + tl.sqrt(1.0 + size * size))
    u = 1.0 + y  # log(1 + y) is log(u) y / (u - 1), exact for small y too
    value = tl.where(u == 1.0, y, tl.log(u) * (y / tl.where(u == 1.0, 1.0, u - 1.0)))
    return tl.where(x < 0.0, -value, value)


@triton.jit
def _gate(weights, bias, inputs, GATE: tl.constexpr, FACTOR: tl.constexpr, INPUTS: tl.constexpr,
          UNITS: tl.constexpr):  # fmt: skip
    """What goes into a gate's nonlinearity, for each unit."""
    sums = ()
    for u in tl.static_range(UNITS):
        total = tl.load(bias + GATE * UNITS + u) * FACTOR + tl.zeros_like(inputs[0])
        for k in tl.static_range(INPUTS):
            total += tl.load(weights + (GATE * INPUTS + k) * UNITS + u) * inputs[k]
        sums = sums + (total,)
    return sums


@triton.jit
def _read_out(weights, hidden, scaled, COLUMN: tl.constexpr, UNITS: tl.constexpr, SCALES: tl.constexpr):
    """One of: log rate change, logits of the decays (times -log2(e)), direction."""
    total = tl.load(weights + UNITS * READOUTS + COLUMN) + tl.zeros_like(hidden[0])
    for u in tl.static_range(UNITS):
        total += tl.load(weights + u * READOUTS + COLUMN) * hidden[u]
    if COLUMN == DIRECTION:
        for s in tl.static_range(SCALES):
            total += tl.load(weights + (UNITS + 1 + s) * READOUTS + COLUMN) * scaled[s]
    return total


@triton.jit
def _add_up(sums, COLUMN: tl.constexpr, x, inside):
    """One sum over the block."""
    total = tl.sum(tl.where(inside, x, 0.0), axis=0)
    tl.store(sums + COLUMN, total)
    return total


@triton.jit
def _averages(row, g, at, size, lanes, inside, written, seed, SLOT: tl.constexpr, SCALES: tl.constexpr,
              ASINH: tl.constexpr):  # fmt: skip
    """New averages of the gradient and of their squares: what the RNN sees of them, logarithms of the squares."""
    decay = _load(tl.load(row + GRADIENT_DECAY), at, lanes, inside, SLOT)
    square_decay = _load(tl.load(row + SQUARE_DECAY), at, lanes, inside, SLOT)
    means, squares = tl.load(row + MEAN), tl.load(row + SQUARE)
    mean_noise, square_noise = _noise(seed, 1), _noise(seed, 2)
    scaled = ()
    logs = ()
    for s in tl.static_range(SCALES):
        mean = g + decay * (_load(means, at + s * size, lanes, inside, SLOT) - g)
        fresh = mean * mean + 1e-12
        square = fresh + square_decay * (_load(squares, at + s * size, lanes, inside, SLOT) - fresh)
        _store(means, at + s * size, lanes, written, mean, _hash(mean_noise + s * 97), SLOT)
        _store(squares, at + s * size, lanes, written, square, _hash(square_noise + s * 97), SLOT)
        ratio = mean * tl.rsqrt(square + 1e-16)
        if ASINH:
            ratio = _asinh(ratio)
        scaled = scaled + (ratio,)
        logs = logs + (tl.log(square + 1e-16),)
        decay = tl.sqrt(decay)
    return scaled, logs


@triton.jit
def _inputs(scaled, logs, relative, sums, inside, PRODUCTS: tl.constexpr, SCALES: tl.constexpr,
            UNITS: tl.constexpr):  # fmt: skip
    """The features as the packed weights want them (log magnitudes less the first one), and sums of all."""
    features = scaled
    if PRODUCTS:
        for s in tl.static_range(SCALES - 1):
            features = features + (scaled[s] * scaled[s + 1],)
    FIRST: tl.constexpr = UNITS + (
        2 * SCALES - 1 if PRODUCTS else SCALES
    )  # column of the first log magnitude
    for k in tl.static_range(FIRST - UNITS):
        _add_up(sums, UNITS + k, features[k], inside)
    mean = tl.zeros((), tl.float32)
    totals = (mean,)
    for s in tl.static_range(1, SCALES):
        features = features + (logs[s] - logs[0],)
        total = tl.sum(tl.where(inside, logs[s] - logs[0], 0.0), axis=0)
        totals = totals + (total,)
        mean += total / SCALES
    for s in tl.static_range(SCALES):
        tl.store(sums + FIRST + s, totals[s] - mean)
    _add_up(sums, FIRST + SCALES, relative, inside)
    return features + (relative,)


@triton.jit
def _recur(row, weights, bias, features, at, size, lanes, inside, written, seed, SLOT: tl.constexpr,
           INPUTS: tl.constexpr, UNITS: tl.constexpr):  # fmt: skip
    """The parameter RNN: h <- u h + (1 - u) tanh(a)."""
    address, noise = tl.load(row + HIDDEN), _noise(seed, 0)
    before = ()
    for u in tl.static_range(UNITS):
        before = before + (_load(address, at + u * size, lanes, inside, SLOT),)
    keep = _gate(weights, bias, features + before, KEEP, GATE_FACTOR, INPUTS, UNITS)
    reset = _gate(weights, bias, features + before, RESET, GATE_FACTOR, INPUTS, UNITS)
    carried = ()
    for u in tl.static_range(UNITS):
        carried = carried + (before[u] / (1.0 + tl.exp2(reset[u])),)
    candidate = _gate(weights, bias, features + carried, CANDIDATE, CANDIDATE_FACTOR, INPUTS, UNITS)
    hidden = ()
    for u in tl.static_range(UNITS):
        new = 1.0 - 2.0 / (1.0 + tl.exp2(candidate[u]))
        h = new + (before[u] - new) / (1.0 + tl.exp2(keep[u]))
        _store(address, at + u * size, lanes, written, h, _hash(noise + u * 97), SLOT)
        hidden = hidden + (h,)
    return hidden


@triton.jit
def sweep(table, gradients, steps_taken, tensor_of_block, first_block, weights, biases, means, floors, sound, partial,
          GRADIENT: tl.constexpr, SLOT: tl.constexpr, UNITS: tl.constexpr, SCALES: tl.constexpr,
          PRODUCTS: tl.constexpr, ASINH: tl.constexpr, BLOCK: tl.constexpr):  # fmt: skip
    """One block of one tensor: step its slots, write the steps before normalisation and the block's row of sums."""
    FEATURES: tl.constexpr = SCALES + (2 * SCALES - 1 if PRODUCTS else SCALES)  # without a magnitude
    INPUTS: tl.constexpr = FEATURES + UNITS
    SUMS: tl.constexpr = INPUTS + 4
    n = tl.load(tensor_of_block + tl.program_id(0))
    at = (tl.program_id(0) - tl.load(first_block + n)).to(tl.int64) * BLOCK
    row, bias, sums = table + n * COLUMNS, biases + n * 3 * UNITS, partial + tl.program_id(0) * SUMS
    readout, limits = (
        weights + 3 * INPUTS * UNITS,
        weights + 3 * INPUTS * UNITS + (UNITS + 1 + SCALES) * READOUTS,
    )
    size = tl.load(row + SIZE)
    lanes = tl.arange(0, BLOCK)
    left = tl.minimum(size - at, BLOCK).to(tl.int32)
    inside, written = lanes < left, lanes < left * tl.load(sound)
    seed = lanes.to(tl.uint32)  # of the chance by which bfloat16 is rounded
    if SLOT == tl.bfloat16:
        position = (tl.load(row + POSITION) + at).to(tl.uint32) + seed
        seed = position * 2654435761 + tl.load(steps_taken + n).to(tl.uint32) * 40503
    g = _load(tl.load(gradients + n), at, lanes, inside, GRADIENT)
    g = tl.where(tl.load(row + NEGATED) != 0, -g, g)
    g = _between(g, -tl.load(limits + 3), tl.load(limits + 3))
    before = _load(tl.load(row + LOG_RATE), at, lanes, inside, SLOT)
    scaled, logs = _averages(row, g, at, size, lanes, inside, written, seed, SLOT, SCALES, ASINH)
    relative = before - tl.load(means + n)
    features = _inputs(scaled, logs, relative, sums, inside, PRODUCTS, SCALES, UNITS)
    hidden = _recur(row, weights, bias, features, at, size, lanes, inside, written, seed, SLOT, INPUTS, UNITS)
    for u in tl.static_range(UNITS):
        _add_up(sums, u, hidden[u], inside)
    limit, least = tl.load(limits + 2), tl.load(floors + n)
    log_step = _between(before + _read_out(readout, hidden, scaled, LOG_STEP, UNITS, SCALES), -limit, limit)
    direction = _read_out(readout, hidden, scaled, DIRECTION, UNITS, SCALES)
    rate = log_step + tl.load(limits) * (before - log_step)
    rate = tl.where(rate < least, least, rate)
    _store(tl.load(row + LOG_RATE), at, lanes, written, rate, _noise(seed, 5), SLOT)
    for column in tl.static_range(GRADIENT_LOGIT, SQUARE_LOGIT + 1):
        logit = _read_out(readout, hidden, scaled, column, UNITS, SCALES)
        decay = _between(1.0 / (1.0 + tl.exp2(logit)), tl.load(limits + 4), tl.load(limits + 5))
        _store(tl.load(row + 3 + column), at, lanes, written, decay, _noise(seed, 2 + column), SLOT)
    step = tl.exp(log_step + tl.load(limits + 1)) * direction
    _store(tl.load(row + STEP), at, lanes, inside, step, seed, tl.float32)
    _add_up(sums, SUMS - 3, direction * direction, inside)
    _add_up(sums, SUMS - 2, rate, inside)
    _add_up(sums, SUMS - 1, tl.abs(g), inside)


@triton.jit
def add_rows(rows, first_row, counts, sums, WIDTH: tl.constexpr, PADDED: tl.constexpr, TILE: tl.constexpr):
    """Sums of neighbouring rows: `counts` from `first_row` on, one program for each such group."""
    group = tl.program_id(0)
    first, count = tl.load(first_row + group), tl.load(counts + group)
    column, lanes = tl.arange(0, PADDED), tl.arange(0, TILE)
    total = tl.zeros((PADDED,), tl.float32)
    for at in range(0, count, TILE):
        inside = (at + lanes < count)[:, None] & (column < WIDTH)[None, :]
        found = tl.load(
            rows + (first + at + lanes)[:, None] * WIDTH + column[None, :], mask=inside, other=0.0
        )
        total += tl.sum(found, axis=0)
    tl.store(sums + group * WIDTH + column, total, mask=column < WIDTH)


@triton.jit
def finish(table, tensor_of_block, first_block, scales, kept, sound, NUMBER: tl.constexpr,
           BLOCK: tl.constexpr):  # fmt: skip
    """One block of one parameter: kept theta - scale step, rounded once."""
    n = tl.load(tensor_of_block + tl.program_id(0))
    at = (tl.program_id(0) - tl.load(first_block + n)).to(tl.int64) * BLOCK
    row = table + n * COLUMNS
    lanes = tl.arange(0, BLOCK)
    inside = lanes < tl.minimum(tl.load(row + SIZE) - at, BLOCK).to(tl.int32) * tl.load(sound)
    theta = _load(tl.load(row + PARAMETER), at, lanes, inside, NUMBER)
    step = _load(tl.load(row + STEP), at, lanes, inside, tl.float32)
    theta = tl.load(kept + n) * theta - tl.load(scales + n) * step
    pointer = tl.load(row + PARAMETER).to(tl.pointer_type(NUMBER)) + at
    tl.store(pointer + lanes, theta.to(NUMBER), mask=inside)
