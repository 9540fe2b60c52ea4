"""Speed-ups that change the order of float32 operations, and so the last digits."""
