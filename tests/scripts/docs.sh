# shellcheck shell=bash
# SPDX-License-Identifier: Apache-2.0
# Tests of the docs check. Sourced by run.

# docs_tree: a git work tree without problems in the current folder
docs_tree() {
    git init -q . || fail "git init failed"
    mkdir -p docs/guide src
    cat >docs/index.md <<'PAGE'
# Pages

| page | about |
|---|---|
| [guide/a.md](guide/a.md#one-two) | a \| b |
PAGE
    cat >docs/guide/a.md <<'PAGE'
# One, two

The code: [`Way::go`](../../src/way.rs), [`way.rs`](../../src/way.rs).

```text
| not | a table |
[not a link](nowhere.md)
```
PAGE
    printf '// SPDX-License-Identifier: Apache-2.0\nimpl Way {\n    fn go() {}\n}\n' >src/way.rs
}

# docs_problem WORDS: the docs check refuses the tree, and says WORDS
docs_problem() {
    local said
    # shellcheck disable=SC2154 # set by run
    if said=$(python3 "$root/scripts/lib/docs-check.py" . 2>&1); then fail "no problem found, expected: $1"; fi
    grep -qF -- "$1" <<<"$said" || fail "expected '$1' in: $said"
}

test_docs_check_accepts_a_good_tree() {
    docs_tree
    python3 "$root/scripts/lib/docs-check.py" . | grep -qx '3 links, 1 licence headers, 0 problems' || fail "the tree is good"
}

test_docs_check_follows_links() {
    docs_tree
    echo '[gone](gone.md)' >>docs/guide/a.md
    docs_problem "docs/guide/a.md: link to gone.md, but there is no docs/guide/gone.md"
}

test_docs_check_follows_anchors() {
    docs_tree
    sed -i 's/^# One, two/# One/' docs/guide/a.md
    docs_problem "link to guide/a.md#one-two, but docs/guide/a.md has no such heading"
}

test_docs_check_looks_for_items() {
    docs_tree
    sed -i 's/fn go/fn went/' src/way.rs
    docs_problem "docs/guide/a.md: link to ../../src/way.rs, but src/way.rs does not define go"
}

test_docs_check_finds_cut_tables() {
    docs_tree
    printf '\n| cut | off |\n' >>docs/index.md
    docs_problem "docs/index.md:7: a table row without a table"
}

test_docs_check_counts_cells() {
    docs_tree
    echo '| one |' >>docs/index.md
    docs_problem "docs/index.md:6: 1 cells, and the header has 2"
}

test_docs_check_finds_orphans() {
    docs_tree
    echo '# Alone' >docs/guide/alone.md
    docs_problem "docs/guide/alone.md: cannot be reached from docs/index.md"
}

test_docs_check_wants_licence_headers() {
    docs_tree
    echo 'fn main() {}' >src/main.rs
    docs_problem "src/main.rs: no SPDX-License-Identifier"
}
