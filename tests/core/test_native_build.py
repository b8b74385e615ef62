"""Sources become a shared object once, under a name that says what it was made of."""

from __future__ import annotations

import ctypes

import pytest

from factotum.core import native_build


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv(native_build.SWITCH, raising=False)
    path = tmp_path / "three.cpp"
    path.write_text('extern "C" int three() { return THREE; }')
    return path


@pytest.mark.skipif(native_build.compiler() is None, reason="there is no C++ compiler")
def test_what_is_built_runs_and_is_built_once(source, monkeypatch):
    file = native_build.build("three", [source], ["-DTHREE=3"])
    assert ctypes.CDLL(str(file)).three() == 3
    monkeypatch.setattr(native_build, "_compile", None)
    assert native_build.build("three", [source], ["-DTHREE=3"]) == file


@pytest.mark.skipif(native_build.compiler() is None, reason="there is no C++ compiler")
def test_what_does_not_compile_is_quoted(source):
    with pytest.raises(native_build.BuildError, match="THREE"):
        native_build.build("three", [source], [])


def test_no_compiler_is_said(source, monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(native_build.BuildError, match="no C"):
        native_build.build("three", [source], [])


def test_the_switch(source, monkeypatch):
    native_build.check_switch()
    monkeypatch.setenv(native_build.SWITCH, "0")
    with pytest.raises(native_build.BuildError, match="switched off"):
        native_build.check_switch()
