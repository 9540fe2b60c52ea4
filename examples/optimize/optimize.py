"""Searches for the score thresholds and the NMS with the best F1, with optuna.

    python examples/optimize/optimize.py --run runs/base --ground-truth annotations.json

Each trial replays the run with other stages and evaluates it; no model runs. Equal seeds give
equal trials. Needs pip install 'd2run[optuna]'.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from pipeline.errors import ConfigError  # noqa: E402 - the repository is on the path now
from pipeline.recorded import read_run  # noqa: E402
from pipeline.validation import check_installed  # noqa: E402
from runners.reporting.sweep import SweepJob, print_sweep, write_sweep  # noqa: E402
from runners.reporting.sweep_page import write_sweep_page  # noqa: E402


def evaluate(
    run: Path, truth: Path, output: Path, overrides: list[str]
) -> subprocess.CompletedProcess:
    """Replays the run with these overrides, and evaluates the result."""
    command = [
        *(sys.executable, str(ROOT / "run.py"), "runnable=replay", f"runnable.run={run}"),
        *("runner=evaluate", f"runner.ground_truth={truth}", "runner.metric=f1.unfiltered"),
        *("stage=[min_score,nms]", "sink=[]", "quiet=true", f"output={output}", *overrides),
    ]
    return subprocess.run(command, capture_output=True, text=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="a run with low scores")
    parser.add_argument("--ground-truth", type=Path, required=True, help="COCO annotations")
    parser.add_argument("--output", type=Path, default=Path("runs/optuna"))
    parser.add_argument("--trials", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    try:
        check_installed("optuna", extra="optuna")
        names = read_run(args.run).categories.thing_names
    except ConfigError as exc:
        sys.exit(f"error: {exc}")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(seed=args.seed)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    jobs = []
    for number in range(args.trials):
        trial = study.ask()
        least = {name: trial.suggest_float(name, 0.05, 0.95, step=0.01) for name in names}
        scores = ", ".join(f"{name}: {score:.2f}" for name, score in least.items())
        agnostic = trial.suggest_categorical("class_agnostic", [False, True])
        iou = trial.suggest_float("iou_threshold", 0.1, 0.9, step=0.05)
        overrides = [
            f"stage.min_score.thresholds={{{scores}}}",
            f"stage.nms.iou_threshold={iou:.2f}",
            f"stage.nms.class_agnostic={str(agnostic).lower()}",
        ]
        output, started = args.output / str(number), time.monotonic()
        done = evaluate(args.run, args.ground_truth, output, overrides)
        metric = None
        if done.returncode == 0:
            metric = json.loads((output / "evaluation.json").read_text())["metric"]["value"]
        state = optuna.trial.TrialState.FAIL if metric is None else None
        study.tell(trial, metric, state=state)
        shown = (*(f"{name}={score:.2f}" for name, score in least.items()), *overrides[1:])
        seconds = time.monotonic() - started
        jobs.append(
            SweepJob.of(number, shown, done.returncode, seconds, output.absolute(), metric,
                        done.stderr if done.returncode else "")
        )  # fmt: skip
        said = done.stderr.strip() if metric is None else f"{metric:.4f}"
        print(f"trial {number}: {said}", file=sys.stderr)
    directory = args.output.absolute()
    print_sweep(directory, jobs)
    write_sweep(directory, jobs)
    write_sweep_page(directory, jobs)
    sys.exit(max(job.status for job in jobs))


if __name__ == "__main__":
    main()
