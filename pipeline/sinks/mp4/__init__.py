"""Encodes frames as H.264 in segments that outlive the process, and joins them to an MP4 file."""
