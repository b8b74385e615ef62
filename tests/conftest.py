"""Shapes and types of the networks' signatures are checked while tests run."""

from jaxtyping import install_import_hook

CHECKED = ("factotum.nn", "factotum.losses", "factotum.gato.model", "factotum.gato.embedding")
install_import_hook(CHECKED, "beartype.beartype")
