"""Fixtures of this folder."""

from tests.gato.samples import shards as shards
from tests.gato.samples import statistics as statistics
from tests.gato.samples import tokenizer as tokenizer
