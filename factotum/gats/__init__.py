"""Gather-Attend-Scatter (arXiv 2401.08525): frozen pretrained models become one, joined by their activations."""

from factotum.gats.attend import GATSLayer as GATSLayer
from factotum.gats.component import Component as Component
from factotum.gats.component import Features as Features
from factotum.gats.config import GATSConfig as GATSConfig
from factotum.gats.model import GATS as GATS
