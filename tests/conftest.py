"""Shapes and types of the networks' signatures are checked while tests run; properties see the same cases each time.

New cases: `pytest --hypothesis-profile default`.
"""

from hypothesis import settings
from jaxtyping import install_import_hook

settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")

CHECKED = (
    "factotum.nn",
    "factotum.losses",
    "factotum.gato.model",
    "factotum.gato.embedding",
    "factotum.distill.model",
    "factotum.gats.attend",
    "factotum.gats.gather",
    "factotum.gats.scatter",
    "factotum.optim.bounds",
    "factotum.optim.features",
    "factotum.optim.pace",
    "factotum.optim.state",
    "factotum.samplers.acquisition",
    "factotum.samplers.acquisition_state",
    "factotum.samplers.axial",
    "factotum.samplers.candidates",
    "factotum.samplers.history",
    "factotum.samplers.improvement",
    "factotum.samplers.plain",
    "factotum.samplers.rollout",
    "factotum.samplers.single",
    "factotum.samplers.single_surrogate",
    "factotum.samplers.surrogate",
)
install_import_hook(CHECKED, "beartype.beartype")
