"""Loops that take factories: train, collect, evaluate, report. They know no model."""
