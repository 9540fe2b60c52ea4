"""Faster ways to compute what a model computes, sorted by what they do to the digits.

``table`` lists them in the order in which they are applied. The modules in ``exact`` keep every
bit, those in ``rounding`` change the order of float32 operations, and those in ``reduced`` compute
with fewer digits. All of them change a model through ``patching``.
"""
