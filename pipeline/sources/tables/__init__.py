"""Readers of tables that list images: CSV and Parquet."""
