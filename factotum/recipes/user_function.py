"""A user's own function, by MODULE:FUNCTION."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable
from typing import Any

from factotum.core.checks import UserError, unknown


def load_function(option: str, name: str) -> Callable[..., Any]:
    """A user's function by MODULE:FUNCTION; the working folder is searched first.

    Args:
        option: what the error names.
        name: such as "my.module:build".

    Raises:
        UserError: no such module or function.

    >>> load_function("model", "math:sqrt")(4.0)
    2.0
    """
    module_name, colon, attribute = name.partition(":")
    if not (module_name and colon and attribute):
        raise UserError(f"{option}: expected MODULE:FUNCTION, got {name!r}")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise UserError(f"{option}: cannot import {module_name}: {error}") from error
    function = getattr(module, attribute, None)
    if not callable(function):
        public = [one for one in dir(module) if callable(getattr(module, one)) and not one.startswith("_")]
        raise unknown(f"function in {module_name}", attribute, public)
    return function
