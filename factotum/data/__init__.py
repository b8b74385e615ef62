"""Demonstrations: episodes, datasets on disk, windows and mixtures. The only door to minari."""
