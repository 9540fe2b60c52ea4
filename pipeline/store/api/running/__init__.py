"""Runs a stored model with BentoML's interface: its runnable, and its runner."""
