"""``runner.devices``: a service with the model on several devices."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from served import Response, Served, image_file, served, served_job

from pipeline.errors import ConfigError, DeviceLostError

TWO = "runner.devices=[cpu,cuda:1]"


def ask(running: Served, height: int) -> Response:
    return running.post("/predict", image_file(height))


def test_every_device_answers_as_one_does() -> None:
    heights = [10 + i % 7 for i in range(40)]
    with served() as running:
        expected = [ask(running, height).body for height in heights]
    with served(TWO) as running, ThreadPoolExecutor(8) as clients:
        answers = list(clients.map(lambda height: ask(running, height), heights))
        assert [each.body for each in answers] == expected
        assert running.get("/info").json["devices"] == ["cpu", "cuda:1"]
        metrics = running.get("/metrics").body.decode()
        assert 'd2run_inputs_total{outcome="done"} 40.0' in metrics
        assert all(
            f'd2run_model_info{{device="{device}"' in metrics for device in ("cpu", "cuda:1")
        )


def test_devices_work_at_the_same_time() -> None:
    with served(TWO) as running, ThreadPoolExecutor(8) as clients:
        for gate in running.gates:
            gate.opened.clear()
        answers = [clients.submit(ask, running, 10) for _ in range(8)]
        assert all(gate.reached.wait(30) for gate in running.gates)
        for gate in running.gates:
            gate.opened.set()
        assert [each.result().status for each in answers] == [200] * 8


def test_a_lost_device_ends_the_service_and_every_request_is_answered() -> None:
    with served(TWO) as running, ThreadPoolExecutor(8) as clients:
        for gate in running.gates:
            gate.opened.clear()
        answers = [clients.submit(ask, running, 10) for _ in range(8)]
        assert all(gate.reached.wait(30) for gate in running.gates)
        running.gates[1].error = DeviceLostError("the device is lost")
        for gate in running.gates:
            gate.opened.set()
        statuses = [each.result().status for each in answers]
        assert set(statuses) == {200, 503}
        running.service.ended.result(30)
        assert isinstance(running.service.failure, DeviceLostError)
        assert ask(running, 10).status == 503


@pytest.mark.parametrize("value", ["[]", "cuda:0", "[0,1]"])
def test_what_is_no_list_of_devices(value: str) -> None:
    with pytest.raises(ConfigError, match=r"devices: expected a list.* or null, got "):
        served_job(f"runner.devices={value}")


def test_device_and_devices() -> None:
    job = served_job(TWO, "device=cpu")
    with pytest.raises(ConfigError, match=r"runner.devices names the devices; remove device"):
        job.runner.jobs(job)  # type: ignore[attr-defined]
