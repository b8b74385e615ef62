"""Gather-Attend-Scatter (arXiv 2401.08525): frozen pretrained models become one, joined by their activations."""

from factotum.gats.actions import ActionTokens as ActionTokens
from factotum.gats.agent import GATSAgent as GATSAgent
from factotum.gats.attend import GATSLayer as GATSLayer
from factotum.gats.component import Component as Component
from factotum.gats.component import Features as Features
from factotum.gats.config import GATSConfig as GATSConfig
from factotum.gats.decode import GATSDecoder as GATSDecoder
from factotum.gats.generate import Writer as Writer
from factotum.gats.model import GATS as GATS
from factotum.gats.moment import Moment as Moment
from factotum.gats.objective import GATSBatch as GATSBatch
from factotum.gats.objective import GATSObjective as GATSObjective
from factotum.gats.sampling import Guidance as Guidance
from factotum.gats.sampling import Sampling as Sampling
