"""Stages change, or drop, one frame's result. One class a file, one option a class."""
