"""What was trained comes back; frozen components must be the same to the bit."""

import json

import pytest
import torch
from safetensors.torch import load_file

from factotum.core.checks import UserError
from factotum.gats import GATS
from factotum.gats.store import weights_hash
from tests.gats.families import BY_NAME, PLAIN, ROWWISE, wake

FAMILY = {"text": BY_NAME["gpt2"], "eyes": ROWWISE, "hands": PLAIN}


@pytest.fixture
def saved(tmp_path):
    """A model with a frozen, a steered frozen and a trained component, trained a step, and where it was saved."""
    components = {
        "text": BY_NAME["gpt2"].component(0, steered=True, window=3, source="somewhere"),
        "eyes": ROWWISE.component(1),
        "hands": PLAIN.component(2, steered=True, frozen=False),
    }
    torch.manual_seed(0)
    model = wake(GATS(components, layers=2, width=16, heads=2, positions="time", update="gated"))
    model.towers["hands"].module.head.weight.data.add_(0.5)
    model.save_pretrained(tmp_path / "model")
    return model.eval(), tmp_path / "model"


def fresh(**seeds):
    """The modules as they come from elsewhere: those that were trained with other weights."""
    return {
        name: FAMILY[name].module(seeds.get(name, n if name != "hands" else 9))
        for n, name in enumerate(FAMILY)
    }


def call(model):
    inputs = {name: family.inputs(2) for name, family in FAMILY.items()}
    return model(inputs, {name: family.times(2) for name, family in FAMILY.items()})


def test_a_saved_model_comes_back_to_the_bit(saved):
    model, folder = saved
    loaded = GATS.from_pretrained(str(folder), fresh())
    assert loaded.config == model.config
    assert {n: (t.window, t.steered, t.frozen) for n, t in loaded.towers.items()} == {
        "text": (3, True, True), "eyes": (4, False, True), "hands": (4, True, False),
    }  # fmt: skip
    loaded.eval()
    expected, found = call(model), call(loaded)
    assert torch.equal(found["text"].logits, expected["text"].logits)
    assert torch.equal(found["hands"], expected["hands"])


def test_what_is_frozen_is_not_stored(saved):
    model, folder = saved
    stored = load_file(folder / "model.safetensors")
    assert not any(name.startswith(("components.text", "components.eyes")) for name in stored)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert set(stored) == trained
    config = json.loads((folder / "config.json").read_text())["components"]
    assert config["text"]["choices"]["source"] == "somewhere"
    assert config["text"]["hash"] == weights_hash(model.towers["text"].module)
    assert config["hands"]["hash"] is None


@pytest.mark.parametrize("name", ["text", "eyes"])
def test_other_frozen_weights_are_refused_and_nothing_changes(saved, name):
    _, folder = saved
    modules = fresh()
    with torch.no_grad():
        next(modules[name].parameters()).view(-1)[0] += 1e-6
    before = weights_hash(modules["hands"])
    with pytest.raises(
        UserError, match=f"component '{name}': was trained with other weights: expected a .* with hash"
    ):
        GATS.from_pretrained(folder, modules)
    assert weights_hash(modules["hands"]) == before
    assert all(p.requires_grad for module in modules.values() for p in module.parameters())


def test_components_that_are_missing_or_unknown_are_told(saved):
    _, folder = saved
    modules = fresh()
    with pytest.raises(UserError, match="unknown component 'hand': did you mean hands"):
        GATS.from_pretrained(folder, {**modules, "hand": modules["hands"]})
    with pytest.raises(
        UserError, match=r"component 'text': expected its module, a transformers.*from somewhere, got none"
    ):
        GATS.from_pretrained(folder, {name: modules[name] for name in ("eyes", "hands")})


def test_a_trained_component_of_another_shape_is_refused(saved):
    _, folder = saved
    modules = fresh()
    modules["hands"].head = torch.nn.Linear(12, 7)
    with pytest.raises(
        UserError, match=r"weights do not fit: .*other shapes \['components.hands.module.head"
    ):
        GATS.from_pretrained(folder, modules)


def test_tied_weights_are_stored_once_and_stay_tied(tmp_path):
    gpt2 = BY_NAME["gpt2"]
    model = GATS({"a": gpt2.component(0, steered=True, frozen=False)}, layers=2, width=16, heads=2)
    model.save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    assert sum("wte.weight" in name or "lm_head.weight" in name for name in stored) == 1
    loaded = GATS.from_pretrained(tmp_path, {"a": gpt2.module(5)})
    module = loaded.towers["a"].module
    assert module.lm_head.weight is module.transformer.wte.weight
    assert weights_hash(module) == weights_hash(model.towers["a"].module)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "expected a file"),
        (lambda f: (f / "model.safetensors").unlink(), "found no such file"),
        (lambda f: (f / "model.safetensors").write_bytes(b"12"), "does not parse"),
        (lambda f: (f / "config.json").write_text("{}"), "expected a model of system 'gats', version 1, got None"),
        (lambda f: edit(f, format_version=9), "version 1, got 'gats', version 9"),
        (lambda f: edit(f, components=None), "expected keys 'config' and 'components'"),
        (lambda f: edit(f, config={"layers": 2, "wide": 1}), "unknown keys"),
    ],
)  # fmt: skip
def test_torn_and_foreign_folders_are_refused(saved, change, message):
    _, folder = saved
    change(folder)
    with pytest.raises(UserError, match=message):
        GATS.from_pretrained(folder, fresh())


def edit(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_folder_that_is_not_there_is_no_repository():
    for name in ("nowhere", "./no/where", "/no/where"):
        with pytest.raises(UserError, match="expected a folder with a saved model"):
            GATS.from_pretrained(name, {})
    with pytest.raises(UserError, match="unknown option 'revison': did you mean revision"):
        GATS.from_pretrained("someone/something", {}, revison="main")


def test_the_hash_knows_names_shapes_types_and_values():
    module = torch.nn.Linear(2, 3)
    hashes = {weights_hash(module)}
    hashes.add(weights_hash(torch.nn.Sequential(module)))
    hashes.add(weights_hash(torch.nn.Linear(3, 2)))
    twin = torch.nn.Linear(2, 3)
    twin.load_state_dict(module.state_dict())
    assert weights_hash(twin) in hashes
    hashes.add(weights_hash(twin.bfloat16()))
    assert len(hashes) == 4
