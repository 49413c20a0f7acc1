# shellcheck shell=bash
# What every script in this folder shares: log lines, the cache folder, locks. Sourced, never run.
# All of it goes to stderr, so that a script's stdout holds its result alone.

log() { printf '    %s\n' "$*" >&2; }

# step WHAT: announces a piece of work and starts its clock; step_done ends it.
step() {
    step_started=$SECONDS
    printf '==> %s\n' "$*" >&2
}

step_done() { printf '    done in %ss\n' "$((SECONDS - step_started))" >&2; }

# die MESSAGE...: what was being done, and what to do about it. One argument is one line.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    [ $# -eq 0 ] || printf '       %s\n' "$@" >&2
    exit 1
}

# The folder where what is built or fetched is kept between runs. For root it is one that others can read, since stores run as an
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
    mkdir -p "$folder" || die "cannot create the cache folder $folder" "set COMMERCE_CACHE to a folder that you may write"
    printf '%s\n' "$folder"
}

# content_hash FILE...: 12 hexadecimal digits that change when one of the files does.
content_hash() { cat -- "$@" | sha256sum | cut -c1-12; }

# with_lock NAME COMMAND [ARGUMENT...]: runs it while no other process holds the lock NAME. What it starts does not inherit the lock.
with_lock() {
    local name=$1 folder
    shift
    folder=$(cache_dir)
    (
        flock -n 9 || { log "waiting for another run that works on $name"; flock 9; }
        "$@" 9>&-
    ) 9>"$folder/$name.lock"
}
