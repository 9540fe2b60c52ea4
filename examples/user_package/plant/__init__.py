"""A custom package: stages, sinks and a source for the cameras of a plant."""
