"""A whole sequence cut into moments, and what both ways of running it give, element by element.

`Stream` is one component's data: inputs with one entry for each element (or row of an encoder) of each batch element.
"""

from dataclasses import dataclass, field

import torch

from factotum.gats.decode import GATSDecoder, Moment


@dataclass
class Stream:
    """One component's elements: `values[key]` is `B N ...`, `times` is `B N` with NaN behind each row's last one.

    Encoders have one entry a row of theirs (a frame); the axis of batch elements and that of rows become one.
    """

    values: dict[str, torch.Tensor]
    times: torch.Tensor
    rows: bool = False
    same: dict[str, torch.Tensor] = field(default_factory=dict)

    def inputs(self):
        moving = {key: value.flatten(0, 1) if self.rows else value for key, value in self.values.items()}
        return moving | self.same

    def between(self, low_B, high_B):
        """Elements that arrive in (low, high], moved to the front of their row; None where there are none."""
        inside = (self.times > low_B[:, None]) & (self.times <= high_B[:, None])
        most = int(inside.sum(1).max())
        if most == 0:
            return None
        order = (~inside).int().argsort(dim=1, stable=True)[:, :most]
        kept = inside.gather(1, order)
        times = self.times.gather(1, order).masked_fill(~kept, float("nan"))
        values = {
            key: torch.stack([row[at] for row, at in zip(value, order, strict=True)])
            for key, value in self.values.items()
        }
        return Stream(values, times, self.rows, self.same), kept, order


def forward(model, streams):
    """The whole sequence at once."""
    with torch.no_grad():
        return model(
            {name: stream.inputs() for name, stream in streams.items()},
            {name: stream.times for name, stream in streams.items()},
        )


def stepwise(decoder, streams, cuts_KB, state=None):
    """The sequence in moments that end at `cuts_KB`; outputs put back in their places, NaN elsewhere."""
    B = cuts_KB.shape[1]
    state = decoder.initial_state(B) if state is None else state
    found = {}
    low = torch.full((B,), float("-inf"))
    for high in cuts_KB:
        parts = {name: stream.between(low, high) for name, stream in streams.items()}
        parts = {name: part for name, part in parts.items() if part is not None}
        low = high
        if not parts:
            continue
        moment = Moment(
            {name: part.inputs() for name, (part, _, _) in parts.items()},
            {name: part.times for name, (part, _, _) in parts.items()},
        )
        outputs, state = decoder.step(moment, state)
        for name, (part, kept, order) in parts.items():
            hidden = hidden_of(outputs[name])
            hidden = hidden.unflatten(0, (B, -1)) if part.rows else hidden
            whole = found.setdefault(
                name, torch.full((*streams[name].times.shape, *hidden.shape[2:]), float("nan"))
            )
            for b in range(B):
                whole[b, order[b, kept[b]]] = hidden[b, kept[b]]
    return found, state


def hidden_of(output):
    if isinstance(output, torch.Tensor):
        return output
    return output["logits" if "logits" in output else "last_hidden_state"]


def random_times(counts, elements, *, length, generator, ties=True):
    """Sorted arrival times in [0, length], `counts[b]` of them in row b; ties within and between components."""
    times = torch.rand(len(counts), elements, generator=generator) * length
    times = (times.round() if ties else times).sort(1).values
    for row, count in zip(times, counts, strict=True):
        row[count:] = float("nan")
    return times


def each_unit(length, rows):
    """Cuts at 0, 1, ..., length."""
    return torch.arange(length + 1.0)[:, None].expand(-1, rows)


def assert_equal_elements(model, streams, cuts_KB, *, context=None, tolerance=1e-5, whole=None):
    """Every element's output by moments equals that of the forward."""
    whole = whole or forward(model, streams)
    found, state = stepwise(GATSDecoder(model, context), streams, cuts_KB)
    for name, stream in streams.items():
        there = ~stream.times.isnan()
        hidden = hidden_of(whole[name])
        hidden = hidden.unflatten(0, (len(there), -1)) if stream.rows else hidden
        assert found[name][there].isfinite().all()
        gap = (found[name] - hidden)[there].abs().max()
        assert gap < tolerance, (name, gap)
        each = hidden.shape[2] - model.towers[name].skip if stream.rows else 1
        assert state.count(name).tolist() == (there.sum(1) * each).tolist()
    return found, state
