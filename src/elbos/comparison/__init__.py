"""Comparison of training objectives, each trained with the same seeds and scored alike.

`compare` trains an `experiment`, of objectives from `variants`: each `job`, started by one of the
`executors`, writes the `scores` of a run. `summary` tests with `statistics` what is significant in
them; `page`, `tables` and `figures` show its `result`.
"""
