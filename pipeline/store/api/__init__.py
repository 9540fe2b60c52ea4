"""Saving, loading, checking and running stored models from Python."""
