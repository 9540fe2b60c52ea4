"""Stored models on disk: layout, atomic staging, pointers, tags."""
