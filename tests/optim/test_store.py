"""Weights on disk: the round trip, names, and every way in which reading can fail."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from factotum.core.checks import UserError
from factotum.optim import store
from factotum.optim.config import code_config, paper_config
from factotum.optim.layout import Layout
from factotum.optim.store import load_core, save_core, shipped_cores, weights_hash
from factotum.samplers.config import SamplerConfig
from factotum.samplers.model import make_core as make_sampler
from factotum.samplers.model import save_core as save_sampler
from tests.optim.toys import make_core


@pytest.mark.parametrize("config", [code_config(attention=True), paper_config()])
def test_what_was_saved_is_loaded(tmp_path, config):
    core = make_core(config)
    save_core(core, tmp_path / "a", {"command": "train", "seed": 3})
    layout = Layout.single([3])
    for place in (tmp_path / "a", str(tmp_path / "a"), tmp_path / "a" / "model.safetensors"):
        loaded = load_core(place)
        assert loaded.config == core.config
        assert not any(weight.requires_grad for weight in loaded.parameters())
        state = core.initial_state(layout, torch.Generator().manual_seed(1))
        again = loaded.initial_state(layout, torch.Generator().manual_seed(1))
        with torch.no_grad():
            a, b = core.step(torch.ones(3), state, layout), loaded.step(torch.ones(3), again, layout)
        assert torch.equal(a[0].update_P, b[0].update_P)
    assert json.loads((tmp_path / "a" / "made_by.json").read_text())["seed"] == 3


def test_the_hash_is_of_weights_and_configuration(tmp_path):
    core = make_core()
    save_core(core, tmp_path)
    first = weights_hash(core)
    assert weights_hash(load_core(tmp_path)) == first
    with torch.no_grad():
        core.step_offset += 1e-6
    assert weights_hash(core) != first
    assert weights_hash(make_core(code_config())) != first
    assert weights_hash(make_core(seed=1)) != first
    assert weights_hash(make_core().bfloat16()) != first


def test_shipped_weights_have_names(tmp_path, monkeypatch):
    monkeypatch.setattr(store, "SHIPPED", tmp_path)
    save_core(make_core(), tmp_path / "fast")
    save_sampler(make_sampler(SamplerConfig(width=4)), tmp_path / "sampler")
    assert shipped_cores() == ["fast"]
    assert weights_hash(load_core("fast")) == weights_hash(make_core())
    with pytest.raises(UserError, match="unknown weights 'fest': did you mean fast"):
        load_core("fest")


def test_all_shipped_weights_load():
    for name in shipped_cores():
        assert load_core(name).config.parameter_units > 0


def edited(folder, **changes):
    stored = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**stored, **changes}))


def dropped(folder):
    weights = load_file(folder / "model.safetensors")
    del weights["readout"]
    save_file({**weights, "other": torch.zeros(1)}, folder / "model.safetensors")


def other_shape(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "readout": torch.zeros(2, 2)}, folder / "model.safetensors")


def not_finite(folder):
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "readout": weights["readout"] / 0}, folder / "model.safetensors")


def truncated(folder):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda f: edited(f, format_version=99), "version 1, got 'optim', version 99"),
        (lambda f: edited(f, system="samplers"), "system 'optim', version 1, got 'samplers'"),
        (lambda f: edited(f, config=None), "expected a key 'config'"),
        (lambda f: edited(f, config={"scales": 0}), "scales: expected a whole number"),
        (lambda f: edited(f, config={"size": 1}), "unknown keys \\['size'\\]"),
        (lambda f: (f / "config.json").write_text("[]"), "got None, version None"),
        (lambda f: (f / "config.json").write_text("{"), "expected JSON"),
        (lambda f: (f / "config.json").unlink(), "expected a file .*config.json"),
        (lambda f: (f / "model.safetensors").unlink(), "found no such file"),
        (truncated, "does not parse"),
        (dropped, "missing \\['readout'\\], unknown \\['other'\\]"),
        (other_shape, "other shapes \\['readout'\\]"),
        (not_finite, "expected finite weights, got others in readout"),
    ],
)
def test_damaged_weights_are_refused(tmp_path, damage, complaint):
    save_core(make_core(), tmp_path)
    damage(tmp_path)
    with pytest.raises(UserError, match=complaint):
        load_core(tmp_path)


@pytest.mark.parametrize("name", ["", "no-such-weights", "a/b", "model.safetensors"])
def test_what_is_neither_a_name_nor_a_folder(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="unknown weights"):
        load_core(name)


def test_weights_of_a_sampler_are_refused(tmp_path):
    save_sampler(make_sampler(SamplerConfig(width=4)), tmp_path)
    with pytest.raises(UserError, match="expected weights of system 'optim', version 1, got 'samplers'"):
        load_core(tmp_path)
