"""The numbers of an evaluation, one kind per module."""
