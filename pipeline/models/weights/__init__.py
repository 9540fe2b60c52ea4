"""Weight files: read without running code, and loaded into a model."""
