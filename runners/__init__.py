"""How often a job is done, and what is remembered between times."""
