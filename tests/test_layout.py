"""Files stay short enough to be read at one sitting, and tests lie where the tested code lies."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LONGEST = 400
"""Lines; the aim is 150, and splitting by idea above 300."""

FREE = {"conformance", "examples"}
"""Folders of tests that mirror no folder of the package."""


@pytest.mark.parametrize("folder", ["factotum", "tests", "benchmarks"])
def test_no_file_is_too_long(folder):
    lengths = {path: len(path.read_text().splitlines()) for path in (ROOT / folder).rglob("*.py")}
    assert lengths
    assert [str(path) for path, length in lengths.items() if length > LONGEST] == []


def test_tests_mirror_the_package():
    tests = ROOT / "tests"
    folders = {str(path.parent.relative_to(tests)) for path in tests.rglob("test_*.py")} - FREE
    assert "gato" in folders
    assert [name for name in folders if not (ROOT / "factotum" / name).is_dir()] == []
