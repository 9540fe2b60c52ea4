"""What ``model=`` describes: configs, architectures, weights, class names, and their checks."""
