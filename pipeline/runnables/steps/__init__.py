"""The steps around a forward: prepare a frame, fetch outputs, finish predictions."""
