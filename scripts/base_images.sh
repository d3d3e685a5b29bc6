#!/usr/bin/env bash
# Makes the images that the Dockerfile's FROM lines name, for a machine that reaches Debian's packages and crates but no
# registry of images: what builds, from Debian and this machine's Rust; what the node runs on, from Debian's C library.
#
#   scripts/base_images.sh make      makes those that the engine does not have
#   scripts/base_images.sh remove    removes those that this script has made, and no others
#
# What builds has to reach crates as this machine does. So this machine's certificates, cargo's configuration and the
# variables about both go into that image, and into it alone: the node's image takes one file from it, the binary.
# These images are for this machine; do not push them anywhere.
#
# Needs mmdebstrap, and rustc of the version that the Dockerfile names.
# shellcheck disable=SC2016 # what is quoted is for the shells that mmdebstrap runs its hooks in
set -euo pipefail
cd "$(dirname "$0")/.."

# Marks what this script has made.
label=quorate.base-image=made-here
suite=bookworm

rust_image=$(sed -n 's/^FROM \(rust:[^ ]*\) AS build$/\1/p' Dockerfile)
node_image=$(sed -n 's/^FROM \([^ ]*\/cc-debian12:nonroot\)$/\1/p' Dockerfile)
if [ -z "$rust_image" ] || [ -z "$node_image" ] || [ "$(grep -c '^FROM ' Dockerfile)" -ne 2 ]; then
  echo "the Dockerfile names images that this script cannot make: $(grep '^FROM ' Dockerfile | tr '\n' ' ')" >&2
  exit 1
fi

is_there() { docker image inspect "$1" >/dev/null 2>&1; }

# debian OPTION…: the file system of a Debian on standard output, without what nobody reads in a container.
debian() {
  mmdebstrap --quiet --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
    --dpkgopt='path-exclude=/usr/share/locale/*' --dpkgopt='path-exclude=/usr/lib/*/gconv/*' "$@" "$suite" -
}

make_rust_image() {
  local wanted version name changes=()
  wanted=${rust_image#rust:}
  wanted=${wanted%%-*}
  version=$(rustc --version | cut -d ' ' -f 2)
  case $version in
    "$wanted" | "$wanted".*) ;;
    *) echo "the Dockerfile asks for Rust $wanted, and this machine has $version" >&2 && return 1 ;;
  esac
  while IFS= read -r name; do
    changes+=(--change "ENV $name=\"${!name}\"")
  done < <(compgen -e | grep -E '^(CARGO_(HTTP|NET|REGISTR|SOURCE).*|(https?|all|no)_proxy|(HTTPS?|ALL|NO)_PROXY)$')
  # For the hooks, which mmdebstrap runs in shells of their own.
  sysroot=$(rustc --print sysroot)
  cargo_home=${CARGO_HOME:-$HOME/.cargo}
  export sysroot cargo_home
  # With a C compiler, to link and for crates that bring C along.
  debian --variant=essential --include=ca-certificates,gcc,libc6-dev \
    --customize-hook='mkdir -p "$1/usr/local/rust" "$1/usr/local/cargo"' \
    --customize-hook='tar --create --directory="$sysroot" --exclude=lib/rustlib/src bin/cargo bin/rustc lib |
      tar --extract --no-same-owner --directory="$1/usr/local/rust"' \
    --customize-hook='cp --dereference /etc/ssl/certs/ca-certificates.crt "$1/etc/ssl/certs/"' \
    --customize-hook='for name in config config.toml; do
      [ ! -e "$cargo_home/$name" ] || cp "$cargo_home/$name" "$1/usr/local/cargo/"; done' |
    docker import --change "LABEL $label" "${changes[@]}" --change 'ENV CARGO_HOME=/usr/local/cargo' \
      --change 'ENV PATH=/usr/local/rust/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      - "$rust_image" >/dev/null
}

make_node_image() {
  # Packages that are only unpacked know of no later hook. The last one takes away what is this machine's own.
  debian --variant=extract --include=base-files,libc6,libgcc-s1,netbase \
    --extract-hook='echo "root:x:0:0:root:/root:/sbin/nologin" >"$1/etc/passwd"' \
    --extract-hook='echo "nonroot:x:65532:65532:nonroot:/home/nonroot:/sbin/nologin" >>"$1/etc/passwd"' \
    --extract-hook='printf "%s\n" root:x:0: nonroot:x:65532: >"$1/etc/group"' \
    --extract-hook='install --directory --owner=65532 --group=65532 --mode=700 "$1/home/nonroot"' \
    --extract-hook='rm "$1/etc/resolv.conf" "$1/etc/hostname"' |
    docker import --change "LABEL $label" --change 'USER 65532' --change 'WORKDIR /home/nonroot' \
      --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' - "$node_image" >/dev/null
}

case ${1:-} in
  make)
    for kind in node rust; do
      image=${kind}_image
      if is_there "${!image}"; then continue; fi
      echo "making ${!image}"
      if ! "make_$image"; then
        # Of what had come through the pipe until then.
        docker image rm --force "${!image}" >/dev/null
        exit 1
      fi
    done
    ;;
  remove)
    for image in "$rust_image" "$node_image"; do
      if docker image ls --quiet --filter "label=$label" "$image" | grep -q .; then
        echo "removing $image"
        docker image rm --force "$image" >/dev/null
      fi
    done
    ;;
  *)
    echo "usage: $0 make | remove" >&2
    exit 2
    ;;
esac
