"""Asks the service for the answers to the images of a request."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.errors import AssetError
from runners.serve.http.bodies import Body
from runners.serve.service import Service
from runners.serve.uploads import Answer


async def answers_to(service: Service, bodies: Sequence[Body]) -> list[Answer | AssetError]:
    """Return the answer to each image, in order; for one that failed among several, its error.

    Raises:
        RequestError: The service has no room for all of them, or has failed.
        AssetError: All images failed; the error of the first.
    """
    answers = await service.predict_all([(body.path, body.name) for body in bodies])
    failures = [one for one in answers if isinstance(one, AssetError)]
    if len(failures) == len(answers):
        raise failures[0]
    return answers
