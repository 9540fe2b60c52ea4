"""How often a job is done, and what is remembered between times."""

# what `runner._target_` may name
PARTS = ("batch.Batch", "plan.Plan", "repair.Repair", "save.Save", "watch.runner.Watch")
