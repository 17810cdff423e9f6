"""Comparison of training objectives: all are trained with the same seeds and scored by the same
metrics.

`compare` trains an `experiment`, of objectives from `variants`: each `job`, started by one of the
`executors`, writes the `scores` of a run. `statistics` tests what is significant in their
`result`; `report`, `tables` and `figures` show it.
"""
