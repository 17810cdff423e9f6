"""Evaluation of a trained model: likelihood, loss at every noise level, and sample quality.

`evaluate` measures a `Model` as `config` says: `likelihood`, `ode`, and `quality`, which
scores generated samples by `metrics` against a `reference` in terms of `features`. `result`
holds the numbers, which `report` shows.
"""

from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.result import Evaluation

__all__ = ["Evaluation", "EvaluationConfig", "OdeConfig", "evaluate"]
