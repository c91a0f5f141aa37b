# shellcheck shell=bash
# Read by the batch files beside this one: keys, caches and ports, and how nla-serve ends with its job.
# What they take from the environment, README.md beside this file lists.
set -euo pipefail
umask 077 # keys and addresses are for you alone

: "${NLA_HOME:=$HOME/.nla-serve}" # on a disk that all nodes see
: "${NLA_HOST:=$(hostname -f)}"   # by which other nodes know this one
: "${NLA_LISTEN:=0.0.0.0}"        # where callers of other nodes are taken
# Two jobs on one node have other ports, unless their ids are 5000 apart.
: "${NLA_PORT:=$((20000 + SLURM_JOB_ID % 5000))}"
: "${NLA_ENGINE_PORT:=$((NLA_PORT + 5000))}"
mkdir -p "$NLA_HOME/addresses"

# Checkpoints are fetched once for all nodes. What is compiled for the GPUs of a node stays on its own disk.
export HF_HOME="${HF_HOME:-$NLA_HOME/huggingface}"
node_disk="${SLURM_TMPDIR:-${TMPDIR:-/tmp}}/nla-serve-$(id -u)"
export TRITON_CACHE_DIR="$node_disk/triton" TORCHINDUCTOR_CACHE_DIR="$node_disk/inductor"
export FLASHINFER_WORKSPACE_BASE="$node_disk"

# One key for callers and one between machines, made by whichever job comes first.
key() {
  local made
  if [ ! -s "$NLA_HOME/$1" ]; then
    made=$(mktemp "$NLA_HOME/$1.XXXXXX")
    openssl rand -hex 32 > "$made"
    ln "$made" "$NLA_HOME/$1" 2> /dev/null || true # another job was first
    rm "$made"
  fi
  cat "$NLA_HOME/$1"
}
NLA_API_KEY=$(key api-key)
NLA_ENGINE_KEY=$(key engine-key)
export NLA_API_KEY NLA_ENGINE_KEY

# Runs a command as the job's own. Slurm tells this shell before the time is up (--signal=B:TERM@120): nla-serve then
# answers what it has in flight, and ends.
serve() {
  local code
  "$@" &
  serving=$!
  trap stop TERM INT
  while true; do
    code=0
    wait "$serving" || code=$?
    kill -0 "$serving" 2> /dev/null || return "$code"
  done
}

stop() {
  kill -TERM "$serving" 2> /dev/null || true
}

# Has a file removed when this job ends.
passing=()
remove_at_end() {
  passing+=("$1")
  trap 'rm -f "${passing[@]}"' EXIT
}

# Leaves an address where others look for it, for as long as this job runs.
announce() {
  echo "$2" > "$NLA_HOME/addresses/.$1" # whole before it has a name that is looked for
  mv "$NLA_HOME/addresses/.$1" "$NLA_HOME/addresses/$1"
  remove_at_end "$NLA_HOME/addresses/$1"
}
