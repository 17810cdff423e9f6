"""Extractors of features, each chosen by a small configuration whose `load(device)` returns one.

`Lite0` works offline; `Inception` is what published FIDs are of; `Module` is a function of yours.
"""

from elbos.evaluation.features.extractor import Extractor, Features, extract
from elbos.evaluation.features.inception import Inception
from elbos.evaluation.features.lite0 import Lite0
from elbos.evaluation.features.module import Module

Network = Lite0 | Inception | Module

__all__ = ["Extractor", "Features", "Inception", "Lite0", "Module", "Network", "extract"]
