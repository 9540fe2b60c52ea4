"""The runners: how often a job runs, and which state is kept between runs."""

# what `runner._target_` may name
PARTS = (
    "batch.Batch",
    "evaluate.runner.Evaluate",
    "merge.runner.Merge",
    "plan.Plan",
    "batch.ray.RayBatch",
    "repair.Repair",
    "report.MakeReport",
    "rerun.Rerun",
    "save.Save",
    "serve.runner.Serve",
    "verify.runner.Verify",
    "watch.runner.Watch",
)
