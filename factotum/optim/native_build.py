"""Compiles the kernel with the system's own C++ compiler at first use, into the user's cache folder.

A plain shared object without headers of torch: seconds to compile, and it fits any version of torch. Its name is a
hash of the sources, the options, the compiler and the processor, so nothing stale is ever loaded; it is written aside
and renamed, so that processes that start together do not disturb each other.

What it does not know: what the kernel computes (native.cpp), and who calls it (native.py).
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from factotum.optim.config import HierarchicalRNNConfig

SWITCH = "FACTOTUM_NATIVE"
"""Environment variable: 0 switches the kernel off."""

SOURCES = ("native.cpp", "native_memory.h", "native_threads.h", "native_vectors.h")
OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread", "-w")
WISHED = (
    ("-march=native", "-mcpu=native", ""),
    ("-fno-tree-loop-distribute-patterns", ""),
)
"""Of each the first that the compiler takes: speed hangs on them, results do not. The processor's own instructions;
copies of a few vectors must not become calls of memcpy."""

LONGEST_BUILD = 120.0
"""Seconds after which a compiler is given up."""

log = logging.getLogger("factotum.optim")


class BuildError(Exception):
    """Why there is no kernel, in one line."""


def compiler() -> str | None:
    """Path of the C++ compiler: the environment's CXX, else c++, g++ or clang++; None where there is none."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


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
    if os.environ.get(SWITCH, "") == "0":
        raise BuildError(f"it is switched off by {SWITCH}=0")
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
    """The shared object of some sources of this folder, compiled if it has not been on this machine.

    Args:
        name: what the file's name begins with.
        sources: the file to compile and those that it includes.
        defined: further options, as of `definitions`.

    Raises:
        BuildError: there is no compiler, or compiling failed.
        OSError: nothing can be written anywhere.
    """
    path, folder = compiler(), Path(__file__).parent
    if path is None:
        raise BuildError("there is no C++ compiler: install one (c++, g++ or clang++), or set CXX")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    texts = [(folder / source).read_text() for source in sources]
    digest = hashlib.sha256("\0".join([path, version, _processor(), *OPTIONS, *defined, *texts]).encode())
    file = cache_folder() / f"{name}-{digest.hexdigest()[:24]}.so"
    if not file.exists():
        _compile(path, defined, folder / sources[0], file)
    return file


def _compile(path: str, defined: Sequence[str], source: Path, file: Path) -> None:
    log.info("compiling the optimizer's native kernel with %s (once on this machine) into %s", path, file)
    handle, aside = tempfile.mkstemp(prefix=f".{file.stem}.", suffix=file.suffix, dir=file.parent)
    os.close(handle)
    failed = ""
    try:
        for wished in product(*WISHED):
            options = [*OPTIONS, *filter(None, wished), *defined]
            command = [path, *options, str(source), "-o", aside]
            ran = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_BUILD)
            if ran.returncode == 0:
                os.replace(aside, file)
                return
            failed = failed or ran.stderr
    finally:
        Path(aside).unlink(missing_ok=True)
    lines = [line for line in failed.splitlines() if "error" in line] or failed.splitlines() or ["no message"]
    raise BuildError(f"{path} could not compile it: {lines[0].strip()}")


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


def cache_folder() -> Path:
    """Where compiled kernels are kept: `factotum` in the user's cache, or a folder of this process's own.

    Raises:
        OSError: nothing can be written anywhere.
    """
    home = os.environ.get("XDG_CACHE_HOME") or str(Path("~/.cache").expanduser())
    folder = Path(home) / "factotum"
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return folder
    except OSError:
        return _own_folder()


@functools.cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="factotum-"))


def _processor() -> str:
    """What machine code this processor runs."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = [platform.processor()]
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(
        [platform.system(), platform.machine(), *sorted({x for x in lines if x.startswith(wanted)})]
    )
