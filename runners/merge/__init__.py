"""``runner=merge``: combines the run directories of all shards of a batch into one."""
