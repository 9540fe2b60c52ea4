"""The ledger of an output directory: which inputs are done, in ``ledger.sqlite``."""
