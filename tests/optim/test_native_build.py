"""Compiling at first use: hidden where it works, said in one line where it does not."""

from __future__ import annotations

import logging
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from factotum.core.checks import UserError
from factotum.optim import native, native_build
from factotum.optim.config import HierarchicalRNNConfig
from tests.optim.toys import make_core

ROOT = Path(__file__).parents[2]

COPY = """#!{python}
import pathlib, sys, time
if "--version" in sys.argv:
    sys.exit(print("copier 1.0"))
with open({log!r}, "a") as log:
    log.write("x")
target = pathlib.Path(sys.argv[sys.argv.index("-o") + 1])
content = pathlib.Path({content!r}).read_bytes()
target.write_bytes(content[:1000])
time.sleep(0.3)
target.write_bytes(content)
"""
"""A compiler that takes its time and gives the library that is there already."""


@pytest.fixture
def compiled():
    """The library that is there already. Ask for it before `fresh`."""
    return native_build.library(HierarchicalRNNConfig())._name


@pytest.fixture
def fresh(tmp_path, monkeypatch):
    """As in a new process of a new user."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native_build.SWITCH, raising=False)
    monkeypatch.delenv("CXX", raising=False)
    native_build._load.cache_clear()
    yield tmp_path
    native_build._load.cache_clear()


def program(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_it_can_be_switched_off(fresh, monkeypatch):
    monkeypatch.setenv("FACTOTUM_NATIVE", "0")
    assert native.why_not() == "it is switched off by FACTOTUM_NATIVE=0"
    assert not native.available()
    with pytest.raises(UserError, match="switched off"):
        native.pack(make_core())
    assert not (fresh / "cache").exists()


def test_no_compiler_is_said_once(fresh, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(fresh))
    with caplog.at_level(logging.INFO, "factotum.optim"):
        for _ in range(3):
            assert "no C++ compiler" in native.why_not()
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "without its native kernel" in caplog.text


def test_a_compiler_that_fails_is_quoted(fresh, monkeypatch):
    failing = program(fresh / "c++", '#!/bin/sh\necho "x.cpp:1: error: no such thing" >&2\nexit 1\n')
    monkeypatch.setenv("CXX", failing)
    assert "error: no such thing" in native.why_not()
    assert list((fresh / "cache" / "factotum").iterdir()) == []


def test_a_library_that_cannot_be_loaded_is_a_reason(fresh, monkeypatch):
    monkeypatch.setenv(
        "CXX", program(fresh / "c++", '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho x > "$2"\n')
    )
    assert native.why_not()


def test_wishes_that_a_compiler_refuses_are_dropped(fresh, monkeypatch):
    script = '#!/bin/sh\nfor a in "$@"; do case $a in -march*|-fno-tree*) exit 1;; esac; done\n'
    script += f'echo "$@" >> {fresh}/said\nwhile [ "$1" != -o ]; do shift; done\necho x > "$2"\n'
    monkeypatch.setenv("CXX", program(fresh / "c++", script))
    assert native_build.build("kernel", native_build.SOURCES, ["-DX=1"]).exists()
    said = (fresh / "said").read_text().splitlines()[-1]
    assert "-mcpu=native" in said
    assert "-DX=1" in said


@pytest.mark.skipif(not native.available(), reason=str(native.why_not()))
def test_processes_that_start_together_do_not_disturb_each_other(compiled, fresh, monkeypatch):
    log = fresh / "log"
    compiler = program(fresh / "cxx", COPY.format(python=sys.executable, log=str(log), content=compiled))
    monkeypatch.setenv("CXX", compiler)
    code = "from factotum.optim import native; print(native.why_not())"
    started = [
        subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    assert [process.communicate(timeout=300)[0] for process in started] == ["None\n"] * 2
    assert len(list((fresh / "cache" / "factotum").iterdir())) == 1
    calls = len(log.read_text())
    assert native.available()
    assert len(log.read_text()) == calls


def test_a_changed_source_or_configuration_is_another_file(fresh, monkeypatch):
    touch = '#!/bin/sh\nwhile [ "$1" != -o ]; do shift; done\necho x > "$2"\n'
    monkeypatch.setenv("CXX", program(fresh / "c++", touch))
    small = native_build.definitions(HierarchicalRNNConfig(parameter_units=3))
    usual = native_build.definitions(HierarchicalRNNConfig())
    files = {native_build.build("kernel", native_build.SOURCES, defined) for defined in (usual, small, usual)}
    files.add(native_build.build("kernel", native_build.SOURCES[:2], usual))
    assert len(files) == 3


def test_where_nothing_can_be_kept_a_folder_of_its_own_is_used(fresh, monkeypatch):
    blocked = fresh / "file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    folder = native_build.cache_folder()
    assert folder.is_dir()
    assert folder.stat().st_mode & 0o077 == 0
