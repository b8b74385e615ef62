"""Seeds derived from names, so that any part can be drawn again alone, in any process."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def derive_seed(*parts: int | str) -> int:
    """A 63-bit seed that depends on every part and on nothing else.

    >>> derive_seed(0, "batch", 3) == derive_seed(0, "batch", 3) != derive_seed(0, "batch", 4)
    True
    """
    text = "".join(f"{type(part).__name__[0]}{len(str(part))}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little") >> 1


def numpy_generator(*parts: int | str) -> np.random.Generator:
    """A numpy generator seeded by `derive_seed(*parts)`.

    >>> bool(numpy_generator(1, "a").random() == numpy_generator(1, "a").random())
    True
    """
    return np.random.default_rng(derive_seed(*parts))


def torch_generator(*parts: int | str, device: str = "cpu") -> torch.Generator:
    """A torch generator seeded by `derive_seed(*parts)`.

    >>> torch_generator(1).initial_seed() == derive_seed(1)
    True
    """
    return torch.Generator(device=device).manual_seed(derive_seed(*parts))
