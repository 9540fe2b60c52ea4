"""Whether a model keeps state between forwards, and how to save and restore it."""
