#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks the Markdown pages and the licence headers of a git work tree: docs-check.py [FOLDER]

- Links to files and headings of this repository lead somewhere.
- A link to a Rust file whose text is code, such as [`Machine::build`](…/mod.rs), names an item that is defined in that file.
- Tables are whole: no row is cut off by a blank line, and all rows have as many cells as the header.
- Every page below docs/ can be reached from docs/index.md.
- Every source file has an SPDX licence header.

Prints the problems and a summary; the exit code is 1 if there are any.
"""
import os
import re
import subprocess
import sys

ITEM = r"(?:fn|struct|enum|union|trait|type|const|static|mod|macro_rules!)\s+"
START = "docs/index.md"

problems = []


def without_code(text):
    """The text with fenced code blocks emptied; lines keep their numbers."""
    return re.sub(r"^```.*?^```", lambda block: "\n" * block.group().count("\n"), text, flags=re.S | re.M)


def anchors(text):
    for title in re.findall(r"^#+ +(.*?) *$", without_code(text), flags=re.M):
        yield re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")


def read(path):
    with open(path, encoding="utf-8") as file:
        return file.read()


def links(page, text):
    """(link text, target, path below the root, anchor) of the links of a page into this repository."""
    for label, target in re.findall(r"\[((?:`[^`]*`|\[[^\]]*\]|[^\[\]`])*)\]\(([^)\s]+)\)", without_code(text)):
        if re.match(r"[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        yield label, target, os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page, anchor


def check_link(page, label, target, path, anchor):
    if not os.path.exists(path):
        return f"link to {target}, but there is no {path}"
    if anchor and path.endswith(".md") and anchor not in anchors(read(path)):
        return f"link to {target}, but {path} has no such heading"
    code = re.fullmatch(r"`([^`]+)`", label)
    if code and path.endswith(".rs"):
        name = re.sub(r"[({!].*", "", code.group(1))
        if name == os.path.basename(path) or path.endswith("/" + name):
            return None
        *outer, item = name.split("::")
        source = read(path)
        if not re.search(rf"\b{ITEM}{re.escape(item)}\b", source):
            return f"link to {target}, but {path} does not define {item}"
        for part in outer:
            if not re.search(rf"\b{re.escape(part)}\b", source):
                return f"link to {target}, but {path} does not mention {part}"
    return None


def cells(row):
    return len(re.split(r"(?<!\\)\|", row.strip().strip("|")))


def check_tables(page, text):
    lines = without_code(text).split("\n")
    at = 0
    while at < len(lines):
        if not lines[at].startswith("|"):
            at += 1
            continue
        end = at
        while end < len(lines) and lines[end].startswith("|"):
            end += 1
        rows = lines[at:end]
        if len(rows) < 2 or not re.fullmatch(r"\|(\s*:?-+:?\s*\|)+\s*", rows[1]):
            problems.append(f"{page}:{at + 1}: a table row without a table: is there a blank line inside the table?")
        else:
            for number, row in enumerate(rows, at + 1):
                if cells(row) != cells(rows[0]):
                    problems.append(f"{page}:{number}: {cells(row)} cells, and the header has {cells(rows[0])}")
        at = end


def check_reachable(pages, linked):
    if START not in pages:
        problems.append(f"there is no {START}")
        return
    found, queue = {START}, [START]
    while queue:
        for path in linked.get(queue.pop(), ()):
            if path not in found:
                found.add(path)
                queue.append(path)
    for page in pages:
        if page.startswith("docs/") and page not in found:
            problems.append(f"{page}: cannot be reached from {START}")


def main():
    os.chdir(sys.argv[1] if len(sys.argv) > 1 else ".")
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], check=True, text=True, capture_output=True)
    files = [name for name in listed.stdout.split("\n") if name and os.path.isfile(name)]
    pages = [name for name in files if name.endswith(".md")]
    linked, count, headers = {}, 0, 0
    for page in pages:
        text = read(page)
        for label, target, path, anchor in links(page, text):
            count += 1
            linked.setdefault(page, set()).add(path)
            problem = check_link(page, label, target, path, anchor)
            if problem:
                problems.append(f"{page}: {problem}")
        check_tables(page, text)
    check_reachable(pages, linked)
    for name in files:
        with open(name, "rb") as file:
            head = file.read(300)
        if name.endswith((".rs", ".c", ".py", ".sh")) or head.startswith(b"#!"):
            headers += 1
            if b"SPDX-License-Identifier:" not in head:
                problems.append(f"{name}: no SPDX-License-Identifier in its first lines")
    print("\n".join(problems + [f"{count} links, {headers} licence headers, {len(problems)} problems"]))
    return 1 if problems or headers == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
