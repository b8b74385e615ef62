"""What is a trial's value? The last number that a command prints, or what a Python function returns."""

from __future__ import annotations

import inspect
import json
import re
import shlex
import shutil
import subprocess
from collections.abc import Callable, Mapping
from typing import Any

from factotum.core.checks import UserError, unknown
from factotum.recipes.user_function import load_function
from factotum.samplers.study import suggest

NUMBER = re.compile(
    r"(?<![\w.])[-+]?(?:(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?|nan|inf(?:inity)?)(?![\w])", re.IGNORECASE
)
PLACE = re.compile(r"\{(\w+)\}")
TRIAL = "trial"
"""Placeholder of the trial's number."""


def command_objective(
    command: str,
    space: Mapping[str, Any],
    *,
    pattern: str | None = None,
    key: str | None = None,
    timeout: float | None = None,
) -> Callable[[Any], float]:
    """An objective that runs a command, with a parameter's value in place of its name in braces.

    Args:
        command: split as a shell would, but run without one; {trial} is the trial's number.
        space: distributions by parameter.
        pattern: regular expression whose last match (its first group, if it has one) in the output is the value.
        key: of the last line of the output that is a JSON object; its entry is the value.
        timeout: seconds after which a trial fails.

    Returns:
        A function of Optuna's trial.

    Raises:
        UserError: the program is not found, a name in braces is no parameter, a parameter is not used, or the
            pattern does not compile.
    """
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise UserError(f"command: expected words in matching quotes, got {command!r}") from error
    if not words or shutil.which(words[0]) is None:
        raise UserError(
            f"command: expected a program that can be run, got {words[0] if words else command!r}"
        )
    used = {name for word in words for name in PLACE.findall(word)}
    for name in sorted(used - {TRIAL}):
        if name not in space:
            raise unknown("parameter in the command", name, space)
    if unused := [name for name in space if name not in used]:
        raise UserError(f"command: expected every parameter in braces, found no {{{unused[0]}}}")
    read = _reader(pattern, key)

    def objective(trial: Any) -> float:
        values = {TRIAL: trial.number, **suggest(trial, space)}
        filled = [PLACE.sub(lambda match: str(values[match[1]]), word) for word in words]
        return read(_output(filled, timeout))

    return objective


def _output(words: list[str], timeout: float | None) -> str:
    try:
        ran = subprocess.run(words, capture_output=True, text=True, errors="replace", timeout=timeout)
    except subprocess.TimeoutExpired as error:
        raise UserError(f"the command took longer than {timeout:g} seconds") from error
    if ran.returncode:
        said = (ran.stderr.strip() or ran.stdout.strip()).splitlines()
        raise UserError(f"the command ended with {ran.returncode}: {said[-1] if said else '(no output)'}")
    return ran.stdout


def _reader(pattern: str | None, key: str | None) -> Callable[[str], float]:
    if pattern is not None and key is not None:
        raise UserError("expected a pattern or a key, got both")
    if key is not None:
        return lambda text: read_key(text, key)
    try:
        compiled = NUMBER if pattern is None else re.compile(pattern, re.MULTILINE)
    except re.error as error:
        raise UserError(f"pattern: expected a regular expression, got {pattern!r}: {error}") from error
    return lambda text: read_number(text, compiled)


def read_number(text: str, pattern: re.Pattern[str] = NUMBER) -> float:
    """The last match as a number.

    Raises:
        UserError: there is none.

    >>> read_number("epoch 9 loss=0.5 acc 1e-3 (v2)")
    0.001
    """
    found = [match[1] if match.re.groups else match[0] for match in pattern.finditer(text)]
    if not found:
        raise UserError(f"expected a number in the command's output, got {_end_of(text)}")
    try:
        return float(found[-1])
    except (ValueError, TypeError) as error:
        raise UserError(f"expected the pattern to find a number, it found {found[-1]!r}") from error


def read_key(text: str, key: str) -> float:
    """An entry of the last line that is a JSON object.

    Raises:
        UserError: there is no such line, or no number of that name in it.

    >>> read_key('start' + chr(10) + '{"loss": 0.25, "epoch": 3}' + chr(10) + 'done', "loss")
    0.25
    """
    for line in reversed(text.splitlines()):
        try:
            entries = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(entries, dict):
            value = entries.get(key)
            if not isinstance(value, int | float):
                raise UserError(f"expected a number {key!r} in the last JSON line, got {sorted(entries)}")
            return float(value)
    raise UserError(f"expected a JSON object in a line of the command's output, got {_end_of(text)}")


def _end_of(text: str) -> str:
    lines = text.strip().splitlines()
    return repr(lines[-1][-80:]) if lines else "nothing"


def callable_objective(name: str, space: Mapping[str, Any]) -> Callable[[Any], float]:
    """An objective that calls a Python function with the parameters by name.

    Args:
        name: MODULE:FUNCTION; the working folder is searched first. A function of one argument called `trial` gets
            Optuna's trial, to report values while it runs or to suggest more parameters.
        space: distributions by parameter.

    Raises:
        UserError: no such module or function, or it does not take the parameters.
    """
    function = load_function("callable", name)
    signature = inspect.signature(function)
    if list(signature.parameters) == [TRIAL] and TRIAL not in space:
        return lambda trial: (suggest(trial, space), function(trial))[1]
    try:
        signature.bind(**dict.fromkeys(space))
    except TypeError as error:
        raise UserError(f"callable: {name} does not take the search space's parameters: {error}") from error
    return lambda trial: function(**suggest(trial, space))
