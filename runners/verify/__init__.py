"""``runner=verify``: repeats a finished run and compares the results."""
