"""The command line of the model store."""
