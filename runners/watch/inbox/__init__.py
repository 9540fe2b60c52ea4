"""Which files of a watched directory are complete and new."""
