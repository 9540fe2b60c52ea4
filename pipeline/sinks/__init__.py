"""What is done with the results: files of one asset each, and files over the whole run."""
