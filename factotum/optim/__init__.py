"""A learned optimizer of neural networks, a drop-in `torch.optim.Optimizer` (arXiv 1703.04813)."""

from typing import TYPE_CHECKING, Any

from factotum.optim.config import HierarchicalRNNConfig as HierarchicalRNNConfig
from factotum.optim.config import code_config as code_config
from factotum.optim.config import paper_config as paper_config
from factotum.optim.config import shipped_config as shipped_config
from factotum.optim.layout import Layout as Layout
from factotum.optim.model import HierarchicalRNNCore as HierarchicalRNNCore
from factotum.optim.store import load_core as load_core
from factotum.optim.store import save_core as save_core

if TYPE_CHECKING:
    from factotum.optim.optimizer import HierarchicalRNN as HierarchicalRNN


def __getattr__(name: str) -> Any:
    """`HierarchicalRNN` when it is asked for."""
    if name == "HierarchicalRNN":
        from factotum.optim.optimizer import HierarchicalRNN

        return HierarchicalRNN
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
