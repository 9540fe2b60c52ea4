"""Decides when a watch scans, retries, waits and stops: every interval, with its reason."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

BACK_OFF_S = (1.0, 60.0)  # first and longest pause between attempts at an operation that fails

# How long a run may take to end after SIGTERM. Service managers and containers kill a process that
# takes longer than 10 s.
DRAIN_S = 8.0

# Each reason for skipping files is reported at most this often: every scan finds the same files.
SKIPPED_REPORT_S = 3600.0

# Multiples of settle_s. A file that cannot be decoded is tried once more if it stays unchanged:
# its writer may have closed an incomplete file and will open it again.
_RETRY_SETTLES = 4
# A file that was returned is checked for changes for this long: a writer that had only paused
# changes nothing in the directory, and the next deep scan may be hours away.
_OBSERVED_SETTLES = 12
# A pass is one scan and the processing of the files that it found. With max_passes, a pass waits
# this long for files that keep changing.
_PASS_SETTLES = 3
_MIN_RECHECK_S = 1.0  # so that ready=rename with settle_s=0 does not read a file in a busy loop

# Scans, and deep scans, may use this share of one core: while nothing changes, and while something
# does. Time in which a scan waits for the disk counts only in part, because it occupies no core.
_IDLE_SHARE = 0.004
_ACTIVE_SHARE = 0.2
_DISK_WAIT_WEIGHT = 0.1

# Finalizing rewrites lists and aggregates of all results, so it may use this share of the time.
_FINALIZE_SHARE = 0.05
# Assumed speed until the first measurement.
_FINALIZE_BYTES_PER_S = 8e6


class BackOff:
    """Pauses between attempts at an operation that fails: each twice as long as the previous one.

    Args:
        first_s: The first pause, in seconds.
        longest_s: The longest pause.
    """

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s, self.longest_s = first_s, longest_s
        self._pause_s = first_s

    def next_s(self) -> float:
        """Return the next pause, in seconds."""
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, self.longest_s)
        return pause_s

    def reset(self) -> None:
        """Start with the first pause again."""
        self._pause_s = self._first_s


class Schedule:
    """Decides when a watch scans, retries, finalizes and stops waiting.

    All times are seconds on one monotonic clock. Times of files are never compared with it.

    Args:
        poll_s: Seconds between scans.
        settle_s: Seconds that a file must stay unchanged before it is processed.
        finalize_every_s: Seconds between updates of the aggregates; 0 for none before the end.
        clock: Returns the current time.

    Attributes:
        now: Returns the current time.
        poll_s: The argument ``poll_s``.
        settle_s: The argument ``settle_s``.
        n_passes: Number of completed passes.
    """

    def __init__(
        self,
        *,
        poll_s: float = 10.0,
        settle_s: float = 5.0,
        finalize_every_s: float = 3600.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.now = clock
        self.poll_s, self.settle_s = poll_s, settle_s
        self.n_passes = 0
        self._finalize_every_s = finalize_every_s
        self._next_scan_s = self._finalized_at_s = clock()
        self._pass_started_s: float | None = None
        self._scan_cost_s = self._deep_scan_cost_s = 0.0
        self._scan_share = _IDLE_SHARE
        self._deep_scan_at_s: float | None = None
        self._back_off = BackOff(*BACK_OFF_S)
        self._retry_at_s = -math.inf
        self._finalize_requested = False
        self._finalize_took_s: float | None = None

    # Scans

    def scan_is_due(self) -> bool:
        """Return whether it is time for the next scan."""
        return self.now() >= self._next_scan_s

    def next_scan_in_s(self) -> float:
        """Return the seconds until the next scan."""
        return max(0.0, self._next_scan_s - self.now())

    def schedule_scan(self) -> None:
        """Schedule the next scan: after ``poll_s``, or later if scans are slow."""
        self._next_scan_s = self.now() + max(self.poll_s, self._scan_cost_s / self._scan_share)

    def schedule_failed_scan(self) -> None:
        """Schedule the next scan after one that failed, so that its cost is unknown."""
        self._next_scan_s = self.now() + self.poll_s

    def expedite_scan(self) -> None:
        """Scan as soon as the cost of scans allows, because an event reported a change."""
        soon_s = self.now() + self._scan_cost_s / _ACTIVE_SHARE
        self._next_scan_s = min(self._next_scan_s, soon_s)

    def record_scan(self, *, wall_s: float, cpu_s: float, is_deep: bool, is_idle: bool) -> None:
        """Record the cost of a scan.

        Args:
            wall_s: Wall time of the scan.
            cpu_s: CPU time of the scan.
            is_deep: Whether the scan listed every folder. The first scan always does.
            is_idle: Whether no folder had changed.
        """
        self._scan_cost_s = max(cpu_s, _DISK_WAIT_WEIGHT * wall_s)
        self._scan_share = _IDLE_SHARE if is_idle else _ACTIVE_SHARE
        if is_deep or self._deep_scan_at_s is None:
            self._deep_scan_at_s, self._deep_scan_cost_s = self.now(), self._scan_cost_s

    def deep_scan_is_due(self) -> bool:
        """Return whether another deep scan stays within its share of one core."""
        if self._deep_scan_at_s is None:
            return True
        return self.now() - self._deep_scan_at_s >= self._deep_scan_cost_s / _IDLE_SHARE

    # Files

    @property
    def recheck_s(self) -> float:
        """Minimum seconds before rechecking a file that changed while it was read."""
        return _MIN_RECHECK_S

    @property
    def retry_settle_s(self) -> float:
        """Seconds that a file that cannot be decoded must stay unchanged before it is retried."""
        return _RETRY_SETTLES * self.settle_s

    @property
    def observe_s(self) -> float:
        """Seconds for which a file that was returned is checked for changes."""
        return _OBSERVED_SETTLES * self.settle_s

    # Passes of a run with max_passes

    def start_pass(self) -> bool:
        """Start a pass, unless one is in progress.

        Returns:
            Whether a pass was started.
        """
        if self._pass_started_s is not None:
            return False
        self._pass_started_s = self.now()
        return True

    def pass_has_time(self) -> bool:
        """Return whether the pass in progress may wait for files that keep changing."""
        if self._pass_started_s is None:
            return False
        return self.now() - self._pass_started_s <= _PASS_SETTLES * self.settle_s

    def end_pass(self) -> None:
        """End the pass, if one is in progress."""
        if self._pass_started_s is not None:
            self.n_passes, self._pass_started_s = self.n_passes + 1, None

    # Retries after an error of the output

    def retry_in_s(self) -> float:
        """Return the seconds until the next attempt after an error; 0 without an error."""
        return max(0.0, self._retry_at_s - self.now())

    def back_off(self) -> float:
        """Schedule the next attempt after an error.

        Returns:
            Seconds until the next attempt.
        """
        pause_s = self._back_off.next_s()
        self._retry_at_s = self.now() + pause_s
        return pause_s

    def record_success(self) -> None:
        """Reset the pauses, because an attempt succeeded."""
        self._back_off.reset()
        self._retry_at_s = -math.inf

    # Finalizing: the lists and aggregates of all results

    def request_finalize(self) -> None:
        """Finalize at the next opportunity."""
        self._finalize_requested = True

    def finalize_is_due(self, journal_bytes: int) -> bool:
        """Return whether it is time to finalize, or it was requested.

        Args:
            journal_bytes: Size of all results.
        """
        if self._finalize_every_s > 0:
            cost_s = self.expected_finalize_s(journal_bytes)
            every_s = max(self._finalize_every_s, cost_s / _FINALIZE_SHARE)
            # a request persists if finalizing fails
            self._finalize_requested |= self.now() - self._finalized_at_s >= every_s
        return self._finalize_requested

    def record_finalize(self, took_s: float | None = None) -> None:
        """Record that finalizing succeeded.

        Args:
            took_s: Seconds that finalizing took; ``None`` if nothing had to be finalized.
        """
        self._finalize_requested, self._finalized_at_s = False, self.now()
        if took_s is not None:
            self._finalize_took_s = took_s

    def expected_finalize_s(self, journal_bytes: int) -> float:
        """Return about how long finalizing takes: as long as the last time, else an estimate."""
        if self._finalize_took_s is None:
            return journal_bytes / _FINALIZE_BYTES_PER_S
        return self._finalize_took_s

    # Stop

    def drain_left_s(self, stop_requested_s: float | None) -> float:
        """Return the seconds left for a graceful shutdown; infinite if no stop is requested.

        Args:
            stop_requested_s: When the stop was requested; ``None`` if no stop is requested.
        """
        if stop_requested_s is None:
            return math.inf
        return stop_requested_s + DRAIN_S - self.now()
