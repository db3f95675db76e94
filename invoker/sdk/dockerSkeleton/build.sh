#!/bin/sh
# Builds the image and, where it has a registry in its name, pushes it.
# Usage: ./build.sh IMAGE      such as ./build.sh my-action:1, or ./build.sh registry.example.org/team/my-action:1
set -eu
[ $# = 1 ] || { sed -n 2,3p "$0" >&2; exit 2; }
cd "$(dirname "$0")"
docker build -t "$1" .
case $1 in */*) docker push "$1" ;; esac
cat <<TEXT
Now create an action from it, and invoke it:
  wsk action create greeting --docker $1
  wsk action invoke greeting --result --param name Ada
TEXT
