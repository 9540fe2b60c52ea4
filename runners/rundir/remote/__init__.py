"""The copy of a run directory in an object store: uploaded before it is committed, restored."""
