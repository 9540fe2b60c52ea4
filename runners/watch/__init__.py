"""``runner=watch``: processes files as they arrive in a folder."""
