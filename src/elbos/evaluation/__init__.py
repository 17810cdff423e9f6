"""Evaluation of a trained model: likelihood, loss at every noise level, and sample quality.

| module | content |
|---|---|
| `config` | settings: the measurements and their precision |
| `model` | the protocol of a model, and the stores of its measurements |
| `evaluate` | the order of the measurements |
| `likelihood`, `ode` | the bound, and the theorem on the same losses; the ODE likelihood |
| `samples` | samples, stored for scoring |
| `features`, `reference` | feature extractors; cached reference features of real images |
| `estimators`, `metrics` | distances between sets of features; the list of all metrics |
| `quality` | samples scored set by set, also by sampler and evaluations |
| `result`, `scores` | the results |
| `page`, `figures` | the page with its tables, and its figures |
"""

from elbos.base.aliases import moved_names
from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.result import Evaluation

__all__ = ["Evaluation", "EvaluationConfig", "OdeConfig", "Pretrained", "evaluate"]

__getattr__ = moved_names({"Pretrained": "elbos.runs.pretrained"})
