# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Debian packages by name and checksum, without touching the system's apt.
#
# A "row" names one package as measured: group, package, version, architecture, SHA-256,
# suite, path in the archive's pool. Rows come from packages.lock or, when the archive has
# moved on, from a suite's Packages index, which apt checks against the archive keyring
# in a state folder of our own. The mirrors are those of the machine's own configuration.

DEBIAN_KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

# Archive roots from the machine's apt configuration (or CVMM_DEBIAN_MIRROR), one per line,
# each ending in a slash.
debian_mirrors() {
    if [ -n "${CVMM_DEBIAN_MIRROR:-}" ]; then
        printf '%s/\n' "${CVMM_DEBIAN_MIRROR%/}"
        return
    fi
    # --no-release-info lists what is configured even before the first apt-get update.
    # shellcheck disable=SC2016 # apt fills these in
    apt-get indextargets --no-release-info --format '$(IDENTIFIER) $(COMPONENT) $(RELEASE) $(REPO_URI)' 2>/dev/null |
        awk '$1 == "Packages" && $2 == "main" &&
             $3 ~ /^(bookworm|trixie|forky|sid|stable|testing|unstable|oldstable)(-updates|-backports)?$/ { print $4 }' |
        while read -r uri; do
            case $uri in
            mirror+file:*) # a file with one mirror per line, as Debian's cloud images have it
                sed -e 's/#.*//' -e 's/[[:space:]].*//' -e '/^$/d' "${uri#mirror+file:}" 2>/dev/null || true ;;
            *) printf '%s\n' "$uri" ;;
            esac
        done | sed 's|/*$|/|' | awk '!seen[$0]++'
}

# apt state for one suite: sources, lists and an empty dpkg status of its own.
debian_state() {
    local suite=$1 state mirror suites
    state=$(cache_dir)/apt/$suite
    [ -r "$DEBIAN_KEYRING" ] ||
        die "no $DEBIAN_KEYRING: install debian-archive-keyring (package signatures are always checked)"
    mkdir -p "$state/lists/partial" "$state/archives/partial" "$state/etc"
    : >"$state/status"
    # Backports and updates are complete only together with the release they belong to.
    case $suite in
    *-backports | *-updates) suites="${suite%-*} $suite" ;;
    *) suites=$suite ;;
    esac
    : >"$state/etc/debian.sources"
    for mirror in $(debian_mirrors); do
        printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: amd64\nSigned-By: %s\n\n' \
            "$mirror" "$suites" "$DEBIAN_KEYRING" >>"$state/etc/debian.sources"
    done
    [ -s "$state/etc/debian.sources" ] ||
        die "no Debian mirror in this machine's apt configuration; set CVMM_DEBIAN_MIRROR to an archive root"
    # The system's configuration stays in force (proxies); its hooks and its index extras do not.
    cat >"$state/apt.conf" <<EOF
#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
#clear DPkg::Pre-Invoke;
#clear DPkg::Post-Invoke;
#clear Acquire::IndexTargets::deb::DEP-11;
#clear Acquire::IndexTargets::deb::DEP-11-icons;
#clear Acquire::IndexTargets::deb::DEP-11-icons-small;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large;
#clear Acquire::IndexTargets::deb::DEP-11-icons-hidpi;
#clear Acquire::IndexTargets::deb::DEP-11-icons-large-hidpi;
#clear Acquire::IndexTargets::deb::CNF;
#clear Acquire::IndexTargets::deb::Contents-deb;
APT::Architecture "amd64";
#clear APT::Architectures;
APT::Architectures { "amd64"; };
APT::Sandbox::User "root";
APT::Install-Recommends "false";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State::lists "$state/lists";
Dir::State::status "$state/status";
Dir::State::extended_states "$state/extended_states";
Dir::Cache "$state";
Dir::Cache::archives "$state/archives";
Dir::Cache::pkgcache "$state/pkgcache.bin";
Dir::Cache::srcpkgcache "$state/srcpkgcache.bin";
Dir::Etc::SourceList "/dev/null";
Dir::Etc::SourceParts "$state/etc";
Dir::Etc::Preferences "/dev/null";
Dir::Etc::PreferencesParts "/dev/null";
EOF
    printf '%s\n' "$state"
}

# debian_update SUITE: refreshes the suite's index; fails when no mirror has it.
debian_update() {
    local suite=$1 state
    state=$(debian_state "$suite") || return 1
    say "reading Debian's signed package index of $suite"
    # Two scripts may read the same suite at a time.
    apt_patiently env LC_ALL=C apt-get -c "$state/apt.conf" -qq update || return 1
    # apt-get update succeeds when it merely keeps old lists; those are signed too.
    compgen -G "$state/lists/*_dists_${suite}_main_binary-amd64_Packages*" >/dev/null
}

# debian_rows GROUP SUITE CLOSURE PATTERN...: rows for the newest packages that match the
# patterns (extended regular expressions for the whole name) in an updated suite; with
# CLOSURE=yes also for everything they depend on.
debian_rows() {
    local group=$1 suite=$2 closure=$3 state pattern names=() specs
    shift 3
    state=$(debian_state "$suite") || return 1
    for pattern in "$@"; do
        local name
        name=$(apt-cache -c "$state/apt.conf" pkgnames | grep -xE -- "$pattern" | sort -V | tail -n 1)
        [ -n "$name" ] || { say "no package in $suite matches $pattern"; return 1; }
        names+=("$name")
    done
    if [ "$closure" = yes ]; then
        specs=$(apt-get -c "$state/apt.conf" -t "$suite" --simulate install "${names[@]}" |
            sed -n 's/^Inst \([^ ]*\) (\([^ ]*\) .*/\1=\2/p')
    else
        specs=$(for name in "${names[@]}"; do
            apt-cache -c "$state/apt.conf" -t "$suite" policy "$name" |
                awk -v n="$name" '/Candidate:/ { print n "=" $2 }'
        done)
    fi
    [ -n "$specs" ] || { say "$suite cannot satisfy ${names[*]}"; return 1; }
    # shellcheck disable=SC2086 # one argument per package
    apt-cache -c "$state/apt.conf" show $specs | awk -v g="$group" -v s="$suite" '
        /^Package:/ { p = $2 } /^Version:/ { v = $2 } /^Architecture:/ { a = $2 }
        /^SHA256:/ { h = $2 } /^Filename:/ { f = $2 }
        /^$/ { if (p != "" && f != "" && length(h) == 64 && !seen[p]++) print g, p, v, a, h, s, f; p = f = h = "" }
        END { if (p != "" && f != "" && length(h) == 64 && !seen[p]++) print g, p, v, a, h, s, f }' | sort
}

debian_deb() { printf '%s/deb/%s.deb\n' "$(cache_dir)" "$1"; }

debian_have() { # SHA256: is the verified file in the cache?
    [ -f "$(debian_deb "$1")" ]
}

# debian_download ROWS: puts every package of the rows into the cache, each checked against
# its SHA-256; tries every mirror. Fails when one is missing in the end.
debian_download() {
    local rows=$1 mirror name version sha path part want=() n
    part=$(cache_dir)/deb/partial.$$
    mkdir -p "$part" || die "cannot write to $(cache_dir)"
    local conf
    conf=$(debian_state pool)/apt.conf || return 1
    for mirror in $(debian_mirrors); do
        want=()
        while read -r _ _ _ _ sha _ path; do
            debian_have "$sha" || want+=("$mirror$path" "$part/$sha.deb" "SHA256:$sha")
        done <<<"$rows"
        n=$((${#want[@]} / 3))
        [ "$n" = 0 ] && break
        say "downloading $n package(s):"
        while read -r _ name version _ sha _ _; do
            debian_have "$sha" || say "  $name $version"
        done <<<"$rows"
        /usr/lib/apt/apt-helper -c "$conf" -qq download-file "${want[@]}" >&2 ||
            say "this mirror did not deliver everything"
        while read -r _ name version _ sha _ _; do
            [ -f "$part/$sha.deb" ] || continue
            # apt has checked it; a second look costs little and does not trust its exit code.
            if printf '%s  %s\n' "$sha" "$part/$sha.deb" | sha256sum --check --status; then
                say "  got $name $version ($(numfmt --to=iec-i --suffix=B "$(stat -c %s "$part/$sha.deb")"))"
                mv "$part/$sha.deb" "$(debian_deb "$sha")"
            else
                warn "checksum of a downloaded file is wrong, expected $sha; dropped"
            fi
        done <<<"$rows"
    done
    rm -rf "$part"
    local missing=0
    while read -r _ name version _ sha _ _; do
        debian_have "$sha" || { missing=1; say "not available: $name $version"; }
    done <<<"$rows"
    return $missing
}

# debian_unpack ROWS DIR: unpacks (never installs, no maintainer script runs).
debian_unpack() {
    local rows=$1 dir=$2 name sha
    mkdir -p "$dir"
    while read -r _ name _ _ sha _ _; do
        dpkg-deb -x "$(debian_deb "$sha")" "$dir" </dev/null || die "cannot unpack $name: delete $(debian_deb "$sha") and try again"
    done <<<"$rows"
}
