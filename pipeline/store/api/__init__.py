"""Saves, loads, verifies and runs stored models from Python."""
