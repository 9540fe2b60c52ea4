"""A user's own package: stages and a sink for a plant's cameras."""
