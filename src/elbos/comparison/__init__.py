"""Objectives against each other: each trained with all seeds, and scored alike.

| module | what it holds |
|---|---|
| `variants`, `experiment` | objectives by name; what is trained and how it is scored |
| `compare`, `directory` | `elbos.compare`, and what its directory belongs to |
| `timing` | budgets of minutes, the time left, how far all runs are |
| `executors`, `job` | where runs are made, and one of them |
| `scores` | the scores of a run, and the metrics that they have |
| `statistics`, `summary` | which differences are significant; from scores to the result |
| `objective_result`, `result` | the results |
"""
