"""Python source that travels with a model: which files are saved, and how they are imported."""
