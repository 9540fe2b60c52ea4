"""The configuration tree; a package so that an installed d2run finds it."""
