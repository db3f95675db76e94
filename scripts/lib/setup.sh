# What scripts/test, scripts/demo and scripts/bench share: sourced, with the checkout's root as working directory.
# Each function says what it does, does nothing twice, and leaves the machine alone where it may not change it.

say() { printf '\033[1m== %s\033[0m\n' "$*" >&2; }
fail() { printf 'failed: %s\n' "$*" >&2; exit 1; }

is_debian_root() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# ensure_packages COMMAND:PACKAGE...   Install the Debian packages whose command is missing.
ensure_packages() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || missing+=("${pair#*:}")
  done
  [ "${#missing[@]}" = 0 ] && return
  is_debian_root || fail "these packages are missing; run: sudo apt-get install ${missing[*]}"
  say "installing ${missing[*]} (apt-get)"
  apt-get update -q >/dev/null
  DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# find_python   Print a Python of at least 3.11.
find_python() {
  local candidate
  for candidate in python3.11 python3.12 python3.13 python3.14 python3; do
    if command -v "$candidate" >/dev/null && "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"; return
    fi
  done
  fail "Python 3.11 or newer is needed"
}

# ensure_venv EXTRAS   Create .venv and install the package with these extras, unless that was done for this pyproject.toml.
ensure_venv() {
  local python stamp wanted
  python=$(find_python)
  mkdir -p .state
  stamp=.venv/installed-for
  wanted="$1 $(sha256sum < pyproject.toml)"
  [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  if ! "$python" -c 'import ensurepip' 2>/dev/null; then
    is_debian_root || fail "Python's venv module is missing; run: sudo apt-get install python3-venv"
    say "installing python3-venv (apt-get)"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends python3-venv >/dev/null
  fi
  say "creating .venv and installing invokerd into it"
  [ -x .venv/bin/python ] || "$python" -m venv .venv
  .venv/bin/pip install -q --disable-pip-version-check -e ".[$1]"
  echo "$wanted" > "$stamp"
}

# start_engine   Export DOCKER_HOST of the engine that is there, or of a private one which is stopped when the script ends.
start_engine() {
  local was_running=
  scripts/engine status >/dev/null 2>&1 && was_running=1
  DOCKER_HOST=$(scripts/engine start)
  export DOCKER_HOST
  [ -n "$was_running" ] || at_exit scripts/engine stop
}

# build_images NAME...   Build what is missing.
build_images() { scripts/images "$@"; }

# ensure_npm_client   Install the unmodified npm client that the tests use into .state/npm, and put node on PATH.
ensure_npm_client() {
  local node
  node=$(scripts/images --node)
  export PATH="$node:$PATH"
  [ -d .state/npm/node_modules/openwhisk ] && return
  say "installing the npm client openwhisk"
  mkdir -p .state/npm
  npm install --silent --no-fund --no-audit --prefix .state/npm openwhisk@3.21 >/dev/null
}

# at_exit COMMAND...   Run a command when the script ends, last one first.
exit_commands=()
at_exit() {
  exit_commands=("$*" "${exit_commands[@]}")
  trap 'for c in "${exit_commands[@]}"; do $c || true; done' EXIT
  trap 'exit 130' INT
  trap 'exit 143' TERM
}
