"""Detects, saves and restores state that a model keeps between forwards."""
