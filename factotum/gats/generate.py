"""Writing with one steered component: its next id from what all components have seen, again and again.

What it does not know: what ids mean (text, codes of an image, actions). Letters: B rows, T elements, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from factotum.core.checks import UserError, unknown
from factotum.gats.component import Features
from factotum.gats.decode import GATSDecoder, Moment
from factotum.gats.sampling import Guidance, Sampling, choose, guide
from factotum.gats.state import DecodeState

Scores = Callable[[Any], Tensor]
"""From what a component returns to scores of ids, `B T V`."""


def logits_of(output: Any) -> Tensor:
    """The scores of models with a head: `output.logits`.

    Raises:
        UserError: there are none.

    >>> logits_of({"logits": torch.zeros(1, 2, 3)}).shape
    torch.Size([1, 2, 3])
    """
    found = output.get("logits") if hasattr(output, "get") else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise UserError(
            f"expected an output with logits, got {type(output).__name__}: give scores=..., from a component's output "
            "to scores of its ids"
        )
    return found


@dataclass
class WriterState:
    """The carried state: what was seen, and the same without the condition where there is guidance."""

    given: DecodeState
    free: DecodeState | None

    def reset_rows(self, rows: Int[Tensor, " R"]) -> None:
        """Begin anew in the given rows."""
        for state in (self.given, self.free):
            if state is not None:
                state.reset_rows(rows)

    def select(self, rows: Int[Tensor, " R"]) -> WriterState:
        """A copy with the given rows."""
        return WriterState(self.given.select(rows), None if self.free is None else self.free.select(rows))


class Writer:
    """Scores of a component's next id; a `factotum.core.step.Core` whose inputs are `Moment`s.

    Args:
        decoder: runs the model.
        component: steered, with scores among what it returns.
        guidance: scores are pushed along what one component changes; every step then runs twice, with and without
            it (encoders that are not steered run once). Train with that component hidden now and then
            (`GATSObjective.hidden`).
        scores: reads the component's output.

    Raises:
        UserError: unknown components, one that is not steered or is its own condition.
    """

    def __init__(
        self,
        decoder: GATSDecoder,
        component: str,
        *,
        guidance: Guidance | None = None,
        scores: Scores = logits_of,
    ) -> None:
        named = [component] + ([guidance.condition] if guidance else [])
        for name in named:
            if name not in decoder.towers:
                raise unknown("component", name, decoder.towers)
        if not decoder.towers[component].steered:
            raise UserError(f"component {component!r}: expected a steered one to generate in")
        if guidance and guidance.condition == component:
            raise UserError(f"guidance: expected another component than {component!r} as the condition")
        self.decoder, self.component, self.scores = decoder, component, scores
        self.guidance = guidance if guidance and guidance.weight != 0.0 else None

    def initial_state(self, batch_size: int) -> WriterState:
        """Nothing seen yet in any of `batch_size` rows."""
        start = self.decoder.initial_state
        return WriterState(start(batch_size), start(batch_size) if self.guidance else None)

    def step(
        self, inputs: Moment | tuple[Any, ...], state: WriterState
    ) -> tuple[Float[Tensor, "B V"] | None, WriterState]:
        """Scores after each row's last new element of the component; None where the moment has none of it.

        Raises:
            UserError: as `GATSDecoder.step`.
        """
        moment = Moment(*inputs)
        if self.guidance is None or state.free is None:
            return self._scores(moment, state.given), state
        moment = self._encoded(moment)
        given_BV = self._scores(moment, state.given)
        free_BV = self._scores(without(moment, self.guidance.condition), state.free)
        if given_BV is None or free_BV is None:
            return None, state
        return guide(given_BV, free_BV, self.guidance.weight), state

    def _scores(self, moment: Moment, state: DecodeState) -> Tensor | None:
        if not moment.inputs:
            return None
        outputs, _ = self.decoder.step(moment, state)
        if self.component not in outputs:
            return None
        scores_BTV = self.scores(outputs[self.component])
        last_B = last_elements(moment, self.component, scores_BTV.shape[1]).to(scores_BTV.device)
        return scores_BTV[torch.arange(len(last_B), device=last_B.device), last_B]

    @torch.no_grad()
    def _encoded(self, moment: Moment) -> Moment:
        """Both passes share what encoders give that nothing steers."""
        inputs = dict(moment.inputs)
        for name, given in moment.inputs.items():
            tower = self.decoder.towers.get(name)
            if tower is None or tower.steered or isinstance(given, Features) or not tower.bidirectional:
                continue
            inputs[name] = tower.features(given)
        return moment._replace(inputs=inputs)


def generate(
    writer: Writer,
    prompt: Moment | Iterable[Moment],
    count: int,
    *,
    sampling: Sampling | None = None,
    generator: torch.Generator | None = None,
    end: int | None = None,
    interval: float = 1.0,
    argument: str = "input_ids",
) -> Int[Tensor, "B count"]:
    r"""Ids that follow a prompt: $y_k \sim p(y_k \mid \text{prompt}, y_{<k})$, fed back as the component's inputs.

    Args:
        writer: a model and the component that writes.
        prompt: one or more moments; the last one holds the component's first ids (of a text its beginning, or the id
            with which it begins).
        count: ids to generate.
        sampling: greedy by default.
        generator: draws the ids, above temperature 0.
        end: the id after which a row is over; behind it all ids are `end`.
        interval: between arrival times of one id and the next; the first comes that long after the row's last element.
        argument: of the component's forward, for ids.

    Raises:
        UserError: no count, a prompt without the component's own first ids, or as `Writer.step`.
    """
    if count < 1:
        raise UserError(f"count: expected at least 1 id to generate, got {count}")
    if not 0.0 < interval < float("inf"):
        raise UserError(f"interval: expected a positive time between ids, got {interval}")
    moments = [prompt] if isinstance(prompt, Moment) else list(prompt)
    name, sampling = writer.component, sampling or Sampling()
    if not moments or name not in moments[-1].inputs:
        raise UserError(f"prompt: expected the last moment to hold the first ids of component {name!r}")
    state, scores_BV = writer.initial_state(len(moments[-1].times[name])), None
    for moment in moments:
        scores_BV, state = writer.step(moment, state)
    time_B1 = state.given.latest_BM.amax(1, keepdim=True)
    going_B, written = torch.ones(len(time_B1), dtype=torch.bool, device=time_B1.device), []
    while True:
        assert scores_BV is not None
        ids_B = choose(scores_BV, sampling, generator)
        if end is not None:
            ids_B = ids_B.where(going_B.to(ids_B.device), end)
            going_B = going_B & (ids_B != end).to(going_B.device)
        written.append(ids_B)
        if len(written) == count or not bool(going_B.any()):
            break
        time_B1 = time_B1 + interval
        time_now = {name: time_B1.masked_fill(~going_B[:, None], float("nan"))}
        scores_BV, state = writer.step(Moment({name: {argument: ids_B[:, None]}}, time_now), state)
    missing = [written[-1]] * (count - len(written))
    return torch.stack([*written, *missing], 1)


def without(moment: Moment, name: str) -> Moment:
    """What arrives, but for one component."""
    parts: list[Any] = [part and {key: part[key] for key in part if key != name} for part in moment]
    return Moment(*parts)


def last_elements(moment: Moment, name: str, elements: int) -> Int[Tensor, " B"]:
    """The place of each row's last new element of a component that has one row for each batch element.

    >>> times = torch.tensor([[0.0, 1.0], [0.0, float("nan")]])
    >>> last_elements(Moment({"text": {}}, {"text": times}), "text", 2)
    tensor([1, 0])
    """
    there_BS = ~moment.times[name].isnan()
    present, given = (moment.present or {}).get(name), moment.inputs[name]
    if present is not None:
        there_BS = there_BS & present.to(there_BS.device).bool()
    mask = None if isinstance(given, Features) else given.get("attention_mask")
    there_BT = there_BS.expand(-1, elements)
    if isinstance(mask, Tensor) and mask.shape == there_BT.shape:
        there_BT = there_BT & mask.to(there_BT.device).bool()
    places_T = torch.arange(elements, device=there_BT.device)
    return (there_BT * places_T).amax(1)
