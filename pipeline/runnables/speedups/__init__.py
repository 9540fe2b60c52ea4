"""Faster ways to compute what a model computes, sorted by what they do to the digits."""
