from __future__ import annotations

import math

import pytest

from runners.watch.schedule import DRAIN_S, BackOff, Schedule


def scanned(schedule: Schedule, *, cpu_s: float = 0.0, wall_s: float = 0.0, **kind: bool) -> None:
    is_deep, is_idle = kind.get("is_deep", False), kind.get("is_idle", False)
    schedule.record_scan(wall_s=wall_s, cpu_s=cpu_s, is_deep=is_deep, is_idle=is_idle)


def test_scans_of_a_small_folder_are_poll_s_apart(clock):
    schedule = Schedule(poll_s=10.0, clock=clock)
    assert schedule.scan_is_due()
    scanned(schedule, cpu_s=0.001)
    schedule.schedule_scan()
    assert schedule.next_scan_in_s() == 10.0
    clock.now += 9.9
    assert not schedule.scan_is_due()
    clock.now += 0.1
    assert schedule.scan_is_due()
    assert schedule.next_scan_in_s() == 0.0


@pytest.mark.parametrize(
    ("cpu_s", "wall_s", "is_idle", "pause_s"),
    [
        (2.0, 2.0, False, 2.0 / 0.2),
        (0.25, 0.25, True, 0.25 / 0.004),
        (0.25, 100.0, True, 10.0 / 0.004),  # a tenth of the time on the disk counts
    ],
)
def test_slow_scans_are_far_apart(cpu_s, wall_s, is_idle, pause_s, clock):
    schedule = Schedule(poll_s=1.0, clock=clock)
    scanned(schedule, cpu_s=cpu_s, wall_s=wall_s, is_idle=is_idle)
    schedule.schedule_scan()
    assert schedule.next_scan_in_s() == pytest.approx(pause_s)


def test_an_event_expedites_a_scan_but_never_delays_one(clock):
    schedule = Schedule(poll_s=10.0, clock=clock)
    scanned(schedule, cpu_s=0.1, is_idle=True)
    schedule.schedule_scan()
    schedule.expedite_scan()
    assert schedule.next_scan_in_s() == pytest.approx(0.5)
    clock.now += 0.4
    schedule.expedite_scan()
    assert schedule.next_scan_in_s() == pytest.approx(0.1)


def test_a_failed_scan_is_repeated_after_poll_s(clock):
    schedule = Schedule(poll_s=10.0, clock=clock)
    scanned(schedule, cpu_s=60.0, is_idle=True)
    schedule.schedule_failed_scan()
    assert schedule.next_scan_in_s() == 10.0


def test_deep_scans_use_a_small_share_of_a_core(clock):
    schedule = Schedule(clock=clock)
    assert schedule.deep_scan_is_due()
    scanned(schedule, cpu_s=2.0)  # the first one is deep
    assert not schedule.deep_scan_is_due()
    clock.now += 499.9
    scanned(schedule, cpu_s=0.001)
    assert not schedule.deep_scan_is_due()
    clock.now += 0.2
    assert schedule.deep_scan_is_due()
    scanned(schedule, cpu_s=0.0, is_deep=True)
    assert schedule.deep_scan_is_due()


def test_waits_for_files_are_multiples_of_settle_s():
    schedule = Schedule(settle_s=3.0)
    assert (schedule.retry_settle_s, schedule.observe_s, schedule.recheck_s) == (12.0, 36.0, 1.0)


def test_a_pass_ends_when_its_patience_does(clock):
    schedule = Schedule(settle_s=5.0, clock=clock)
    assert not schedule.pass_has_time()
    assert schedule.start_pass()
    assert not schedule.start_pass(), "one is in progress"
    clock.now += 15.0
    assert schedule.pass_has_time()
    clock.now += 0.1
    assert not schedule.pass_has_time()
    schedule.end_pass()
    schedule.end_pass()
    assert schedule.n_passes == 1
    assert schedule.start_pass()


def test_errors_are_retried_after_longer_and_longer_pauses(clock):
    schedule = Schedule(clock=clock)
    assert schedule.retry_in_s() == 0.0
    assert [schedule.back_off() for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert schedule.retry_in_s() == 60.0
    clock.now += 59.0
    assert schedule.retry_in_s() == 1.0
    schedule.record_success()
    assert schedule.retry_in_s() == 0.0
    assert schedule.back_off() == 1.0


def test_back_off_starts_again_after_a_reset():
    back_off = BackOff(0.5, 3.0)
    assert [back_off.next_s() for _ in range(5)] == [0.5, 1.0, 2.0, 3.0, 3.0]
    back_off.reset()
    assert back_off.next_s() == 0.5


def test_finalizing_is_due_from_time_to_time(clock):
    schedule = Schedule(finalize_every_s=100.0, clock=clock)
    assert not schedule.finalize_is_due(0)
    clock.now += 100.0
    assert schedule.finalize_is_due(0)
    assert schedule.finalize_is_due(0), "until it is done"
    schedule.record_finalize()
    assert not schedule.finalize_is_due(0)


def test_finalizing_takes_at_most_a_twentieth_of_the_time(clock):
    schedule = Schedule(finalize_every_s=100.0, clock=clock)
    clock.now += 100.0
    assert not schedule.finalize_is_due(80_000_000), "10 s, as an estimate"
    clock.now += 100.0
    assert schedule.finalize_is_due(80_000_000)
    schedule.record_finalize(30.0)
    assert schedule.expected_finalize_s(80_000_000) == 30.0, "as measured"
    clock.now += 599.0
    assert not schedule.finalize_is_due(0)
    clock.now += 1.0
    assert schedule.finalize_is_due(0)
    schedule.record_finalize(None)
    assert schedule.expected_finalize_s(0) == 30.0


def test_finalizing_is_due_at_once_on_request(clock):
    schedule = Schedule(finalize_every_s=0, clock=clock)
    clock.now += 1e6
    assert not schedule.finalize_is_due(0), "0: only at the end"
    schedule.request_finalize()
    assert schedule.finalize_is_due(10**12)
    schedule.record_finalize(1.0)
    assert not schedule.finalize_is_due(0)


def test_the_time_to_drain_starts_with_the_request(clock):
    schedule = Schedule(clock=clock)
    assert schedule.drain_left_s(None) == math.inf
    requested_s = clock()
    clock.now += DRAIN_S - 1.0
    assert schedule.drain_left_s(requested_s) == pytest.approx(1.0)
    clock.now += 2.0
    assert schedule.drain_left_s(requested_s) < 0
