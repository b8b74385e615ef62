"""Factotum: many specialists, one agent. Users write ``from factotum.gato import Gato``."""

__version__ = "0.1.0"
