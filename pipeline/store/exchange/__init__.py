"""Imports and exports models: archives, directories, addresses, BentoML, training outputs."""
