"""``runner=serve``: answers requests over HTTP, with the engine and the options of a batch."""
