# shellcheck shell=bash
# What scripts/test, scripts/demo and scripts/bench share: sourced by bash, with the checkout's root as working directory.
# Each function says what it does, does nothing twice, and leaves the machine alone where it may not change it.
# What takes more than two seconds is announced. All of it can be interrupted: whatever runs is ended, then what was started.

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
[ -t 2 ] || say() { printf '== %s\n' "$*" >&2; }
fail() { printf '%s: %s\n' "$0" "$*" >&2; exit 1; }
usage_error() { printf '%s: %s (see %s --help)\n' "$0" "$*" "$0" >&2; exit 2; }

# now; since START   Microseconds of the wall clock; seconds since then, with a tenth.
now() { echo "${EPOCHREALTIME/[.,]/}"; }
since() { printf '%s.%s' $((($(now) - $1) / 1000000)) $((($(now) - $1) / 100000 % 10)); }

# need_root REASON   Go no further as another user, and say the one command. Nothing has been changed until then.
need_root() {
  [ "$(id -u)" = 0 ] || fail "root is needed: $1. Nothing was changed. Run: sudo $0"
}

# run COMMAND...   Run it in a process group of its own and wait. A signal to this script then ends the command at once.
running=
run() {
  local status=0
  set -m # the group
  "$@" </dev/null &
  running=$!
  set +m
  wait "$running" || status=$?
  running=
  return "$status"
}

# at_exit COMMAND...   Run a command when the script ends, by whatever road; the last one first.
exit_commands=()
at_exit() { exit_commands=("$*" "${exit_commands[@]}"); }

clean_up() {
  local status=$? command
  set +e                    # whatever fails, such as telling a terminal that is gone
  trap '' INT TERM HUP PIPE # it is short; half of it would leave things behind
  if [ -n "$running" ]; then
    say "stopping"
    end_group "$running"
  fi
  for command in "${exit_commands[@]}"; do $command; done
  exit "$status"
}
trap clean_up EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 141' PIPE # somebody reads no further: scripts/demo 2>&1 | head
trap 'exit 143' TERM

# end_group PID   Interrupt a process group, then insist.
end_group() {
  local signal
  for signal in INT TERM KILL; do
    kill -"$signal" -- "-$1" 2>/dev/null || return 0
    for _ in $(seq 200); do
      kill -0 -- "-$1" 2>/dev/null || return 0
      sleep 0.1
    done
  done
}

# only_one   Refuse to work beside another script in this checkout: they share .venv, the engine and its images.
only_one() {
  mkdir -p .state
  exec {lock}>>.state/lock
  flock -n "$lock" || fail "$(cat .state/lock) works in this checkout: wait for its end, or use another clone"
  echo "$0 (process $$)" >.state/lock
}

# install_packages [--keep-stopped SERVICE]... PACKAGE...   Install Debian packages; none of their services is started.
install_packages() {
  local python
  python=$(find_python)
  run "$python" scripts/lib/debian.py "$@" || fail "packages are missing"
}

# ensure_commands COMMAND:PACKAGE...   Install the Debian packages whose command is missing.
ensure_commands() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ "${#missing[@]}" = 0 ] && return
  say "installing ${missing[*]} (apt-get)"
  # Debian's servers would begin to serve; the tests only want their programs.
  install_packages --keep-stopped prometheus.service --keep-stopped nginx.service --keep-stopped haproxy.service \
    --keep-stopped redis-server.service "${missing[@]}"
}

# ensure_c_compiler   Install the smallest one, 11 MB, where there is none.
ensure_c_compiler() {
  local name
  for name in cc gcc clang tcc; do
    if command -v "$name" >/dev/null && [ -e /usr/include/stdio.h ]; then return; fi
  done
  say "installing tcc and libc6-dev (apt-get): one of the examples is written in C"
  install_packages tcc libc6-dev
}

# minor_version PYTHON   Print 3.11, say; nothing when it does not run.
minor_version() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null || true; }

# is_new_enough PYTHON   Whether it runs and is at least 3.11. Some commands are there and do not run: those of pyenv.
is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

# find_python   Print a Python of at least 3.11: that of $INVOKERD_PYTHON, or one that is there. The system's own goes first:
# built optimised, it is a sixth faster than most built at home.
find_python() {
  local candidate
  if [ -n "${INVOKERD_PYTHON:-}" ]; then
    is_new_enough "$INVOKERD_PYTHON" || fail "INVOKERD_PYTHON=$INVOKERD_PYTHON is no Python of at least 3.11"
    echo "$INVOKERD_PYTHON"; return
  fi
  for candidate in /usr/bin/python3 python3.11 python3.12 python3.13 python3.14 python3; do
    if is_new_enough "$candidate"; then
      echo "$candidate"; return
    fi
  done
  fail "Python 3.11 or newer is needed. On Debian 12 or Ubuntu 24.04, or later: sudo apt-get install python3"
}

# venv_is_usable   Whether .venv was made in this place by the Python that is still in it: a new release of the system brings
# another one, which finds none of the packages. And whether that is the version of $INVOKERD_PYTHON, where one is named.
venv_is_usable() {
  local version
  [ "$(cat .venv/made-in 2>/dev/null)" = "$PWD" ] || return # of another place, or interrupted
  version=$(minor_version .venv/bin/python)
  [ -n "$version" ] && grep -q "^version = ${version/./[.]}[.]" .venv/pyvenv.cfg || return
  [ -z "${INVOKERD_PYTHON:-}" ] || [ "$(minor_version "$INVOKERD_PYTHON")" = "$version" ]
}

# ensure_venv EXTRA...   Create .venv with the package and these extras, unless that was done for this pyproject.toml.
ensure_venv() {
  local python extra wanted usable='' missing=()
  [ -z "${INVOKERD_PYTHON:-}" ] || find_python >/dev/null # refused before anything is done
  ! venv_is_usable || usable=1
  wanted="$PWD $(sha256sum <pyproject.toml)" # a moved environment does not work
  for extra in "$@"; do
    [ -n "$usable" ] && [ "$(cat ".venv/installed-$extra" 2>/dev/null)" = "$wanted" ] || missing+=("$extra")
  done
  [ "${#missing[@]}" = 0 ] && return
  if [ -z "$usable" ]; then
    python=$(find_python)
    if ! "$python" -c 'import ensurepip' 2>/dev/null; then # Debian has it in a package of its own
      say "installing python$(minor_version "$python")-venv (apt-get)"
      install_packages "python$(minor_version "$python")-venv"
    fi
    say "making .venv with Python $(minor_version "$python")"
    run "$python" -m venv --clear .venv || fail "no virtual environment could be made with $python"
    echo "$PWD" >.venv/made-in
  fi
  say "installing invokerd into .venv, with what ${missing[*]} need: a minute, some 150 MB"
  run .venv/bin/python -m pip install -q --disable-pip-version-check --root-user-action=ignore \
    -e ".[$(IFS=,; echo "$*")]" || fail "pip could not install the package"
  for extra in "$@"; do echo "$wanted" >".venv/installed-$extra"; done
}

# start_engine   Export DOCKER_HOST of the engine that is there, or of a private one which is stopped when the script ends.
start_engine() {
  if ! scripts/engine status >.state/engine-url 2>/dev/null; then
    at_exit scripts/engine stop
    run scripts/engine start >.state/engine-url || exit 1 # it has said why
  fi
  DOCKER_HOST=$(cat .state/engine-url)
  export DOCKER_HOST
}

# build_images NAME...   Build what is missing.
build_images() { run scripts/images "$@" || exit 1; }

# ensure_node   Put Node on PATH: the program that goes into the image, where the machine has none.
ensure_node() {
  command -v node >/dev/null && return
  local program
  program=$("$(find_python)" scripts/lib/ingredients.py node)
  mkdir -p .state/node
  ln -sfn "$program" .state/node/node
  export PATH="$PWD/.state/node:$PATH"
}

# The clients of OpenWhisk that the tests run unmodified, pinned. aio-cli brings most of it: 1,900 packages, 520 MB.
NPM_CLIENTS=(openwhisk@3.21.9 @adobe/aio-cli@11.1.2 openwhisk-composer@0.12.0)

# ensure_npm_clients   Install NPM_CLIENTS into .state/npm unless just these are there, with npm's own npm where there is none.
ensure_npm_clients() {
  local npm=(npm) attempt
  # No script of theirs is run, and nothing is left of other versions. Retries are npm's own, and then one of ours.
  local options=(--no-fund --no-audit --ignore-scripts --omit=dev --omit=optional --fetch-retries=3 --prefix .state/npm)
  [ "$(cat .state/npm/installed 2>/dev/null)" = "${NPM_CLIENTS[*]}" ] && return
  say "installing npm clients of OpenWhisk: ${NPM_CLIENTS[*]} (some minutes, 520 MB)"
  command -v npm >/dev/null || npm=(node "$("$(find_python)" scripts/lib/ingredients.py npm)/bin/npm-cli.js")
  # Node has a list of authorities of its own; behind a site's proxy the machine's is the right one.
  export NODE_EXTRA_CA_CERTS=${NODE_EXTRA_CA_CERTS:-/etc/ssl/certs/ca-certificates.crt}
  mkdir -p .state/npm
  for attempt in 1 2; do
    if run "${npm[@]}" install --silent "${options[@]}" "${NPM_CLIENTS[@]}" >/dev/null; then
      echo "${NPM_CLIENTS[*]}" >.state/npm/installed
      return
    fi
    say "npm failed (attempt $attempt of 2)"
  done
  fail "npm could not install the clients; without --silent it says why: npm install ${options[*]} ${NPM_CLIENTS[*]}"
}
