"""Feature extractors for images; the method `load(device)` of a configuration returns the
extractor.

`Lite0` works offline; `Inception` is the network of published FIDs; `Module` is a user's function.
"""

from elbos.evaluation.features.extractor import Extractor, Features, Module, extract
from elbos.evaluation.features.inception import Inception
from elbos.evaluation.features.lite0 import Lite0

ExtractorConfig = Lite0 | Inception | Module

__all__ = ["Extractor", "ExtractorConfig", "Features", "Inception", "Lite0", "Module", "extract"]
