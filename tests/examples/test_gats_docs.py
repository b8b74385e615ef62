"""Every block of code in `docs/gats.md` runs, and what its text names exists."""

import re
import shlex
from dataclasses import fields as dataclass_fields
from pathlib import Path
from typing import get_type_hints

import pytest
import torch
import tyro

from factotum.recipes import compose, pretrain
from factotum.recipes.compose_file import Composition, read_composition

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs" / "gats.md"


def test_every_block_in_the_docs_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    blocks = re.findall(r"^```(\w*)\n(.*?)^```$", DOCS.read_text(), re.MULTILINE | re.DOTALL)
    assert len(blocks) > 6
    for language, text in blocks:
        if language == "python":
            exec(compile(text, str(DOCS), "exec"), names)
        elif language == "toml":
            (tmp_path / "file.toml").write_text(text)
            assert read_composition(tmp_path / "file.toml").join.mode == "gats"
        else:
            assert language == "", f"a block of {language} that no test reads"
            for line in text.splitlines():
                words = shlex.split(line)
                if words[0] == "factotum":
                    recipe = {"pretrain": pretrain, "compose": compose}[words[1]]
                    assert tyro.cli(recipe.Args, args=words[2:]).out
                    continue
                assert words[0] == "python", f"no test knows how to run {line!r}"
                assert (ROOT / words[1]).is_file(), line
    assert names["outputs"]["action"].logits.shape == (2, 1, 10)
    assert names["written"].shape == (2, 8)
    assert all(names["tokens"].space.contains(action) for action in names["actions"])
    assert (tmp_path / "joined" / "config.json").is_file()
    for name, tensor in names["model"].state_dict().items():
        assert torch.equal(tensor, names["again"].state_dict()[name]), name


def test_names_in_the_docs_exist():
    text, package = DOCS.read_text(), ROOT / "factotum"
    for path in re.findall(r"`((?:[\w/]+/)?\w+\.py)`", text):
        assert (package / "gats" / path).is_file() or (ROOT / path).is_file(), path
    for path in re.findall(r"`(\w+/)`", text):
        assert (ROOT / path).is_dir(), path
    sources = {path.stem: path.read_text() for path in (package / "gats").glob("*.py")}
    symbols = re.findall(r"`([a-z_]+)\.(?!py`)(\w+)(?:\.(\w+))?`", text)
    assert len(symbols) > 10
    fields = {field.name: get_type_hints(Composition)[field.name] for field in dataclass_fields(Composition)}
    for module, *parts in symbols:
        if parts[0] == "toml":
            assert (ROOT / "examples" / "gats" / f"{module}.toml").is_file(), module
            continue
        if module in fields:
            assert parts[0] in fields[module].__dataclass_fields__, f"{module}.{parts[0]}"
            continue
        for part in filter(None, parts):
            assert re.search(rf"\b{part}\b", sources[module]), f"{module}.{part}"
    everything = "\n".join(sources.values())
    for owner, part in re.findall(r"`(GATS\w*|Component|ActionTokens)\.(\w+)`", text):
        assert re.search(rf"class {owner}\b", everything), owner
        assert re.search(rf"\b{part}\b", everything), f"{owner}.{part}"
