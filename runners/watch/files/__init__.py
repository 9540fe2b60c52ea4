"""Post-processing of source files after their results are committed."""
