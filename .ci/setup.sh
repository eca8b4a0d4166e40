# Sourced by ./run and ./check: brings the machine to where Parkscope can start.
#
#   setup base    what the program needs         (./run)
#   setup test    that, and what the tests need  (./check)
#
# Both are idempotent. `setup` leaves the virtual environment in $venv. What it
# does, it says on stderr, one line each; the details go to a log that is shown
# when a step fails.
# shellcheck shell=bash

bcc_package=/usr/lib/python3/dist-packages/bcc/__init__.py
first_time=yes

say() { printf 'parkscope: %s\n' "$*" >&2; }

die() {
    say "$1"
    [ -z "${2-}" ] || printf '           %s\n' "$2" >&2
    exit 1
}

# quietly COMMAND…: its output is shown only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ "$status" -eq 0 ] || tail -n 25 "$log" >&2
    rm -f "$log"
    return "$status"
}

# --- the distribution's packages -------------------------------------------

# May packages be installed here? A password is asked for at a terminal only,
# and only while the environment is being set up for the first time.
may_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" -ne 0 ] || return 0
    command -v sudo >/dev/null || return 1
    sudo -n true 2>/dev/null && return 0
    [ -n "$first_time" ] && [ -t 0 ] && [ -t 2 ] && [ -z "${CI-}" ]
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"; else sudo "$@"; fi
}

apt_get() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=120 "$@"
}

# apt_install WHY PACKAGE…
apt_install() {
    local why=$1
    shift
    say "installing $* ($why)"
    # The package lists of a fresh machine are empty or old: a first failure says only that.
    apt_get install --no-install-recommends "$@" >/dev/null 2>&1 </dev/null ||
        { quietly apt_get update && quietly apt_get install --no-install-recommends "$@"; }
}

# --- Python ------------------------------------------------------------------

usable_python() {
    "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    local candidate
    for candidate in /usr/bin/python3 /usr/bin/python3.{11..15} python3; do
        command -v "$candidate" >/dev/null && usable_python "$candidate" || continue
        python=$(command -v "$candidate")
        return 0
    done
    return 1
}

need_python() {
    find_python && return
    may_install || die "no Python 3.11 or newer with venv is installed, and installing one needs root" \
        "Run: sudo apt-get install python3 python3-venv"
    apt_install "the program is written in Python" python3 python3-venv ||
        die "apt-get failed, see above"
    find_python && return
    # Distributions whose python3 is older carry a newer one under its own name.
    apt_install "python3 is older than 3.11 here" python3.11 python3.11-venv || true
    find_python || die "this distribution offers no Python 3.11 or newer"
}

# bcc comes from the distribution and is loaded by path, so the environment needs
# no --system-site-packages. Without it everything but eBPF works.
need_bcc() {
    [ -z "${PARKSCOPE_NO_BCC-}" ] && [ ! -e "$bcc_package" ] || return 0
    if may_install; then
        apt_install "loads the eBPF programs" python3-bpfcc && return
        say "python3-bpfcc could not be installed: going on without eBPF"
    else
        say "going on without eBPF: python3-bpfcc is missing and installing it needs root" \
            "(sudo apt-get install python3-bpfcc)"
    fi
}

# --- the virtual environment --------------------------------------------------

# What belongs to this clone but not into it, in the user's own cache. Sets $cache and $clone.
place_cache() {
    cache=${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/parkscope
    clone=$(printf %s "$root" | sha256sum | cut -c1-12)
    mkdir -p -m 700 "$cache" 2>/dev/null && [ -w "$cache" ] ||
        die "$cache cannot be written to" "Set XDG_CACHE_HOME to a directory of yours."
}

# Where the environment lives: in the tree, or, where the tree is not ours to
# write to, in the user's cache, with a directory of links that pip may write to.
place_environment() {
    venv=$root/.venv source=$root
    up_to_date "$1" && return
    if [ -w "$root" ] && { [ ! -e "$venv" ] || [ -w "$venv" ]; }; then return; fi
    place_cache
    venv=$cache/venv-$clone source=$cache/tree-$clone
}

link_tree() {
    [ "$source" != "$root" ] || return 0
    rm -rf "$source"
    mkdir -p "$source"
    local entry
    for entry in pyproject.toml README.md LICENSE parkscope.py probes collector tracer examples; do
        [ ! -e "$root/$entry" ] || ln -s "$root/$entry" "$source/$entry"
    done
}

# What an environment was made from: a change of any of it makes it stale.
python_key() { printf '%s %s %s' "$venv" "$python" "$("$python" -V)"; }

requirements_key() {
    printf '%s %s' "$(python_key)" "$(cat "$root/pyproject.toml" "$root/constraints.txt" | sha256sum)"
}

stamped() { [ -x "$venv/bin/python" ] && [ "$(cat "$venv/.made-$1" 2>/dev/null)" = "$2" ]; }

up_to_date() { stamped "$1" "$(requirements_key)"; }

make_environment() {
    local extras= pip=("$venv/bin/python" -m pip --disable-pip-version-check install -q)
    stamped with "$(python_key)" || {
        say "making the Python environment $venv ($("$python" -V))"
        rm -rf "$venv"
        quietly "$python" -m venv "$venv" || die "python3 -m venv failed, see above"
        python_key >"$venv/.made-with"
    }
    [ "$1" = base ] || extras="[$1]"
    say "installing the Python packages that parkscope$extras needs (versions: constraints.txt)"
    link_tree
    # setuptools first and no build isolation: pinned, and not downloaded twice.
    quietly "${pip[@]}" -c "$root/constraints.txt" setuptools &&
        quietly "${pip[@]}" -c "$root/constraints.txt" --no-build-isolation -e "$source$extras" ||
        die "pip failed, see above" "Is the package index reachable?"
    requirements_key >"$venv/.made-$1"
    # The tests' packages include the program's.
    [ "$1" = base ] || requirements_key >"$venv/.made-base"
}

setup() {
    need_python
    place_environment "$1"
    ! up_to_date "$1" || first_time=
    need_bcc
    need_compiler
    [ "$1" = base ] || need_test_tools
    up_to_date "$1" && { set_up_native "$1"; return; }
    # Two set-ups at once wait for each other; the second finds the work done.
    exec {lock}<"$(dirname "$venv")"
    flock "$lock"
    up_to_date "$1" || make_environment "$1"
    exec {lock}<&-
    set_up_native "$1"
}

set_up_native() {
    compile_units
    [ "$1" = base ] || install_map "its tests"
}

# Heap dumps are C; everything else works without a compiler.
need_compiler() {
    ! command -v cc >/dev/null || return 0
    if may_install; then
        apt_install "compiles what takes heap dumps" gcc libc6-dev && return
        say "gcc could not be installed: going on without heap dumps"
    else
        say "going on without heap dumps: a C compiler is missing and installing it needs root" \
            "(sudo apt-get install gcc libc6-dev)"
    fi
}

# The C units of heap dumps, compiled into the user's cache once per content. Everything
# else works without them, so a missing compiler is said and no reason to stop.
compile_units() {
    local stamp=$venv/.made-native
    [ ! -e "$stamp" ] || [ -n "$(find "$root/tracer/heap" -name '*.[ch]' -newer "$stamp")" ] || return 0
    (cd "$root" && PYTHONDONTWRITEBYTECODE=1 quietly "$venv/bin/python" -m tracer.heap.build) ||
        say "going on without heap dumps, see above"
    touch "$stamp" 2>/dev/null || true
}

# --- the example's map -----------------------------------------------------------

# What an installed map was made from: its sources, byte for byte, and the Python.
map_key() {
    (cd "$root/examples/concurrent_map" && python_key &&
        find setup.py MANIFEST.in README.md pyproject.toml src -type f ! -name '*.pyc' ! -name '*.so' -print0 |
        LC_ALL=C sort -z | xargs -0 sha256sum | sha256sum)
}

need_headers() {
    local include
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [ ! -e "$include/Python.h" ] && may_install || return 0
    apt_install "the example's concurrent map is written in C" python3-dev || return 0
}

# install_map FOR_WHAT: the C extension of examples/concurrent_map, into the environment.
install_map() {
    stamped map "$(map_key)" && return
    need_headers
    # As for the environment: of two at once, the second finds the work done.
    exec {lock}<"$(dirname "$venv")"
    flock "$lock"
    stamped map "$(map_key)" || build_map "$1"
    exec {lock}<&-
}

# From a copy, for the tree may belong to somebody else.
build_map() {
    say "building the concurrent map of examples/concurrent_map ($1)"
    local copy status=0
    copy=$(mktemp -d)
    (cd "$root/examples/concurrent_map" && cp -r setup.py MANIFEST.in README.md pyproject.toml src "$copy")
    quietly "$venv/bin/python" -m pip --disable-pip-version-check install -q --no-deps \
        --no-build-isolation --force-reinstall "$copy" || status=$?
    rm -rf "$copy"
    if [ "$status" -eq 0 ]; then
        map_key >"$venv/.made-map"
    else
        say "going on without the map, see above (it needs a C compiler and Python's headers)"
    fi
}

# --- what only the tests need -------------------------------------------------

# promtool checks the rules for Prometheus. Of its package, which is a daemon's, only this one
# program is taken, into the user's cache; that needs no root.
need_promtool() {
    command -v promtool >/dev/null && return
    place_cache
    local tools=$cache/tools
    [ ! -x "$tools/promtool" ] && command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null || return 0
    say "fetching promtool (the tests check rules for Prometheus with it)"
    mkdir -p "$tools"
    (
        folder=$(mktemp -d "$tools/XXXXXX")
        trap 'rm -rf "$folder"' EXIT
        cd "$folder"
        apt-get -q download prometheus || { may_install && apt_get update && apt-get -q download prometheus; }
        dpkg-deb --fsys-tarfile ./*.deb | tar -x ./usr/bin/promtool
        mv usr/bin/promtool "$tools/promtool"
    ) >/dev/null 2>&1 </dev/null ||
        say "promtool could not be fetched: going on without it; tests that need it are skipped"
}

# libFuzzer, for the measurements only.
need_fuzzer() {
    fuzzes() {
        echo 'int LLVMFuzzerTestOneInput(const char *d, long n) { return d == 0 && n; }' |
            clang -fsanitize=fuzzer,address -x c -o /dev/null - 2>/dev/null
    }
    ! fuzzes || return 0
    may_install && apt_install "fuzzes the example's map" clang libclang-rt-dev && fuzzes ||
        say "going on without libFuzzer (clang, libclang-rt-dev): what is fuzzed with it is not measured"
}

need_test_tools() {
    need_promtool
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    [ -n "$(compgen -G '/usr/include/python3*/Python.h')" ] || missing+=(python3-dev)
    command -v tmux >/dev/null || missing+=(tmux)
    [ -n "$(compgen -G '/usr/include/*/sys/sdt.h')$(compgen -G '/usr/include/sys/sdt.h')" ] ||
        missing+=(systemtap-sdt-dev)
    [ "$(id -u)" -ne 0 ] || [ -x /usr/sbin/debootstrap ] || missing+=(debootstrap)
    [ ${#missing[@]} -gt 0 ] || return 0
    local why="the tests compare C headers by compiler, look at a terminal, and fetch newer Pythons"
    if may_install; then
        apt_install "$why" "${missing[@]}" ||
            say "going on without them: the tests that need them are skipped"
    else
        say "going on without ${missing[*]}: installing needs root; tests that need them are skipped"
    fi
}
