"""Weight files: formats, safe unpickling, and loading into a module."""
