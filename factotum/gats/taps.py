"""Where GATS layers touch the components, and how components wait for one another there.

A component's forward is never rewritten: forward hooks on its blocks, there for the length of one call, hand the
activations out and put others in their place. Where two or more components are steered, each needs what the
others have at the same relative depth, so none can run to its end before the others: their forwards alternate.
The last one runs in the caller's thread and each of the others in a thread of its own, used as a coroutine: at
any moment exactly one of them runs. So the order of all operations is fixed, random draws come in the same order,
and gradients, hooks and mixed precision are those of a plain call. With one steered component there are no
threads at all. Replaying the forward up to each graft would need no threads either, but repeats what stands
before the blocks, and its random draws, at each of them.

What it does not know: what is done with activations.
"""

from __future__ import annotations

import contextvars
import queue
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from factotum.core.checks import UserError

Stop = Callable[[int, Tensor], Tensor]
"""Called at each GATS layer, counted from 0, with a component's activations; gives those it goes on with."""


def grafts(depth: int, layers: int, rule: str = "round") -> tuple[int, ...]:
    r"""After which block, counted from 1, each GATS layer stands: $\mathrm{round}(l K_m / L)$, at least 1.

    Args:
        depth: K_m, blocks of the component.
        layers: L, GATS layers.
        rule: "round" (halves upwards) or "floor".

    >>> grafts(12, 6), grafts(4, 6), grafts(5, 2, "floor")
    ((2, 4, 6, 8, 10, 12), (1, 1, 2, 3, 3, 4), (2, 5))

    Source: proportional layer grafting (arXiv 2401.08525); the rounding is our choice.
    """
    half = layers if rule == "round" else 0
    return tuple(max(1, (2 * layer * depth + half) // (2 * layers)) for layer in range(1, layers + 1))


def tapped(
    name: str, call: Callable[[], Any], blocks: Sequence[nn.Module], where: Sequence[int], stop: Stop
) -> Any:
    """Call a component; at each graft its activations go through `stop`.

    Args:
        name: of the component, for errors.
        call: the component's forward with its arguments.
        blocks: its blocks in order.
        where: for each GATS layer, after which block it stands, counted from 1.

    Returns:
        What the component returns.

    Raises:
        UserError: a block with a graft did not run, ran twice, or gave no activations.
    """
    passed: list[int] = []
    thread = threading.get_ident()

    def hook(at: int, block: nn.Module, given: Any, output: Any) -> Any:
        if threading.get_ident() != thread:  # the same module, run by another component's thread
            return None
        hidden = changed = hidden_of(name, output)
        for layer in (layer for layer, block_number in enumerate(where) if block_number == at):
            if layer != len(passed):
                due = f"block {where[len(passed)]}" if len(passed) < len(where) else "the end"
                raise UserError(
                    f"component {name!r}: block {at} of {len(blocks)} ran where {due} was due (blocks that are "
                    "dropped at random, run twice or in another order?)"
                )
            passed.append(layer)
            changed = stop(layer, changed)
        return None if changed is hidden else with_hidden(output, changed)

    hooks = [blocks[at - 1].register_forward_hook(partial(hook, at)) for at in sorted(set(where))]
    try:
        result = call()
    finally:
        for handle in hooks:
            handle.remove()
    if len(passed) != len(where):
        raise UserError(
            f"component {name!r}: block {where[len(passed)]} of {len(blocks)} was not run (a block that is dropped "
            "at random, or a list that is not what the forward goes through?)"
        )
    return result


def hidden_of(name: str, output: Any) -> Tensor:
    """The activations in what a block returns: a tensor, or the first one in a tuple, list, dict or output object.

    >>> hidden_of("text", (torch.zeros(1, 2, 3), None)).shape
    torch.Size([1, 2, 3])
    """
    if isinstance(output, Tensor):
        return output
    for value in _values(output):
        if isinstance(value, Tensor):
            return value
    raise UserError(f"component {name!r}: expected a block to give a tensor, got {type(output).__name__}")


def with_hidden(output: Any, hidden: Tensor) -> Any:
    """What a block returned, with other activations; the object that it returned is left as it is.

    >>> with_hidden((torch.zeros(2), "cache"), torch.ones(2))
    (tensor([1., 1.]), 'cache')
    """
    if isinstance(output, Tensor):
        return hidden
    at = next(at for at, value in enumerate(_values(output)) if isinstance(value, Tensor))
    if isinstance(output, Mapping):
        changed = {key: hidden if place == at else value for place, (key, value) in enumerate(output.items())}
        return type(output)(**changed) if is_dataclass(output) else type(output)(changed)  # type: ignore[call-arg]
    if is_dataclass(output) and not isinstance(output, type):
        return replace(output, **{fields(output)[at].name: hidden})
    items = [hidden if place == at else value for place, value in enumerate(output)]
    return type(output)(*items) if hasattr(output, "_fields") else type(output)(items)


def _values(output: Any) -> list[Any]:
    if isinstance(output, Mapping):
        return list(output.values())
    if is_dataclass(output):
        return [getattr(output, field.name) for field in fields(output)]
    return list(output) if isinstance(output, tuple | list) else []


def lockstep(
    runs: Mapping[str, Callable[[Stop], Any]], exchange: Callable[[int, dict[str, Tensor]], dict[str, Tensor]]
) -> dict[str, Any]:
    """Run components together; at each GATS layer all of them wait until `exchange` has seen all activations.

    Args:
        runs: for each component, what runs it with a given `Stop`, for instance a partial of `tapped`.
        exchange: from a layer's number and each component's activations to those it goes on with.

    Returns:
        What each component returned. An error in any of them ends all of them and is raised here.

    >>> def run(start, stop): return stop(1, stop(0, start))
    >>> def swap(layer, x): return {"a": x["b"], "b": x["a"] + layer}
    >>> lockstep({"a": partial(run, torch.tensor(1)), "b": partial(run, torch.tensor(5))}, swap)
    {'a': tensor(1), 'b': tensor(6)}
    """
    *others, last = runs
    waiting = {name: _Coroutine(runs[name]) for name in others}

    def stop(layer: int, hidden: Tensor) -> Tensor:
        states = {name: coroutine.until(layer) for name, coroutine in waiting.items()}
        changed = exchange(layer, {**states, last: hidden})
        for name, coroutine in waiting.items():
            coroutine.reply = changed[name]
        return changed[last]

    try:
        output = runs[last](stop)
        return {**{name: coroutine.finish() for name, coroutine in waiting.items()}, last: output}
    finally:
        for coroutine in waiting.values():
            coroutine.cancel()


class _Cancelled(BaseException):
    """Raised inside a component whose call is given up because another one failed."""


class _Coroutine:
    """A component's call in a thread of its own that runs only while `until` or `finish` waits for it."""

    def __init__(self, run: Callable[[Stop], Any]) -> None:
        self.run = run
        self.reply: Tensor | None = None
        self.to_thread: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.from_thread: queue.SimpleQueue[tuple[str, Any]] = queue.SimpleQueue()
        self.thread: threading.Thread | None = None

    def until(self, layer: int) -> Tensor:
        """Let it run to its next stop, which is that of `layer`."""
        kind, value = self._advance()
        assert (kind, value[0] if kind == "stopped" else None) == ("stopped", layer)
        return value[1]

    def finish(self) -> Any:
        """Let it run to its end."""
        kind, value = self._advance()
        assert kind == "done", kind
        assert self.thread is not None
        self.thread.join()
        return value

    def cancel(self) -> None:
        """End its thread, if it still runs."""
        if self.thread is not None and self.thread.is_alive():
            self.to_thread.put(_Cancelled())
            self.thread.join()

    def _advance(self) -> tuple[str, Any]:
        if self.thread is None:
            context, state = contextvars.copy_context(), _torch_state()
            self.thread = threading.Thread(target=context.run, args=(self._body, state), daemon=True)
            self.thread.start()
        else:
            self.to_thread.put(self.reply)
        kind, value = self.from_thread.get()
        if kind == "failed":
            raise value
        return kind, value

    def _body(self, state: Callable[[ExitStack], None]) -> None:
        try:
            with ExitStack() as stack:
                state(stack)
                answer = ("done", self.run(self._stop))
        except _Cancelled:
            return
        except BaseException as error:
            answer = ("failed", error)
        self.from_thread.put(answer)

    def _stop(self, layer: int, hidden: Tensor) -> Tensor:
        self.from_thread.put(("stopped", (layer, hidden)))
        reply = self.to_thread.get()
        if isinstance(reply, _Cancelled):
            raise reply
        return reply


def _torch_state() -> Callable[[ExitStack], None]:
    """What torch keeps for each thread, to be entered in another one: gradients, mixed precision, device, stream."""
    grad, inference = torch.is_grad_enabled(), torch.is_inference_mode_enabled()
    kinds = ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    casts = [(kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)) for kind in kinds]
    cached = torch.is_autocast_cache_enabled()
    stream = torch.cuda.current_stream() if torch.cuda.is_initialized() else None

    def enter(stack: ExitStack) -> None:
        stack.enter_context(torch.inference_mode(inference))
        stack.enter_context(torch.set_grad_enabled(grad))
        for kind, enabled, dtype in casts:
            if enabled:
                stack.enter_context(torch.autocast(kind, dtype=dtype, cache_enabled=cached))
        if stream is not None:
            stack.enter_context(torch.cuda.stream(stream))

    return enter
