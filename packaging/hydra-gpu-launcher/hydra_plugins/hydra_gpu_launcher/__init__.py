"""``hydra/launcher=gpu``: the jobs of a sweep in parallel, each in a process with its own GPU."""
