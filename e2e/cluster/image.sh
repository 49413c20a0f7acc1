# shellcheck shell=bash
# How images are assembled here, where no registry has one to build on: from Debian packages, and one program on top. Sourced after lib.sh.

# debian_root MMDEBSTRAP-OPTION...: a Debian file system as a tar archive on stdout, from the mirrors that this machine's apt uses.
debian_root() {
  local sources key=/usr/share/keyrings/debian-archive-keyring.gpg
  need_command mmdebstrap "run e2e/cluster/packages"
  [ "$(id -u)" -eq 0 ] || die "only root can assemble images from Debian packages" "run this as root"
  sources=$(apt-get indextargets --format "deb [signed-by=$key] \$(REPO_URI) \$(RELEASE) \$(COMPONENT)" \
    'Created-By: Packages' 'Origin: Debian' | grep -E " $SUITE(-updates|-security)? " | sort -u)
  [ -n "$sources" ] || die "this machine's apt knows no package archive of Debian $SUITE" \
    "images are assembled from it: run apt-get update on a Debian $SUITE, or use a machine that reaches a container registry"
  mmdebstrap -q --aptopt='APT::Install-Recommends "false"' "$@" "$SUITE" - - <<<"$sources"
}

# base_image NAME HASH COMMAND...: prints the image NAME:HASH; where the engine lacks it, it is imported from the tar that COMMAND writes.
base_image() {
  local name=$1 base=$REGISTRY/$1:$2
  shift 2
  has_image "$base" || locked "image-$name" import_base "$base" "$@" >&2
  printf '%s\n' "$base"
}

import_base() {
  local base=$1 archive
  shift
  ! has_image "$base" || return 0
  archive=$(mktemp "$CACHE/root.XXXXXX")
  "$@" >"$archive"
  docker import "$archive" "$base" >/dev/null
  rm "$archive"
  say "$base assembled"
}

# runtime_base: the image under every program of this project: glibc, OpenSSL, root certificates and a user, and no shell. Distroless
# is the same thing where a registry has it.
runtime_base() {
  local official=gcr.io/distroless/cc-debian12:nonroot
  if pullable $official; then
    has_image $official || watched pull-runtime docker pull -q $official >&2
    printf '%s\n' $official
    return
  fi
  debian_base runtime
}

# shell_base: the same with a shell and its usual companions, for a program that a script runs.
shell_base() { debian_base runtime-shell ,busybox-static; }

# debian_base NAME [,PACKAGE...]
debian_base() {
  base_image "$1" "$(digest_words "$(declare -f debian_root debian_base)" "${2:-}" "$(digest "$HERE/image/runtime-root")")" \
    debian_root --variant=extract --skip=cleanup --include="libc6,libgcc-s1,libstdc++6,libssl3,zlib1g,ca-certificates,tzdata${2:-}" \
    --extract-hook="$HERE/image/runtime-root"
}

# binary_image IMAGE BASE FILE PROGRAM [DOCKERFILE-LINE...]: an image with FILE as /usr/local/bin/PROGRAM, its entry point.
binary_image() {
  local image=$1 base=$2 file=$3 program=$4 context
  shift 4
  context=$(mktemp -d "$CACHE/context.XXXXXX")
  cp "$file" "$context/$program"
  chmod 0755 "$context/$program"
  printf '%s\n' "FROM $base" "COPY $program /usr/local/bin/$program" "ENTRYPOINT [\"/usr/local/bin/$program\"]" "$@" >"$context/Dockerfile"
  docker build -q -t "$image" "$context" >/dev/null
  rm -r "$context"
}

# program_image NAME VERSION OFFICIAL [BASE-FUNCTION]: the image of another project's program: its own where a registry has it, else built
# by go-build, on what the function (runtime_base) gives.
program_image() {
  local image=$REGISTRY/$1:$2 official=$3 base_function=${4:-runtime_base} folder base inputs
  if pullable "$official"; then
    has_image "$official" || watched "pull-$1" docker pull -q "$official" >&2
    docker tag "$official" "$image"
  else
    folder=$("$HERE/go-build" "$1")
    base=$($base_function)
    inputs=$(digest_words "${folder##*/}" "$base")
    [ "$(docker image inspect -f '{{.Config.Labels.inputs}}' "$image" 2>/dev/null)" = "$inputs" ] ||
      binary_image "$image" "$base" "$folder/$1" "$1" "USER 65532:65532" "LABEL inputs=$inputs"
  fi
  printf '%s\n' "$image"
}
