"""``GET /metrics`` and ``GET /info``."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families
from served import Served, form, image_file
from served import served as serving

from pipeline.system.versions import VERSION


@pytest.fixture
def served() -> Iterator[Served]:
    with serving("model=shapes") as service:
        yield service


def scraped(served: Served) -> dict[tuple[str, ...], float]:
    """Return the values by name and labels, in the order of the labels' names."""
    response = served.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(response.body.decode())
        for sample in family.samples
    }


def test_metrics(served: Served) -> None:
    before = scraped(served)
    assert before["d2run_inputs_total", "done"] == before["d2run_inputs_total", "failed"] == 0
    assert before["d2run_build_info", VERSION] == 1
    assert before["d2run_healthy",] == 1
    assert before["d2run_in_flight",] == 0
    (model,) = (key for key in before if key[0] == "d2run_model_info")
    assert model[3:] == ("shapes", "shapes:1")
    one = served.post("/predict", image_file()).json
    served.post("/predict", *form(("a", image_file()), ("b", image_file(40))))
    served.post("/predict", b"x")
    served.get("/v2/models/other")
    served.get("/v2/models/shapes")
    for path in ("/x", "/y/z", "/%00"):
        assert served.get(path).status == 404
    served.get("/openapi.json")
    after = scraped(served)
    assert after["d2run_requests_total", "/openapi.json", "200"] == 1
    assert after["d2run_requests_total", "/predict", "200"] == 2
    assert after["d2run_requests_total", "/predict", "422"] == 1
    assert after["d2run_requests_total", "/v2/models/{name}", "404"] == 1
    assert after["d2run_requests_total", "/v2/models/{name}", "200"] == 1
    assert after["d2run_requests_total", "none", "404"] == 3
    assert after["d2run_requests_total", "/metrics", "200"] == 1  # the one before
    assert after["d2run_request_seconds_count", "/predict"] == 3
    assert after["d2run_inputs_total", "done"] == 3
    assert after["d2run_inputs_total", "failed"] == 1
    assert after["d2run_batch_size_count",] == after["d2run_batch_size_sum",] == 3
    assert after["d2run_in_flight",] == 0
    instances = {key[1]: n for key, n in after.items() if key[0] == "d2run_instances_total"}
    assert sum(instances.values()) == 9
    assert {instance["class_name"] for instance in one["instances"]} <= instances.keys()
    for step in ("decode", "forward"):
        assert after["d2run_seconds_total", step] > 0


def test_each_service_counts_for_itself(served: Served) -> None:
    served.post("/predict", image_file())
    with serving("model=shapes") as other:
        assert scraped(other)["d2run_inputs_total", "done"] == 0


def test_a_service_that_stops_is_not_healthy(served: Served) -> None:
    served.service.is_draining = True
    assert scraped(served)["d2run_healthy",] == 0


def test_info(served: Served) -> None:
    info = served.get("/info").json
    assert info["version"] == VERSION
    assert (info["model"]["tag"], info["model"]["name"]) == ("shapes:1", "shapes")
    assert len(info["model"]["digest"]) >= 64
    assert info["class_names"] == ["circle", "square", "triangle"]
    assert "device" in info
