"""Compiles a kernel with the system's own C++ compiler at first use, into the user's cache folder.

A plain shared object without headers of torch: seconds to compile, and it fits any version of torch. Its name is a
hash of the sources, the options, the compiler and the processor, so nothing stale is ever loaded; it is written aside
and renamed, so that processes that start together do not disturb each other.

What it does not know: what a kernel computes, and who calls it.
"""

from __future__ import annotations

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

SWITCH = "FACTOTUM_NATIVE"
"""Environment variable: 0 switches kernels off."""

OPTIONS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-shared", "-fPIC", "-pthread", "-w")
WISHED = (
    ("-march=native", "-mcpu=native", ""),
    ("-fno-tree-loop-distribute-patterns", ""),
)
"""Of each the first that the compiler takes: speed hangs on them, results do not. The processor's own instructions;
copies of a few vectors must not become calls of memcpy."""

LONGEST_BUILD = 120.0
"""Seconds after which a compiler is given up."""

log = logging.getLogger("factotum")


class BuildError(Exception):
    """Why there is no kernel, in one line."""


def compiler() -> str | None:
    """Path of the C++ compiler: the environment's CXX, else c++, g++ or clang++; None where there is none."""
    names = [os.environ.get("CXX", ""), "c++", "g++", "clang++"]
    return next((path for name in names if name and (path := shutil.which(name))), None)


def check_switch() -> None:
    """Nothing.

    Raises:
        BuildError: kernels are switched off.
    """
    if os.environ.get(SWITCH, "") == "0":
        raise BuildError(f"it is switched off by {SWITCH}=0")


def build(name: str, sources: Sequence[Path], defined: Sequence[str]) -> Path:
    """The shared object of some sources, compiled if it has not been on this machine.

    Args:
        name: what the file's name begins with.
        sources: the file to compile and those that it includes.
        defined: further options.

    Raises:
        BuildError: there is no compiler, or compiling failed.
        OSError: nothing can be written anywhere.
    """
    path = compiler()
    if path is None:
        raise BuildError("there is no C++ compiler: install one (c++, g++ or clang++), or set CXX")
    version = subprocess.run([path, "--version"], capture_output=True, text=True, timeout=60).stdout
    texts = [source.read_text() for source in sources]
    digest = hashlib.sha256("\0".join([path, version, _processor(), *OPTIONS, *defined, *texts]).encode())
    file = cache_folder() / f"{name}-{digest.hexdigest()[:24]}.so"
    if not file.exists():
        _compile(path, defined, sources[0], file)
    return file


def _compile(path: str, defined: Sequence[str], source: Path, file: Path) -> None:
    log.info("compiling a native kernel with %s (once on this machine) into %s", path, file)
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
