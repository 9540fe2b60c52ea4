"""Reads a run and a ground truth, and finds what they have in common."""
