"""Faster ways to compute parts of a model, sorted by their effect on the results.

``table`` lists them in the order in which they are applied. The modules in ``exact`` keep every
bit, those in ``rounding`` change the order of float32 operations, and those in ``reduced`` compute
with fewer digits. All of them change a model through ``patching``.
"""
