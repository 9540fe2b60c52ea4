"""Reads live streams: the connection, and the thread that keeps it."""
