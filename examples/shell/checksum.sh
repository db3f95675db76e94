#!/bin/sh
# Checksum of a file on the data mount, for the catalogue.
#
#   {"path": "/data/run0001/frame_000000.h5"} -> {"path": "...", "sha256": "...", "bytes": 599868}
#
# A black-box action is any executable: its arguments come as one JSON object on stdin (and as $1 while they are short),
# the last line of stdout is its result, everything before it and stderr are its log.
set -eu

fail() {
    # "error" makes it an application error: the caller's fault, the container lives on.
    printf '{"error": "%s"}\n' "$1"
    exit 0
}

arguments=$(cat)
# Without a JSON parser: one text of harmless characters, or nothing. So no quoting can go wrong further down.
path=$(printf '%s' "$arguments" | tr '\n' ' ' | sed -n 's/.*"path"[[:space:]]*:[[:space:]]*"\([A-Za-z0-9._/-]*\)".*/\1/p')

[ -n "$path" ] || fail 'path is missing, or has characters other than letters, digits, dot, slash, dash and underscore'
case $path in
    /*) ;;
    *) fail "path must begin with a slash: $path" ;;
esac
[ -f "$path" ] || fail "no such file: $path"
[ -r "$path" ] || fail "user $(id -u) may not read $path"

echo "reading $path as user $(id -u)" >&2
sum=$(sha256sum <"$path")
printf '{"path": "%s", "sha256": "%s", "bytes": %d}\n' "$path" "${sum%% *}" "$(wc -c <"$path")"
