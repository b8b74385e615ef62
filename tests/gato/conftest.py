"""Fixtures of this folder."""

from conftest_gato import shards as shards
from conftest_gato import statistics as statistics
from conftest_gato import tokenizer as tokenizer
