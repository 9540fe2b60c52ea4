"""Speed-ups that keep every bit of the results."""
