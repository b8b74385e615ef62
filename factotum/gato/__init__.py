"""Gato, a generalist agent (arXiv 2205.06175): one set of weights, many tasks, modalities and bodies."""

from factotum.gato.agent import GatoAgent as GatoAgent
from factotum.gato.config import GatoConfig as GatoConfig
from factotum.gato.config import Vocabulary as Vocabulary
from factotum.gato.config import gato_1b as gato_1b
from factotum.gato.config import gato_79m as gato_79m
from factotum.gato.config import gato_364m as gato_364m
from factotum.gato.config import gato_small as gato_small
from factotum.gato.model import Gato as Gato
from factotum.gato.objective import GatoObjective as GatoObjective
from factotum.gato.tokens import decode as decode
from factotum.gato.tokens import encode as encode
