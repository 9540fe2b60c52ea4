"""The services that serve.py compares with: what users write around ``DefaultPredictor``.

    python benchmarks/services.py fastapi CASE DEVICE PORT
    CASE=... DEVICE=... bentoml serve benchmarks/services.py:Bento    # serve.py starts it

Both answer ``POST /predict`` with the boxes, scores, classes and RLE masks of one image.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from PIL.Image import Image  # BentoML looks the types of a signature up here


class Detector:
    """``DefaultPredictor`` behind a lock: Detectron2's models are not meant for several threads."""

    def __init__(self, case: Path, device: str) -> None:
        sys.path.insert(0, str(Path(__file__).parent))
        from contenders import default_predictor

        self._predictor = default_predictor(case, device)
        self._lock = Lock()

    def detect(self, image: np.ndarray) -> list[dict[str, Any]]:
        """Return the instances of a BGR image."""
        from pycocotools import mask as coco_mask

        with self._lock:
            instances = self._predictor(image)["instances"].to("cpu")
        boxes, found = instances.pred_boxes.tensor.numpy(), []
        for i in range(len(instances)):
            rle = coco_mask.encode(np.asfortranarray(instances.pred_masks[i].numpy()))
            found.append(
                {
                    "class_id": int(instances.pred_classes[i]),
                    "box": boxes[i].tolist(),
                    "score": float(instances.scores[i]),
                    "mask": {"size": rle["size"], "counts": rle["counts"].decode()},
                }
            )
        return found


def serve_fastapi(case: str, device: str, port: str) -> None:
    """Serve with FastAPI: a plain function, which FastAPI runs on a thread."""
    import cv2
    import uvicorn
    from fastapi import Body, FastAPI

    detector, app = Detector(Path(case), device), FastAPI()

    @app.post("/predict")
    def predict(image: bytes = Body(media_type="image/jpeg")) -> dict[str, Any]:
        decoded = cv2.imdecode(np.frombuffer(image, np.uint8), cv2.IMREAD_COLOR)
        return {"instances": detector.detect(decoded)}

    uvicorn.run(app, port=int(port), log_level="warning")


def bento() -> Any:
    """Return BentoML's new-style service."""
    import bentoml

    @bentoml.service(workers=1, traffic={"timeout": 600, "max_concurrency": 64})
    class Bento:
        def __init__(self) -> None:
            self.detector = Detector(Path(os.environ["CASE"]), os.environ["DEVICE"])

        @bentoml.api  # type: ignore[untyped-decorator]
        def predict(self, image: Image, /) -> dict[str, Any]:
            bgr = np.ascontiguousarray(np.asarray(image.convert("RGB"))[:, :, ::-1])
            return {"instances": self.detector.detect(bgr)}

    return Bento


if __name__ == "__main__":
    serve_fastapi(*sys.argv[2:])
elif "CASE" in os.environ:
    Bento = bento()
