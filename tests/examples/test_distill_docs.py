"""The Python in `docs/distill.md` runs, its commands have the options it gives them, and what its text names exists."""

import re
import shlex
from pathlib import Path

import pytest
import tyro

from factotum.cli import COMMANDS
from factotum.recipes import distill
from factotum.training.checkpoint import plain_json

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "distill.md"
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)


def test_every_block_of_python_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = [text for language, text in BLOCKS if language == "python"]
    assert len(blocks) == 2
    for text in blocks:
        exec(compile(text, str(DOCS), "exec"), names)
    assert names["metrics"]["agreement"] > 0.8
    assert names["scores"].shape == (16,)
    assert (tmp_path / "balance" / "model.safetensors").is_file()


def test_every_command_is_one_that_there_is():
    lines = [line for language, text in BLOCKS if not language for line in text.splitlines()]
    assert len(lines) == 6
    for line in lines:
        words = shlex.split(line, comments=True)
        assert words[0] == "factotum"
        assert words[1] in COMMANDS
        if words[1] == "distill":
            assert tyro.cli(distill.Args, args=words[2:]).teachers


@pytest.mark.parametrize("row", re.findall(r"^\| [^|]+ \| (`-[^|]+)\|$", DOCS.read_text(), re.MULTILINE))
def test_options_in_the_table_are_understood(row):
    for given in re.findall(r"`(--[^`]+)`", row):
        words = given.replace("A B C", "a b c").split()
        if words[0] in ("--tuning.distill-weight", "--tuning.anneal-share"):
            words.append("0.5")
        if words[0] == "--student" and len(words) == 1:
            continue
        base = [] if words[0] in ("--teachers", "--online") else ["--teachers", "x"]
        words = [word for word in words if word != "RUN"] + (["run"] if "RUN" in words else [])
        assert plain_json(str(tyro.cli(distill.Args, args=[*base, *words])))


def test_names_in_the_docs_exist():
    text, package = DOCS.read_text(), ROOT / "factotum"
    paths = [path for path in re.findall(r"`((?:[\w]+/)*\w+\.py)`", text)]
    assert len(paths) > 6
    for path in paths:
        assert (package / path).is_file() or (ROOT / path).is_file(), path
    sources = {path.stem: path.read_text() for path in (package / "distill").glob("*.py")}
    symbols = [(module, part) for module, part in re.findall(r"`([a-z_]+)\.(\w+)`", text) if part != "py"]
    symbols = [(module, part) for module, part in symbols if module in sources]
    assert len(symbols) > 8
    for module, part in symbols:
        assert re.search(rf"\b{part}\b", sources[module]), f"{module}.{part}"
    losses = (package / "losses" / "distillation.py").read_text()
    for name in ("best_action_nll", "q_value_mse", "policy_kl"):
        assert f"`{name}`" in text
        assert f"def {name}(" in losses
