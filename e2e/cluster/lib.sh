# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by the scripts
# What every script in this folder shares: versions, log lines, the cache folder, locks, cache entries, checks. Sourced, never run.
# All of its lines go to stderr, so that a script's stdout holds its result alone.
set -euo pipefail
shopt -s inherit_errexit

HERE=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$HERE/../.." && pwd)

# --- versions (those of Go modules and their dependencies are pinned in modules/*/go.mod) ---
CLUSTER=commerce
KUBERNETES=v1.34.10
SUITE=bookworm           # the Debian release that images are assembled from
REGISTRY=commerce.local  # prefix of the names of images that are made here
# taken where a registry answers, in place of a node image built here
OFFICIAL_NODE_IMAGE=${NODE_IMAGE:-docker.io/kindest/node:v1.34.11@sha256:44e222ee2132dab25ff87301682f89eb82c7880ea3a1bf543bfe9708fd08d67d}

# --- what a user can set, besides COMMERCE_CACHE ---
# auto: fitting tools of PATH and official images where they can be had, the rest is built; always: build all of it;
# never: build nothing, and fail where something is missing.
COMMERCE_BUILD=${COMMERCE_BUILD:-auto}
export HTTP_PORT=${HTTP_PORT:-80} HTTPS_PORT=${HTTPS_PORT:-443} # where the cluster's ingress listens on 127.0.0.1
WORKERS=${WORKERS:-0} # nodes of a new cluster besides the first

# --- log lines ---
say() { printf '    %s\n' "$*" >&2; }

# step WHAT: announces a script's work; when the script ends well, a second line tells how long it took.
step() {
  printf '==> %s\n' "$*" >&2
  step_started=$SECONDS
  trap '[ $? -ne 0 ] || printf "    done in %ss\n" "$((SECONDS - step_started))" >&2' EXIT
}

# die MESSAGE...: what was being done, and what to do about it. One argument is one line.
die() {
  printf 'error: %s\n' "$1" >&2
  shift
  [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
  exit 1
}

case $COMMERCE_BUILD in
  auto | always | never) ;;
  *) die "COMMERCE_BUILD is '$COMMERCE_BUILD'" "it takes auto, always or never" ;;
esac

# --- the cache folder ---
# Where what is built or fetched is kept between runs. For root it is one that others can read, since stores run as an
# unprivileged user and root's home is closed to it.
cache_dir() {
  local folder
  if [ -n "${COMMERCE_CACHE:-}" ]; then
    folder=$COMMERCE_CACHE
  elif [ "$(id -u)" -eq 0 ]; then
    folder=/var/cache/commerce-pipeline
  else
    folder=${XDG_CACHE_HOME:-$HOME/.cache}/commerce-pipeline
  fi
  mkdir -p "$folder"/{bin,lock,log,state} 2>/dev/null || die "cannot create the cache folder $folder" "set COMMERCE_CACHE to a folder that you may write"
  printf '%s\n' "$folder"
}

CACHE=$(cache_dir)
STATE=$CACHE/state # what this machine's cluster and engine were made of
export KUBECONFIG=$CACHE/kubeconfig PATH=$CACHE/bin:$PATH

# digest FILE|FOLDER...: 12 hexadecimal digits that change when the contents do.
digest() { find "$@" -type f -print0 | LC_ALL=C sort -z | xargs -0 cat -- | sha256sum | cut -c1-12; }

# digest_words WORD...: the same for words.
digest_words() { printf '%s\n' "$@" | sha256sum | cut -c1-12; }

# locked NAME COMMAND [ARGUMENT...]: runs it while no other process holds the lock NAME. What it starts does not inherit the lock.
locked() {
  local lock_name=$1
  shift
  (
    flock -n 9 || { say "waiting for another run that works on $lock_name"; flock 9; }
    "$@" 9>&-
  ) 9>"$CACHE/lock/$lock_name"
}

# cached NAME HASH COMMAND [ARGUMENT...]: prints the cache folder NAME-HASH. Where it is missing, COMMAND fills an empty folder,
# its last argument, that gets the name only when it is complete.
cached() {
  local entry_name=$1 entry=$CACHE/$1-$2
  shift 2
  [ -d "$entry" ] || locked "$entry_name" fill_entry "$entry" "$@" >&2
  touch -c "$entry" 2>/dev/null || true # `up` removes what was not used for a month
  printf '%s\n' "$entry"
}

fill_entry() {
  local entry=$1 entry_started=$SECONDS
  shift
  [ ! -d "$entry" ] || return 0 # another run made it while this one waited
  [ "$COMMERCE_BUILD" != never ] || die "${entry##*/} is missing, and COMMERCE_BUILD=never forbids to build it" "set COMMERCE_BUILD=auto"
  rm -rf "$entry.making"
  mkdir "$entry.making"
  "$@" "$entry.making"
  mv "$entry.making" "$entry"
  say "${entry##*/} made in $((SECONDS - entry_started))s"
}

# watched LABEL COMMAND [ARGUMENT...]: for long commands. Its output goes to a log; every 15 s a line tells how far it is, and where
# it fails, the end of the log is shown.
watched() {
  local label=$1 file=$CACHE/log/${1//[^A-Za-z0-9.-]/-}.log started=$SECONDS code=0 command ticker
  shift
  "$@" >"$file" 2>&1 &
  command=$!
  while sleep 15; do say "$label: $((SECONDS - started))s, line $(wc -l <"$file"): $(tail -n 1 "$file" | tr -d '\r' | cut -c1-100)"; done &
  ticker=$!
  wait $command || code=$?
  kill "$ticker"
  wait "$ticker" 2>/dev/null || true
  [ $code -ne 0 ] || return 0
  tail -n 25 "$file" | sed 's/^/    | /' >&2
  die "$label failed with exit code $code" "all of its output is in $file"
}

# helm COMMAND...: Helm 4 says of each symbolic link in a chart that it follows it; charts link to what they share.
helm() { command helm "$@" 2> >(grep -v 'found symbolic link' >&2); }

# --- checks ---
need_command() { command -v "$1" >/dev/null || die "$1 is not installed" "$2"; }

# need_disk GIB FOLDER WHAT
need_disk() {
  local free
  free=$(($(df -Pk "$2" | awk 'NR == 2 { print $4 }') / 1048576))
  [ "$free" -ge "$1" ] || die "$3 needs $1 GiB of disk, and $2 has $free GiB free" \
    "free some there, or set COMMERCE_CACHE to a folder on a larger disk"
}

# need_memory GIB WHAT
need_memory() {
  local free
  free=$(($(awk '/^MemAvailable/ { print $2 }' /proc/meminfo) / 1048576))
  [ "$free" -ge "$1" ] || die "$2 needs $1 GiB of memory, and $free GiB are available" "stop other programs, or use a larger machine"
}

engine_answers() { timeout 20 docker version --format '{{.Server.Version}}' >/dev/null 2>&1; }

has_image() { docker image inspect "$1" >/dev/null 2>&1; }

# pullable IMAGE: whether a registry offers it to this machine. One that lets us wait is not asked again for an hour.
pullable() {
  local silent=$STATE/silent-${1%%/*} code=0
  [ "$COMMERCE_BUILD" != always ] && [ -z "$(find "$silent" -mmin -60 2>/dev/null || true)" ] || return 1
  timeout 15 docker manifest inspect "$1" >/dev/null 2>&1 || code=$?
  [ $code -ne 124 ] || touch "$silent"
  return $code
}
