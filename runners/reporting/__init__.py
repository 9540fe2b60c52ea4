"""What a person or a monitor sees of a run: console, status, metrics, log."""
