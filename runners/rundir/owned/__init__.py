"""Files that sinks and aggregates own in an output: recorded, protected, cleared, built."""
