"""How good a trained model is: its likelihood at every noise level, and its samples' quality.

| module | what it holds |
|---|---|
| `config` | what is measured, and how precisely |
| `model`, `pretrained` | what it needs of a model; pipelines that diffusers saved |
| `requirements` | what a network of diffusers requires of images |
| `evaluate` | the order of the measurements |
| `likelihood`, `ode` | the bound, and the theorem on the same losses; the ODE likelihood |
| `samples` | samples, kept and as the files of `elbos sample` |
| `features`, `reference` | the features of images; those of real ones, in the cache |
| `estimators`, `metrics` | distances between sets of features; the list of all metrics |
| `quality` | samples scored set by set, also by sampler and evaluations |
| `result`, `scores` | the results |
| `stores` | where parts are kept, so that an evaluation resumes |
"""

from elbos.evaluation.config import EvaluationConfig, OdeConfig
from elbos.evaluation.evaluate import evaluate
from elbos.evaluation.pretrained import Pretrained
from elbos.evaluation.result import Evaluation

__all__ = ["Evaluation", "EvaluationConfig", "OdeConfig", "Pretrained", "evaluate"]
