#!/usr/bin/env bash
# Runs fmdp on all hosts of a TPU slice: creates the slice if needed, copies this checkout and starts fmdp.main there.
#
#   launch/tpu_vm.sh --name=fmdp --zone=us-west4-a --type=v5litepod-16 --version=v2-alpha-tpuv5-lite \
#     --nfs=10.0.0.2:/runs -- --config=configs/afhq.py --workdir=/mnt/fmdp/afhq
#
# --spot requests a slice that may be preempted. Run the same command again to create a new one and resume from the latest
# checkpoint. --nfs is mounted at /mnt/fmdp; several hosts or a preemptible slice need a workdir there.
# --dry-run prints the commands. The slice keeps running until launch/tpu_vm.sh --name= --zone= --delete.
set -euo pipefail
cd "$(dirname "$0")/.."

fail() { echo "tpu_vm.sh: $*" >&2; exit 2; }

name='' zone='' type='' version=tpu-ubuntu2204-base nfs='' spot='' dry='' delete=''
while (($#)); do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --type=*) type=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --nfs=*) nfs=${1#*=} ;;
    --spot) spot=--spot ;;
    --dry-run) dry=1 ;;
    --delete) delete=1 ;;
    --) shift; break ;;
    *) fail "unknown option $1: see the head of this file; the arguments of fmdp.main come after --" ;;
  esac
  shift
done
[[ $name && $zone ]] || fail "--name and --zone are needed"
[[ $delete || $type ]] || fail "--type is needed, such as --type=v5litepod-16"
[[ $delete || $# -gt 0 ]] || fail "nothing for fmdp.main: name a --config after --"
[[ $dry ]] || command -v gcloud >/dev/null || fail "gcloud is not installed: install the Google Cloud CLI"

run() { if [[ $dry ]]; then printf '%q ' "$@"; echo; else "$@"; fi; }
tpu() { run gcloud compute tpus tpu-vm "$1" "$name" --zone="$zone" --quiet "${@:2}"; }
everywhere() { tpu ssh --worker=all --command="$1"; }

if [[ $delete ]]; then tpu delete; exit; fi

state=''
if [[ ! $dry ]]; then
  state=$(gcloud compute tpus tpu-vm describe "$name" --zone="$zone" --format='value(state)' 2>/dev/null || true)
fi
if [[ $state == PREEMPTED || $state == TERMINATED ]]; then tpu delete; state=''; fi
if [[ -z $state ]]; then
  tpu create --accelerator-type="$type" --version="$version" ${spot:+"$spot"}
fi

archive=$(mktemp --suffix=.tar.gz)
trap 'rm -f "$archive"' EXIT
tar -czf "$archive" --exclude=__pycache__ pyproject.toml constraints.txt README.md LICENSE fmdp configs
run gcloud compute tpus tpu-vm scp "$archive" "$name:fmdp.tar.gz" --zone="$zone" --worker=all --quiet

everywhere 'set -e; mkdir -p fmdp && tar xzf fmdp.tar.gz -C fmdp && cd fmdp &&
  sudo apt-get -qq update && sudo apt-get -qq install -y python3.11-venv nfs-common >/dev/null &&
  python3.11 -m venv .venv && .venv/bin/pip install -q -c constraints.txt -e ".[tpu]"'
if [[ $nfs ]]; then
  everywhere "$(printf 'sudo mkdir -p /mnt/fmdp && { mountpoint -q /mnt/fmdp || sudo mount -t nfs %q /mnt/fmdp; }' "$nfs")"
fi
arguments=$(printf '%q ' "$@")
everywhere "cd fmdp && .venv/bin/python -m fmdp.main --distributed=auto $arguments"
