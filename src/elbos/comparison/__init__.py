"""Comparison of training objectives: all are trained with the same seeds and scored by the same
metrics.

`compare` trains an `experiment`, of objectives from `variants`: each `job`, started by one of the
`executors`, writes the `scores` of a run. `summary` tests with `statistics` what is significant in
them; `page`, `tables` and `figures` show its `result`.
"""
