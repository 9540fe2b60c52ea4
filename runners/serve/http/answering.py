"""Asks the service for the answers to the images of a request."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from pipeline.errors import AssetError
from runners.serve.http.bodies import Body
from runners.serve.service import Service
from runners.serve.uploads import Answer


async def answers_to(service: Service, bodies: Sequence[Body]) -> list[Answer | AssetError]:
    """Return the answer to each image, in order; for one that failed among several, its error.

    Raises:
        RequestError: The service is full or does not accept requests.
        AssetError: All images failed; the error of the first.
    """
    tasks = (service.predict(body.path, body.name) for body in bodies)
    # all of them end before an error is raised, because their files are removed then
    found = await asyncio.gather(*tasks, return_exceptions=True)
    answers: list[Answer | AssetError] = []
    for one in found:
        if isinstance(one, BaseException) and not isinstance(one, AssetError):
            raise one
        answers.append(one)
    failures = [one for one in answers if isinstance(one, AssetError)]
    if len(failures) == len(answers):
        raise failures[0]
    return answers
