#!/bin/sh
# deploy/dist/build.sh [x86_64|aarch64]: makes what is downloaded, in target/dist.
#
#   fanfare-VERSION-ARCH-linux.tar.gz         the program, its licences, service, completions and manual page
#   fanfare-VERSION-ARCH-linux-debug.tar.gz   its line tables: beside the program, panics show files and lines
#   fanfare_VERSION_DEBARCH.deb               the Debian package
#   docker/                                   what deploy/Dockerfile copies into its image
#   SHA256SUMS
#
# The program runs with any glibc since 2.17 (CentOS 7, Debian 8, Ubuntu 14.04): Zig's linker knows what was in each.
set -eu
cd "$(dirname "$0")/../.."

arch=${1:-$(uname -m)}
case $arch in
x86_64) debian_arch=amd64 ;;
aarch64) debian_arch=arm64 ;;
*) echo "error: there is no download for $arch; choose x86_64 or aarch64" >&2 && exit 2 ;;
esac

glibc=2.17
triple=$arch-unknown-linux-gnu
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
target=${CARGO_TARGET_DIR:-target}
dist=target/dist
tools=target/dist-tools
name=fanfare-$version-$arch-linux

# Everything is dated by its commit, so that the same commit gives the same archives.
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
export SOURCE_DATE_EPOCH

fetch_tools() {
    [ "$tools" -nt deploy/dist/requirements.txt ] && return
    rm -rf "$tools"
    python3 -m pip install --quiet --root-user-action ignore --require-hashes --target "$tools" -r deploy/dist/requirements.txt
    touch "$tools"
}

build() {
    home=${CARGO_HOME:-$HOME/.cargo}
    # Panics name files as they are called here, not where they lay on the machine that built them.
    PATH=$PWD/$tools/bin:$PATH PYTHONPATH=$PWD/$tools CARGO_ZIGBUILD_ZIG_PATH=$PWD/$tools/ziglang/zig \
        RUSTFLAGS="--remap-path-prefix=$home/registry/src=crates --remap-path-prefix=$PWD=." \
        ${CARGO:-cargo} zigbuild --profile dist --locked --package fanfare --bin fanfare --target "$triple.$glibc"
}

# Rust's own objcopy knows every architecture; it finds its libraries only from here.
objcopy() {
    sysroot=$(rustc --print sysroot)
    LD_LIBRARY_PATH=$sysroot/lib "$sysroot/lib/rustlib/$(uname -m)-unknown-linux-gnu/bin/rust-objcopy" "$@"
}

# The line tables go to a file of their own, which the program names.
split() {
    objcopy --only-keep-debug "$built" "$dist/work/fanfare.debug"
    # The link holds a name without a folder, and a checksum of the file.
    (cd "$dist/work" && objcopy --strip-all --add-gnu-debuglink=fanfare.debug "$built" fanfare)
    chmod 755 "$dist/work/fanfare"
    chmod 644 "$dist/work/fanfare.debug"
}

# What the program says of itself: only a machine of its own kind can ask it.
ask() {
    for shell in bash zsh fish; do
        "$dist/work/fanfare" completions $shell >"$dist/work/fanfare.$shell"
    done
    "$dist/work/fanfare" man >"$dist/work/fanfare.1"
}

# archive FILE FOLDER: FOLDER of $dist/work, always with the same bytes.
archive() {
    tar -C "$dist/work" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner -cf - "$2" |
        gzip -9n >"$dist/$1"
}

make_archive() {
    folder=$dist/work/$name
    install -D -m 755 "$dist/work/fanfare" "$folder/fanfare"
    install -m 644 README.md CHANGELOG.md LICENSE-APACHE LICENSE-MIT deploy/fanfare.service "$dist/work/THIRD-PARTY" "$folder"
    install -D -m 644 -t "$folder/completions" "$dist"/work/fanfare.bash "$dist"/work/fanfare.zsh "$dist"/work/fanfare.fish
    install -m 644 "$dist/work/fanfare.1" "$folder"
    archive "$name.tar.gz" "$name"

    install -D -m 644 "$dist/work/fanfare.debug" "$dist/work/$name-debug/fanfare.debug"
    archive "$name-debug.tar.gz" "$name-debug"
}

make_package() {
    root=$dist/work/deb
    doc=$root/usr/share/doc/fanfare
    install -D -m 755 "$dist/work/fanfare" "$root/usr/bin/fanfare"
    install -d "$root/lib/systemd/system"
    sed 's|/usr/local/bin/|/usr/bin/|' deploy/fanfare.service >"$root/lib/systemd/system/fanfare.service"
    install -D -m 644 deploy/debian/fanfare.toml "$root/etc/fanfare/fanfare.toml"
    install -m 600 deploy/debian/environment "$root/etc/fanfare/environment"
    install -D -m 644 "$dist/work/fanfare.bash" "$root/usr/share/bash-completion/completions/fanfare"
    install -D -m 644 "$dist/work/fanfare.zsh" "$root/usr/share/zsh/vendor-completions/_fanfare"
    install -D -m 644 "$dist/work/fanfare.fish" "$root/usr/share/fish/vendor_completions.d/fanfare.fish"
    install -D -m 644 "$dist/work/fanfare.1" "$root/usr/share/man/man1/fanfare.1"
    install -D -m 644 CHANGELOG.md "$doc/changelog"
    gzip -9n "$root/usr/share/man/man1/fanfare.1" "$doc/changelog"
    {
        echo "Fanfare is under either of the two licences that follow, as you choose. What is linked into it stands in THIRD-PARTY."
        printf '\n--- MIT\n\n' && cat LICENSE-MIT
        printf '\n--- Apache-2.0\n\n' && cat LICENSE-APACHE
    } >"$doc/copyright"
    install -m 644 "$dist/work/THIRD-PARTY" "$doc/THIRD-PARTY"

    install -d "$root/DEBIAN"
    size=$(du -sk --apparent-size "$root" | cut -f 1)
    sed "s/@VERSION@/$version/; s/@ARCH@/$debian_arch/; s/@SIZE@/$size/" deploy/debian/control >"$root/DEBIAN/control"
    install -m 644 deploy/debian/conffiles "$root/DEBIAN/conffiles"
    install -m 755 deploy/debian/postinst deploy/debian/prerm deploy/debian/postrm "$root/DEBIAN"
    (cd "$root" && find etc lib usr -type f -print0 | sort -z | xargs -0 md5sum >DEBIAN/md5sums)
    chmod -R u=rwX,go=rX "$root"
    chmod 600 "$root/etc/fanfare/environment"
    dpkg-deb --root-owner-group -Zxz --build "$root" "$dist/fanfare_${version}_$debian_arch.deb" >/dev/null
}

make_image() {
    root=$dist/docker/image
    install -D -m 755 "$dist/work/fanfare" "$root/usr/local/bin/fanfare"
    install -D -m 644 -t "$root/usr/share/doc/fanfare" LICENSE-MIT LICENSE-APACHE "$dist/work/THIRD-PARTY"
}

fetch_tools
build
rm -rf "$dist"
mkdir -p "$dist/work"
built=$(realpath "$target/$triple/dist/fanfare")
split
ask
python3 deploy/dist/licences.py "$triple" >"$dist/work/THIRD-PARTY"
make_archive
make_package
make_image
rm -rf "$dist/work"
(cd "$dist" && sha256sum -- *.tar.gz *.deb >SHA256SUMS)
cat "$dist/SHA256SUMS"
