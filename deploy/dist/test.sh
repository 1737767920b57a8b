#!/bin/sh
# deploy/dist/test.sh: tries what `make dist` made, by the commands of docs/install.md, in a bare Debian of its own. As root.
set -eu
cd "$(dirname "$0")/../.."

arch=$(uname -m)
dist=target/dist
suite=${SUITE:-bookworm}
version=$(sed -n 's/^version = "\(.*\)"$/\1/p' Cargo.toml | head -n 1)
work=$(mktemp -d)
root=$work/root
server=
files=

say() { echo "--- $*"; }
fail() {
    echo "error: $*" >&2
    exit 1
}

stop() {
    [ -z "$1" ] || kill -- "-$1" 2>/dev/null || true
}

finish() {
    stop "$server"
    stop "$files"
    # Should something still be mounted there, it is not deleted.
    rm -rf --one-file-system "$work"
}
trap finish EXIT
trap 'exit 1' INT TERM

[ "$(id -u)" = 0 ] || fail "this needs root, to make a Debian in a folder and to install into it"
[ -e $dist/SHA256SUMS ] || fail "there is nothing in $dist; run: make dist"

# free_port: one that nobody listens to.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
port=$(free_port)

# in_debian COMMAND…: runs it there, with no variable of this machine's.
cat >"$work/in_debian" <<END
#!/bin/sh
exec chroot "$root" env -i PATH=/usr/local/bin:/usr/bin:/usr/sbin:/bin:/sbin HOME=/root "\$@"
END
chmod +x "$work/in_debian"
in_debian() { "$work/in_debian" "$@"; }

# block NAME: the commands below the mark NAME in docs/install.md.
block() {
    awk -v mark="<!-- test: $1 -->" '$0 == mark { found = 1 } found && /^```$/ { exit } found && inside { print } found && /^```sh$/ { inside = 1 }' \
        docs/install.md | sed "s/x86_64/$arch/g; s/_amd64/_$(dpkg --print-architecture)/g"
}

# until_healthy: waits for the server on $port.
until_healthy() {
    for _ in $(seq 100); do
        in_debian curl -fs -o /dev/null "http://127.0.0.1:$port/healthz" && return
        sleep 0.1
    done
    cat "$work/log" >&2
    fail "the server did not start"
}

# serves COMMAND…: whether it serves, takes an event, and ends when told to.
serves() {
    setsid "$@" >"$work/log" 2>&1 &
    server=$!
    until_healthy
    answer=$(in_debian curl -fsS "http://127.0.0.1:$port/v1/emit" -H 'Content-Type: application/json' -d '{"event": "alert", "filter": "user == '"'ann'"'"}')
    case $answer in *'"matched":0'*) ;; *) fail "emit was answered with $answer" ;; esac
    stop "$server"
    wait "$server" || true
    server=
}

# names_its_commit PROGRAM: whether it says what it was built from.
names_its_commit() {
    said=$(in_debian "$1" --version)
    echo "$said"
    commit=${BUILD_COMMIT:-$(git rev-parse HEAD 2>/dev/null || true)}
    case $said in "fanfare $version"*"$(printf %.12s "$commit")"*) ;; *) fail "$1 --version says $said, not $version ($commit)" ;; esac
}

say "A bare Debian: $suite"
mirror=$(sed -n 's/^URIs: *\([^ ]*debian\)\/*$/\1/p' /etc/apt/sources.list.d/*.sources 2>/dev/null | head -n 1)
debootstrap --variant=minbase --include=ca-certificates,curl "$suite" "$root" ${mirror:+"$mirror"} >"$work/debootstrap" ||
    { tail -n 5 "$work/debootstrap" >&2 && fail "debootstrap could not make a Debian; see above"; }
in_debian ldd --version | head -n 1

# The commands fetch over HTTP, as they will from a release.
files_port=$(free_port)
setsid python3 -m http.server --bind 127.0.0.1 --directory $dist "$files_port" >/dev/null 2>&1 &
files=$!
release=http://127.0.0.1:$files_port
for _ in $(seq 50); do
    in_debian curl -fs -o /dev/null "$release/SHA256SUMS" && break
    sleep 0.1
done

say "The archive, by docs/install.md"
block archive >"$root/root/archive.sh"
grep -q serve "$root/root/archive.sh" || fail "docs/install.md has no commands for the archive"
serves "$work/in_debian" RELEASE="$release" FANFARE_LISTEN="127.0.0.1:$port" sh -euc 'cd && . ./archive.sh'
grep "OK" "$work/log"
folder=/root/fanfare-$version-$arch-linux
names_its_commit "$folder/fanfare"
for file in LICENSE-MIT LICENSE-APACHE THIRD-PARTY README.md fanfare.service fanfare.1 completions/fanfare.bash; do
    [ -s "$root$folder/$file" ] || fail "the archive has no $file"
done

say "What the program needs"
program=$root$folder/fanfare
needs=$(objdump -T "$program" | grep -o 'GLIBC_[0-9.]*' | sort -uV | tail -n 1)
echo "$needs, $(stat -c %s "$program") bytes"
[ "$(printf '%s\n' "$needs" GLIBC_2.17 | sort -V | tail -n 1)" = GLIBC_2.17 ] || fail "the program needs $needs, newer than 2.17"
readelf --string-dump=.gnu_debuglink "$program" | grep -q fanfare.debug || fail "the program does not name its debug file"
tar -xzf "$dist/fanfare-$version-$arch-linux-debug.tar.gz" -C "$work"
readelf --sections "$work/fanfare-$version-$arch-linux-debug/fanfare.debug" 2>/dev/null | grep -q debug_line || fail "there are no line tables"

say "The Debian package, by docs/install.md"
block package >"$root/root/package.sh"
grep -q dpkg "$root/root/package.sh" || fail "docs/install.md has no commands for the package"
in_debian RELEASE="$release" sh -euc 'cd && . ./package.sh'
names_its_commit /usr/bin/fanfare
in_debian fanfare check --config /etc/fanfare/fanfare.toml
[ "$(stat -c %a "$root/etc/fanfare/environment")" = 600 ] || fail "everyone may read the secrets"
if command -v systemd-analyze >/dev/null; then
    # It looks for the program where the service names it.
    sed "s|/usr/bin/fanfare|$root/usr/bin/fanfare|" "$root/lib/systemd/system/fanfare.service" >"$work/fanfare.service"
    systemd-analyze --man=no verify "$work/fanfare.service"
fi
serves "$work/in_debian" FANFARE_LISTEN="127.0.0.1:$port" fanfare serve --config /etc/fanfare/fanfare.toml

echo '# changed' >>"$root/etc/fanfare/fanfare.toml"
in_debian sh -c 'dpkg -i /root/*.deb && dpkg --verify fanfare' >"$work/log" || true
grep -q '# changed' "$root/etc/fanfare/fanfare.toml" || fail "an update loses the configuration"
in_debian dpkg --remove fanfare >"$work/log"
[ -e "$root/etc/fanfare/fanfare.toml" ] || fail "removing the package deletes the configuration"
in_debian dpkg --purge fanfare >"$work/log"
[ ! -e "$root/etc/fanfare" ] || fail "purging the package leaves /etc/fanfare"

say "What the image holds"
cp -a $dist/docker/image/. "$root/"
names_its_commit /usr/local/bin/fanfare
serves chroot --userspec=65532:65532 "$root" env -i FANFARE_LISTEN="127.0.0.1:$port" /usr/local/bin/fanfare serve

say "All of it works"
