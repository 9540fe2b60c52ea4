"""What the sinks for annotation and training tools share: instances, polygons, file names."""
