"""Reports a run to users and monitoring: console, status, metrics, log."""
