"""Worlds: what an agent acts in. The only part that builds environments."""
