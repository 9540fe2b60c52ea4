"""A model of failures: how much work is done twice, and how much longer a job takes."""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import report

from runners.rundir.commit import GROUP

EVERY_S = 1.0  # a group is committed after so many seconds at the latest
AHEAD = 8  # measured on 2 cores: the least that a kill has left in flight, less the one being done
DRAWS = 20  # of each job


@dataclass(frozen=True)
class Cluster:
    """A job on nodes that fail.

    Attributes:
        assets: Number of assets.
        nodes: Number of nodes, one shard each.
        asset_s: Seconds per asset on a node.
        start_s: Seconds from a failure until the shard processes again: requeue, start, model.
        mtbf_s: Mean seconds between the failures of one node.
        ahead: Assets that are decoded, in the model, or waiting to be written.
    """

    assets: int
    nodes: int
    asset_s: float
    start_s: float
    mtbf_s: float
    ahead: int = AHEAD


def group_of(asset_s: float) -> int:
    """Return how many assets are committed together."""
    return max(1, min(GROUP, int(EVERY_S / asset_s)))


def lost_at(done: float, asset_s: float, ahead: int) -> float:
    """Return how many assets are started and not committed after so many are done."""
    return done % group_of(asset_s) + ahead


def redone_per_death(rate: float, deaths: int, seed: int, ahead: int = AHEAD) -> list[float]:
    """Return the assets that each kill at a random moment makes a run repeat.

    Args:
        rate: Assets per second.
        deaths: Number of kills.
        seed: Seed of the moments.
        ahead: See ``Cluster``.
    """
    rng = random.Random(seed)
    return [lost_at(rng.randrange(1_000_000), 1 / rate, ahead) for _ in range(deaths)]


def simulate(cluster: Cluster, seed: int) -> dict[str, float]:
    """Run the shards of a job, each until it has processed its part.

    Returns:
        ``hours`` until the last shard is done, ``ideal_hours`` without failures, ``failures``, and
        ``redone``, the number of assets that were processed twice.
    """
    rng = random.Random(seed)
    part = cluster.assets / cluster.nodes
    latest, failures, redone = 0.0, 0, 0.0
    for _ in range(cluster.nodes):
        now, done = cluster.start_s, 0.0
        next_failure = rng.expovariate(1 / cluster.mtbf_s)
        while done < part:
            end = now + (part - done) * cluster.asset_s
            if next_failure >= end:
                now, done = end, part
                continue
            failures += 1
            if next_failure > now:  # else it fails again before it has started
                processed = done + (next_failure - now) / cluster.asset_s
                redone += lost_at(processed, cluster.asset_s, cluster.ahead)
                done = processed - processed % group_of(cluster.asset_s)
            now = next_failure + cluster.start_s
            next_failure += rng.expovariate(1 / cluster.mtbf_s)
        latest = max(latest, now)
    ideal_s = cluster.start_s + part * cluster.asset_s
    return {
        "hours": latest / 3600,
        "ideal_hours": ideal_s / 3600,
        "failures": failures,
        "redone": redone,
    }


def jobs(seed: int) -> list[dict[str, Any]]:
    """Simulate jobs of a million images and of a billion, each several times; return the means."""
    hour, day = 3600.0, 86400.0
    clusters = [
        Cluster(10**6, 8, 0.05, 120, 6 * hour),
        Cluster(10**6, 8, 0.05, 120, 30 * day),
        Cluster(10**9, 512, 0.05, 300, 6 * hour),
        Cluster(10**9, 512, 0.05, 300, 30 * day),
    ]
    found = []
    for cluster in clusters:
        draws = [simulate(cluster, seed + i) for i in range(DRAWS)]
        means = {key: sum(draw[key] for draw in draws) / DRAWS for key in draws[0]}
        found.append(asdict(cluster) | means)
    return found


def show(found: dict[str, Any]) -> None:
    """Print what was measured and simulated."""
    rows = [
        [kind, f"{found['mean'][kind]:.1f}", report.shown(found["redone"][kind], 0)]
        for kind in ("measured", "simulated")
    ]
    title = f"Inputs repeated after a kill -9; {found['deaths']} kills at {found['rate']:.0f}/s"
    report.table(title, ["", "mean", "median (min..max)"], rows)
    report.table(
        "Simulated jobs",
        ["assets", "nodes", "hours between failures of a node", "failures", "redone", "hours",
         "without failures"],
        [
            [
                f"{job['assets']:,}", f"{job['nodes']}", f"{job['mtbf_s'] / 3600:.0f}",
                f"{job['failures']:.1f}", f"{job['redone']:.0f}", f"{job['hours']:.2f}",
                f"{job['ideal_hours']:.2f}",
            ]
            for job in found["jobs"]
        ],
    )  # fmt: skip
