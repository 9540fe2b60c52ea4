"""Models: configs, architectures, weights and class names, checked before anything is loaded."""
