"""Shapes and types of the networks' signatures are checked while tests run."""

from jaxtyping import install_import_hook

install_import_hook(("factotum.nn", "factotum.losses", "factotum.gato.model", "factotum.gato.embedding"), "beartype.beartype")
