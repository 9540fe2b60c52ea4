"""Speed-ups that change the order of float32 operations, and with it the last digits."""
