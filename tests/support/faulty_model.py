"""The fake model, which takes its time, and does not survive some images: see the environment.

FAULTY_SLEEP_S   seconds per frame
FAULTY_CRASH_ON  ids of assets that end the process, separated by commas
FAULTY_HANG_ON   ids of assets that it never returns from
FAULTY_LOSE_ON   ids of assets with which it loses its device
FAULTY_LOG       file that gets a line per frame
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from typing import Any

from pipeline.errors import DeviceLostError
from pipeline.records import Frame, Predictions
from pipeline.runnables.fake import FakeRunnable


class FaultyModel(FakeRunnable):
    def __init__(self, model: Any = None, device: str = "cpu", **options: Any) -> None:
        super().__init__(model, device, **options)

    def predict(self, frames: Sequence[Frame]) -> list[Predictions]:
        ids = [frame.asset_id for frame in frames]
        if log := os.environ.get("FAULTY_LOG"):
            descriptor = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.write(descriptor, "".join(f"{each}\n" for each in ids).encode())
            os.close(descriptor)
        if set(ids) & set(os.environ.get("FAULTY_CRASH_ON", "").split(",")):
            os._exit(139)
        if set(ids) & set(os.environ.get("FAULTY_LOSE_ON", "").split(",")):
            raise DeviceLostError("the device is lost")
        while set(ids) & set(os.environ.get("FAULTY_HANG_ON", "").split(",")):
            time.sleep(1)
        time.sleep(float(os.environ.get("FAULTY_SLEEP_S", "0")) * len(ids))
        return super().predict(frames)
