"""Loops that take factories: training, meta-training, collecting, evaluating, reporting. They know no model."""
