#!/bin/bash
#SBATCH --job-name=tandem
#SBATCH --nodes=4
#SBATCH --ntasks-per-node=1
#SBATCH --exclusive
#SBATCH --time=08:00:00
#SBATCH --requeue
#SBATCH --output=tandem-%j.log

# One trainer, and completions drawn on every machine of the job.
#
#     sbatch examples/cluster/slurm.sh run grpo --model MODEL --data FILE
#
# The words behind the file's name are those of `tandem`. The folder that you submit from has to be
# on a disk that all machines see. The environment is the one that is active when you submit. A job
# that was ended goes on with the same command.

set -euo pipefail

port=6379
mapfile -t machines < <(scontrol show hostnames "$SLURM_JOB_NODELIST")
head=${machines[0]}
export RAY_ADDRESS="$head:$port"

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  ray start --head --node-ip-address="$head" --port="$port" --block &
sleep 20
if ((${#machines[@]} > 1)); then
  others=$(IFS=, && echo "${machines[*]:1}")
  srun --overlap --nodes=$((${#machines[@]} - 1)) --ntasks-per-node=1 --nodelist="$others" \
    ray start --address="$RAY_ADDRESS" --block &
  sleep 20
fi

srun --overlap --nodes=1 --ntasks=1 --nodelist="$head" \
  tandem "$@" --machine.engine ray
