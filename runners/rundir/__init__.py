"""The output directory of a run: lock, ledger, journal, order of commits, records."""
