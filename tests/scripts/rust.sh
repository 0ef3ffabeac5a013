# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# The minimum Rust version, in all places that name one. Part of tests/scripts/run.
: "${root:?}"

test_the_minimum_rust_version_is_true() {
    local stated needed place script
    stated=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    # Of all that the default build of the programs compiles.
    needed=$(cd "$root" && cargo metadata --locked --format-version 1 --filter-platform x86_64-unknown-linux-gnu | python3 -c '
import json, sys
data = json.load(sys.stdin)
packages = {package["id"]: package for package in data["packages"]}
nodes = {node["id"]: node for node in data["resolve"]["nodes"]}
todo, seen = list(data["workspace_members"]), set()
while todo:
    package = todo.pop()
    if package in seen:
        continue
    seen.add(package)
    for dependency in nodes[package]["deps"]:
        if any(kind["kind"] in (None, "build") for kind in dependency["dep_kinds"]):
            todo.append(dependency["pkg"])
versions = [packages[package]["rust_version"] or "1.0" for package in seen if packages[package]["source"]]
print(max(versions, key=lambda version: [int(part) for part in version.split(".")]))')
    [ -n "$stated" ] || fail "Cargo.toml has no rust-version"
    [ "$(printf '%s\n' "$needed" "$stated" | sort -V | tail -n 1)" = "$stated" ] ||
        fail "Cargo.toml says Rust $stated, and a dependency of the default build needs $needed"
    for place in README.md docs/guide/install.md; do
        grep -qF "Rust toolchain ($stated or later)" "$root/$place" || fail "$place does not say Rust toolchain ($stated or later)"
    done
    # Packages that do not belong to the workspace are built with the same toolchain.
    while read -r place; do
        grep -qxF -e "rust-version = \"$stated\"" -e 'rust-version.workspace = true' "$root/$place" ||
            fail "$place does not say rust-version $stated"
    done < <(git -C "$root" ls-files '*Cargo.toml' | grep -v '^tests/bench/peers/')
    for script in $(cd "$root" && grep -lE '^[^#]*\bcargo (build|test|rustc|run|clippy)' scripts/*); do
        grep -q '\bneed_rust\b' "$root/$script" || fail "$script runs cargo without need_rust"
    done
}

test_an_old_rust_is_refused_by_name() {
    mkdir bin
    printf '#!/bin/sh\necho "rustc 1.88.0 (6b00bc388 2025-06-23)"\n' >bin/rustc
    printf '#!/bin/sh\nexit 1\n' >bin/cargo
    chmod 755 bin/rustc bin/cargo
    PATH=$PWD/bin:$PATH
    (need_rust) >said 2>&1 && fail "Rust 1.88 is accepted"
    grep -q 'this Rust toolchain is 1.88.0, and cvmm needs' said || fail "$(cat said)"
    printf '#!/bin/sh\necho "rustc 1.1000.0-nightly (0 2099-01-01)"\n' >bin/rustc
    (need_rust) >said 2>&1 || fail "a newer one is refused: $(cat said)"
}
