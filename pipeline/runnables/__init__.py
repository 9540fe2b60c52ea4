"""Models on devices."""

# what `runnable._target_` may name
PARTS = ("detectron2.Detectron2", "fake.FakeRunnable", "replay.Replay")
