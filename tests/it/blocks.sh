# What the commands of a page find. PROGRAM names the program, and FANFARE_URL a server in development.
set -euo pipefail
scratch=$(mktemp -d)
cd "$scratch"
trap 'kill $(jobs -p) 2>/dev/null || true; rm -rf "$scratch"' EXIT

# The page's own server is there already: only its settings are tried. A client goes on in the background, once it is connected.
fanfare() {
    case $1 in
    serve)
        "$PROGRAM" check "${@:2}"
        ;;
    listen)
        : >listening
        "$PROGRAM" "$@" 2>listening &
        until grep -q '^connected' listening; do
            kill -0 $! || { cat listening >&2; return 1; }
            sleep 0.05
        done
        ;;
    *)
        "$PROGRAM" "$@"
        ;;
    esac
}

# An answer other than these means that the page is wrong: 404 is what the examples' ids and histories have.
curl() {
    local status
    status=$(command curl --silent --show-error --output answer --write-out '%{http_code}' "$@")
    cat answer
    case $status in
    200 | 404) ;;
    *)
        echo "status $status: curl $*" >&2
        return 1
        ;;
    esac
}
