"""A stored model behind HTTP, in BentoML's server: `bentoml serve` in this directory."""

from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import bentoml
from bentoml.exceptions import InvalidArgument
from pydantic import BaseModel, BeforeValidator, Field

from pipeline import DecodeError, Predictor, find_model
from pipeline.store import ModelStore

MODELS = Path(__file__).parent / "models"  # comes with an export; without it, your store is used


class Arguments(BaseModel):
    """Set by `bentoml serve --arg tag=crack_finder:latest`, or under `args` in bentofile.yaml."""

    tag: str = "shapes"
    trust: bool = False  # whether Python modules that were saved with the model may run


class Images(bentoml.IODescriptor):
    """The images of a request: one as its body, or files in the field `images` of a form."""

    images: Annotated[list[Path], Field(min_length=1)]

    @classmethod
    async def from_http_request(cls, request, serde):
        kind = request.headers.get("content-type", "")
        if kind == "application/vnd.bentoml+pickle":  # from another service of the deployment
            return await super().from_http_request(request, serde)
        if not kind.startswith("multipart/"):
            return cls(images=[await request.body()])
        try:
            form = await request.form()
        except Exception as exc:  # the parser's own types, which BentoML would answer with 500
            raise InvalidArgument(f"the form cannot be read: {exc}") from exc
        files = form.getlist("images")
        return cls(images=[each if isinstance(each, str) else await each.read() for each in files])


class Detections(BaseModel):
    """The instances in one image."""

    boxes: list[list[float]]  # x1, y1, x2, y2 in pixels
    scores: list[float]
    classes: list[int]
    class_names: list[str]


def raise_error(results):
    """Fail a request that has a broken image. The others in its batch are answered."""
    for number, result in enumerate(results):
        if isinstance(result, DecodeError):
            reason = str(result).removeprefix(f"{result.asset_id}: ")
            raise InvalidArgument(f"image {number}: {reason}")  # status 400
        if isinstance(result, Exception):
            raise result  # status 500, with a traceback in the server's log
    return results


@bentoml.service(name="detectron_service", image=bentoml.images.Image().build_include("wheels"))
class DetectronService:
    def __init__(self):
        arguments = bentoml.use_arguments(Arguments)
        store = ModelStore(MODELS if MODELS.is_dir() else None)
        model = find_model(arguments.tag, store=store, trust=arguments.trust)
        self.resources = ExitStack()
        self.predictor = self.resources.enter_context(Predictor(model))

    @bentoml.api(batchable=True, max_batch_size=16, input_spec=Images)
    def predict(
        self, images: list[Path]
    ) -> Annotated[list[Detections], BeforeValidator(raise_error)]:
        results = self.predictor(images, return_exceptions=True)
        return [each if isinstance(each, Exception) else describe(each) for each in results]

    @bentoml.on_shutdown
    def close(self):
        self.resources.close()


def describe(predictions):
    return Detections(
        boxes=predictions.boxes.tolist(),
        scores=predictions.scores.tolist(),
        classes=predictions.classes.tolist(),
        class_names=[predictions.class_names[i] for i in predictions.classes],
    )
