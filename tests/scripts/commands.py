#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Checks that commands and options which the pages print exist: commands.py PROGRAMS [PAGE]...

PROGRAMS is a folder with the built programs. Looks at code blocks and inline code of the pages, by default README.md and all below docs/, and
compares each command line with the program's --help.
"""
import functools
import glob
import os
import re
import subprocess
import sys

NAMES = ("cvmm", "cvmm-gate", "cvmm-guest", "cvmm-vtpm", "cvmm-psp-pki")


@functools.lru_cache(None)
def help_of(folder, words):
    said = subprocess.run([os.path.join(folder, words[0]), *words[1:], "--help"], capture_output=True, text=True)
    return said.stdout + said.stderr


def commands_of(text):
    return re.findall(r"^  ([a-z][a-z-]*)(?:  |$)", text, flags=re.M)


def printed(text):
    """The code of a page: lines of fenced and indented blocks, and inline code."""
    fence = r"^```(\w*)\n(.*?)^```"
    for kind, block in re.findall(fence, text, flags=re.S | re.M):
        if kind != "text":
            yield from block.replace("\\\n", " ").split("\n")
    text = re.sub(fence, "", text, flags=re.S | re.M)
    yield from re.findall(r"^    (\S.*)$", text, flags=re.M)
    for code in re.findall(r"(?<!`)`([^`]+)`(?!`)", text):
        yield code.replace("\n", " ")


def problems(folder, line):
    """What is wrong with each command in a line, or None for a command without problems."""
    for part in re.split(r"[;|&]\s*|\bdo\b|\s--\s", re.sub(r"\s#.*", "", line)):
        words = part.split()
        if not words or words[0] not in NAMES:
            continue
        command, rest = [words[0]], words[1:]
        while rest and rest[0] in commands_of(help_of(folder, tuple(command))):
            command.append(rest.pop(0))
        known = help_of(folder, tuple(command))
        inner = commands_of(known)
        if inner and rest and re.fullmatch(r"[a-z][a-z-]*", rest[0]):
            yield f"{' '.join(command)} has no command {rest[0]}"
            continue
        # Options of inner commands may be named without the command.
        known += "".join(help_of(folder, (*command, name)) for name in inner if name != "help")
        fine = True
        for option in re.findall(r"(?<![\w-])(--[a-z][a-z-]*|-[a-zA-Z])(?![\w-])", " ".join(rest)):
            if not re.search(rf"(?<![\w-]){option}(?![\w-])", known):
                fine = False
                yield f"{' '.join(command)} has no option {option}"
        if fine:
            yield None


def main():
    folder, pages = sys.argv[1], sys.argv[2:] or ["README.md", *sorted(glob.glob("docs/**/*.md", recursive=True))]
    found = []
    for page in pages:
        with open(page, encoding="utf-8") as file:
            text = file.read()
        found += [(page, problem) for line in printed(text) for problem in problems(folder, line)]
    wrong = [f"{page}: {problem}" for page, problem in found if problem]
    print("\n".join(wrong + [f"{len(found)} commands, {len(wrong)} problems"]))
    return 1 if wrong or not found else 0


if __name__ == "__main__":
    sys.exit(main())
