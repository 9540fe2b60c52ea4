"""Finds the files of a watched folder that are complete and new."""
