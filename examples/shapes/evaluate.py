"""Runs `model=shapes` on new scenes and prints its average precision as JSON.

    python examples/shapes/evaluate.py --seed 1 --scenes 500 device=cpu

Further arguments are overrides for ``run.py``, such as a device, precision or engine.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from scenes import write

RUN = Path(__file__).resolve().parents[2] / "run.py"


def score(evaluation: Path) -> dict[str, float]:
    """Returns COCO's average precision of boxes and of masks, in percent."""
    found = json.loads(evaluation.read_text())
    return {
        f"{kind}_{name.lower()}": round(100 * found[kind][name], 2)
        for kind in ("box", "mask")
        for name in ("AP", "AP50")
    }


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
            *(sys.executable, str(RUN), "runner=evaluate", "model=shapes"),
            *("model.score_threshold=0.05", "stage=[]", "sink=[]", "quiet=true"),
            *(f"input={annotations}", f"output={output}", *args.overrides),
        ]
        status = subprocess.run(command, stdout=sys.stderr).returncode
        if status:
            sys.exit(status)
        scores = score(output / "evaluation.json")
    print(json.dumps({"seed": args.seed, "scenes": args.scenes, **scores}))


if __name__ == "__main__":
    main()
