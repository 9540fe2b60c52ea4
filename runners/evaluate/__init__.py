"""``runner=evaluate``: compares the results of a run with a ground truth."""
