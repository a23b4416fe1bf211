#!/usr/bin/env bash
# sbatch docs/launch/slurm.sh --data 'https://…/{00000..04096}.tar' --output /shared/runs/big …
#SBATCH --nodes=8
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=96
set -euo pipefail
ADDRESS_OF_HOST_0=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export ADDRESS_OF_HOST_0 AUTOLINK_CACHE=${AUTOLINK_CACHE:-$HOME/.cache/autolink} # one that all hosts see
# $SLURM_NODEID is each host's own, so it is filled in there.
srun bash -c 'exec accelerate launch --config_file docs/launch/eight-hosts.yaml \
    --machine_rank "$SLURM_NODEID" --main_process_ip "$ADDRESS_OF_HOST_0" --main_process_port 29500 \
    -m autolink.train "$@"' launch "$@"
