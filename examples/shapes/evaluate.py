"""Runs `model=shapes` on new scenes and prints its average precision as JSON.

    python examples/shapes/evaluate.py --seed 1 --scenes 500 device=cpu

Further arguments are overrides for ``run.py``, such as a device, precision or engine.
"""

import argparse
import contextlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from scenes import write

RUN = Path(__file__).resolve().parents[2] / "run.py"


def score(annotations: Path, run_dir: Path) -> dict[str, float]:
    """Compares the detections of a run with the ground truth.

    Args:
        annotations: a COCO file of the input.
        run_dir: has the run's ``coco.json`` and ``coco_results.json``.

    Returns:
        COCO's average precision of boxes and of masks, in percent.
    """
    with contextlib.redirect_stdout(sys.stderr):
        truth = COCO(str(annotations))
        run = json.loads((run_dir / "coco.json").read_text())
        images = _translation(run["images"], truth.dataset["images"], "file_name")
        categories = _translation(run["categories"], truth.dataset["categories"], "name")
        results = json.loads((run_dir / "coco_results.json").read_text())
        for result in results:
            result["image_id"] = images[result["image_id"]]
            result["category_id"] = categories[result["category_id"]]
        scores = {}
        for name, kind in (("box", "bbox"), ("mask", "segm")):
            stats = [0.0, 0.0]
            if results:
                judge = COCOeval(truth, truth.loadRes(results), kind)
                judge.evaluate()
                judge.accumulate()
                judge.summarize()
                stats = judge.stats
            scores |= {
                f"{name}_ap": round(100 * float(stats[0]), 2),
                f"{name}_ap50": round(100 * float(stats[1]), 2),
            }
    return scores


def _translation(old: list[dict], new: list[dict], key: str) -> dict[int, int]:
    """Ids of one COCO list to those of another, of the entries with the same ``key``."""
    ids = {entry[key]: entry["id"] for entry in new}
    return {entry["id"]: ids[entry[key]] for entry in old}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scenes", type=int, default=500)
    parser.add_argument("overrides", nargs="*", metavar="OVERRIDE", help="for run.py")
    args = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as directory:
        annotations = write(args.seed, args.scenes, Path(directory, "scenes"))
        output = Path(directory, "run")
        command = [
            *(sys.executable, str(RUN), "model=shapes", "model.score_threshold=0.05"),
            *(f"input={annotations.parent}", f"output={output}", "stage=[]", "sink=[coco]"),
            *("quiet=true", *args.overrides),
        ]
        status = subprocess.run(command, stdout=sys.stderr).returncode
        if status:
            sys.exit(status)
        report = {"seed": args.seed, "scenes": args.scenes, **score(annotations, output)}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
