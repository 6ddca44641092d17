#!/usr/bin/env bash
# usage: image.sh NAME
# Builds an image of Arx of this machine's architecture under that name: programs that are linked
# statically against musl, and nothing beside them. Takes buildah, podman or docker, whichever is there first.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

name=${1:?usage: image.sh NAME}
target=$(uname -m)-unknown-linux-musl

command -v musl-gcc >/dev/null || {
    echo "image: there is no musl-gcc to build with: install musl-tools" >&2
    exit 1
}
rustc --print target-libdir --target "$target" | xargs test -d || {
    echo "image: there is no standard library for $target: run rustup target add $target" >&2
    exit 1
}
for builder in buildah podman docker none; do
    if command -v "$builder" >/dev/null; then
        break
    fi
done
if [[ $builder == none ]]; then
    echo "image: there is nothing to build an image with: install buildah, podman or docker" >&2
    exit 1
fi

# Without PKCS #11: a program that is linked statically can't load the module of a token.
cargo build --locked --release --target "$target" --no-default-features --features aws-lc-rs \
    -p arx -p arx-ca -p arx-node-agent --bins
folder=target/image
rm -rf "$folder"
mkdir -p "$folder"
for program in arx arx-ca arx-node-agent; do
    install -s -m 755 "target/$target/release/$program" "$folder/$program"
    if readelf --program-headers "$folder/$program" | grep -q INTERP; then
        echo "image: $program asks for a loader, and there is none in the image: it has to be linked statically" >&2
        exit 1
    fi
done

arguments=(build)
if [[ $builder == buildah ]]; then
    # Nothing is run while it is built, so no namespaces are needed.
    arguments+=(--isolation chroot)
fi
"$builder" "${arguments[@]}" --tag "$name" --file deploy/image/Containerfile "$folder"
