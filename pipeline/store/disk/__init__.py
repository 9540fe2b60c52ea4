"""Stored models on disk: layout, atomic writes, pointers and tags."""
