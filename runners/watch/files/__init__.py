"""What happens to source files after their results are committed."""
