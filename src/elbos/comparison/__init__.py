"""Comparison of training objectives: each trained with all seeds, and scored alike.

| module | what it holds |
|---|---|
| `variants`, `experiment` | objectives by name; what is trained and how it is scored |
| `compare`, `directory` | `elbos.compare`, and what its directory belongs to |
| `timing` | the images that a training sees in some minutes |
| `executors`, `job` | where runs are made, and one of them |
| `scores` | the scores of a run, and the metrics that they have |
| `statistics`, `summary` | which differences are significant; from scores to the result |
| `objective_result`, `result` | the results |
"""
