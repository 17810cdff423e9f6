"""Comparison of training objectives, each trained with the same seeds and scored alike.

| module | content |
|---|---|
| `variants`, `experiment` | named objectives; settings of training and scoring |
| `compare`, `directory` | `elbos.compare`, and its directory with the stored settings |
| `timing` | number of training images in a time budget |
| `executors`, `job` | parallel execution of runs; a single run |
| `scores` | the scores of a run, and their metrics |
| `statistics`, `summary` | which differences are significant; from scores to the result |
| `objective_result`, `result` | the results |
"""
