"""Lists the images in archives, by reading their headers only."""
