"""Pieces that several suites share: spaces, wrappers, limits on experts, measured references."""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import string
import threading
from collections.abc import Callable, Iterator
from functools import lru_cache
from importlib.resources import files
from importlib.util import find_spec
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from factotum.core.checks import missing_extra
from factotum.worlds.suites.task import ExpertFailure, Reference

INSTRUCTION_LENGTH = 256
"""Characters an instruction may have where a suite does not say otherwise."""


def text_space(max_length: int = INSTRUCTION_LENGTH) -> spaces.Text:
    """Printable ASCII text of 0 to `max_length` characters.

    >>> "go to the red ball" in text_space(32)
    True
    """
    return spaces.Text(max_length, min_length=0, charset=string.printable)


def with_instruction(instruction_length: int = INSTRUCTION_LENGTH, **entries: spaces.Space) -> spaces.Dict:
    """The observation space of a task: an instruction beside the given entries.

    >>> sorted(with_instruction(state=spaces.Discrete(3)))
    ['instruction', 'state']
    """
    return spaces.Dict({"instruction": text_space(instruction_length), **entries})


def state_space(size: int, low: float = -np.inf, high: float = np.inf) -> spaces.Box:
    """A vector of `size` float32 numbers."""
    return spaces.Box(low, high, (size,), np.float32)


class Instructed(gymnasium.Wrapper):
    """Turns an environment's observation into a Dict that carries a constant instruction.

    Args:
        env: the environment.
        instruction: what to do, in words.
        space: the declared observation space (a Dict with "instruction").
        entries: turns the environment's observation into the other entries of the Dict;
            by default `{"state": float32 vector}`.
        success: reads success from `(terminated, info)`. When given, `info["success"]` is set at
            each step and the episode terminates at the first success.
    """

    def __init__(
        self,
        env: gymnasium.Env,
        instruction: str,
        space: spaces.Dict,
        entries: Callable[[Any], dict[str, Any]] | None = None,
        success: Callable[[bool, dict[str, Any]], bool] | None = None,
    ) -> None:
        super().__init__(env)
        self.instruction = instruction
        self.observation_space = space
        self._entries = entries or state_entry
        self._success = success

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict]:
        """See `gymnasium.Env.reset`."""
        observation, info = self.env.reset(seed=seed, options=options)
        return self._dress(observation), info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict]:
        """See `gymnasium.Env.step`."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        if self._success is not None:
            success = bool(self._success(terminated, info))
            info = {**info, "success": success}
            terminated = terminated or success
        return self._dress(observation), float(reward), bool(terminated), bool(truncated), info

    def _dress(self, observation: Any) -> dict[str, Any]:
        return {"instruction": self.instruction, **self._entries(observation)}


def state_entry(observation: Any) -> dict[str, Any]:
    """A vector observation as the "state" entry: a float32 copy."""
    return {"state": np.array(observation, np.float32)}


def require(module: str, extra: str) -> None:
    """Raise the error that names the install command when `module` cannot be imported."""
    if find_spec(module) is None:
        raise missing_extra(extra, module)


def render_offscreen() -> None:
    """Choose headless renderers (MuJoCo's, SDL's) unless the user or a display has chosen; call before rendering."""
    if "DISPLAY" not in os.environ:
        os.environ.setdefault("MUJOCO_GL", "egl")
        os.environ.setdefault("SDL_VIDEODRIVER", "dummy")


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Swallow what Python code prints to standard output (some level generators print without end)."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise `ExpertFailure` inside the block once it has run for `seconds` of wall-clock time.

    Signals reach the main thread only: elsewhere the block runs without a limit. An alarm that
    was set before keeps its handler and what is left of its time.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: Any) -> None:
        raise ExpertFailure(f"no answer within {seconds:g} s")

    handler = signal.signal(signal.SIGALRM, stop)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, left, interval)
        signal.signal(signal.SIGALRM, handler)


@lru_cache(maxsize=1)
def _measured() -> dict[str, dict[str, dict[str, Any]]]:
    file = files("factotum.worlds.suites").joinpath("references.json")
    return json.loads(file.read_text(encoding="utf-8"))["tasks"]


def reference(task_name: str, kind: str) -> Reference | None:
    """The measured score of a task's "random" or "expert" play, or None where not measured.

    Args:
        task_name: full name of the task.
        kind: "random" or "expert".
    """
    entry = _measured().get(task_name, {}).get(kind)
    return None if entry is None else Reference(float(entry["score"]), entry["source"])
