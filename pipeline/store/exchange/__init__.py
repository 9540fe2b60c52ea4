"""Models out of the store and into it: archives, folders, addresses, BentoML, trainings."""
