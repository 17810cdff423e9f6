"""A package that holds one without an `__init__.py`."""
