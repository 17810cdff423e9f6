"""Names of measured objectives: the nearest published weightings, schedules and formulas."""
