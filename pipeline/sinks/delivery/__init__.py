"""Delivers files to a URL in the background: what ``sink=webhook`` does beside the job."""
