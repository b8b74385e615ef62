"""The kernel of a configuration, compiled at first use by `factotum.core.native_build`.

What it does not know: what the kernel computes (native.cpp), and who calls it (native.py).
"""

from __future__ import annotations

import ctypes
import functools
import logging
import subprocess
from collections.abc import Sequence
from pathlib import Path

from factotum.core import native_build
from factotum.core.native_build import SWITCH as SWITCH
from factotum.core.native_build import BuildError as BuildError
from factotum.core.native_build import cache_folder as cache_folder
from factotum.core.native_build import check_switch
from factotum.optim.config import HierarchicalRNNConfig

SOURCES = ("native.cpp", "native_memory.h", "native_threads.h", "native_vectors.h")

log = logging.getLogger("factotum.optim")


def definitions(config: HierarchicalRNNConfig) -> list[str]:
    """What of a configuration is compiled in.

    >>> definitions(HierarchicalRNNConfig())
    ['-DUNITS=10', '-DSCALES=4', '-DPRODUCTS=1', '-DASINH=1', '-DATTENTION=0']
    """
    values = {
        "UNITS": config.parameter_units,
        "SCALES": config.scales,
        "PRODUCTS": int(config.gradient_products),
        "ASINH": int(config.squash == "asinh"),
        "ATTENTION": int(config.attention),
    }
    return [f"-D{name}={value}" for name, value in values.items()]


def library(config: HierarchicalRNNConfig) -> ctypes.CDLL:
    """The kernel for a configuration, compiled if it has not been on this machine.

    Raises:
        BuildError: it is switched off, there is no compiler, or compiling failed.
    """
    check_switch()
    found = _load(tuple(definitions(config)))
    if isinstance(found, str):
        raise BuildError(found)
    return found


@functools.cache
def _load(defined: tuple[str, ...]) -> ctypes.CDLL | str:
    """The library, or why there is none; asked once a process, and said once."""
    try:
        return _declare(ctypes.CDLL(str(build("kernel", SOURCES, defined))))
    except (BuildError, OSError, subprocess.SubprocessError) as error:
        reason = str(error)
        log.warning("the optimizer runs without its native kernel: %s", reason)
        return reason


def build(name: str, sources: Sequence[str], defined: Sequence[str]) -> Path:
    """`factotum.core.native_build.build` of sources of this folder."""
    return native_build.build(name, [Path(__file__).parent / source for source in sources], defined)


def _declare(found: ctypes.CDLL) -> ctypes.CDLL:
    pointer, integer = ctypes.c_void_p, ctypes.c_int64
    found.sweep.argtypes = [pointer, pointer, integer, pointer, pointer, pointer, integer, integer]
    found.finish.argtypes = [pointer, integer, pointer, pointer, integer]
    found.finite.argtypes = [pointer, integer, pointer, integer]
    found.evaluate.argtypes = [integer, pointer, pointer, integer]
    found.evaluate.restype = None
    for function in (found.sweep, found.finish, found.finite, found.weight_count, found.sum_count):
        function.restype = integer
    return found
