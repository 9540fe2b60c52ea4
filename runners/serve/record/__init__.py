"""``runner.record``: keeps images and results of requests in a run directory."""
