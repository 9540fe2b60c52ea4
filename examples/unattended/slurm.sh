#!/bin/bash
# A batch on a Slurm cluster: an array of shards, then a job that merges them.
#   ./slurm.sh     submits both; run it again after failures, or for new images: shards resume
# The tasks need no connection to one another: each locks and writes its own directory,
# $OUTPUT/shards/k-of-n. They and the merge run this same script.
set -euo pipefail

# CHANGE: the program, the model, the folders (on a file system of all nodes), the number of shards.
PROGRAM=${PROGRAM:-/opt/d2run/.venv/bin/d2run}
INPUT=${INPUT:-/srv/photos}
OUTPUT=${OUTPUT:-/srv/results/slurm}
SHARDS=${SHARDS:-8}

if [[ ${1:-} == merge ]]; then
    exec "$PROGRAM" runner=merge "output=$OUTPUT" quiet=true
fi

if [[ -n ${SLURM_ARRAY_TASK_ID:-} ]]; then
    # $SHARDS, not $SLURM_ARRAY_TASK_COUNT, so that a task can be submitted alone (--array=3).
    # exec, so that Slurm's SIGTERM reaches the program: it keeps every finished result.
    exec "$PROGRAM" model=stored model.tag=crack_finder device=auto \
        "input=$INPUT" "output=$OUTPUT" "runner.shard=$SLURM_ARRAY_TASK_ID/$SHARDS" quiet=true
fi

# --requeue: the task of a node that fails starts again, and resumes. The resources are the same for
# every task, and each sees one GPU, as cuda:0, because shards of other settings cannot be merged.
array=$(sbatch --parsable --job-name=d2run --array="1-$SHARDS" --requeue --signal=B:TERM@60 \
    --gres=gpu:1 --ntasks=1 --cpus-per-task=4 --mem=16G --time=12:00:00 \
    --output=d2run-%A-%a.log "$0")

# afterany, because status 3 (some inputs failed) is a finished shard. The merge itself refuses
# shards that have not finished, with status 2, and names them.
sbatch --job-name=d2run-merge --dependency="afterany:${array%%;*}" --ntasks=1 --mem=4G \
    --time=02:00:00 --output=d2run-merge-%j.log "$0" merge
