"""From files to pixels: readers, damage checks, and isolated decoder processes."""
