#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Times `cvmm measure` against other programs that compute the launch digest of an SNP guest.

  measure.py --runs N --out DIR --ovmf F --kernel K --initrd I --append TEXT NAME=PROGRAM...

NAMEs: cvmm, sev (examples/sev-measure.rs), snpguest, sev-snp-measure (a folder for PYTHONPATH). One process per digest, in
turns, from just before it is spawned until it is reaped; one round before that is not counted. All digests of an input must
be the same, or there is no result. Two inputs: A is firmware only with one vCPU, B has kernel, initrd and command line too
and four vCPUs.

Writes DIR/measure.json and DIR/measure.txt and prints the latter.
"""
import argparse
import json
import os
import statistics
import sys
import time

AIM = 0.4  # of the sev crate's time


def command(name, program, files, vcpus, cpu, boot):
    if name == "snpguest":
        line = [program, "generate", "measurement", "-o", files.ovmf, "-v", str(vcpus), "--vcpu-type", cpu]
    else:
        line = [program, "--ovmf", files.ovmf, "--vcpus", str(vcpus), "--vcpu-type", cpu]
        if name == "cvmm":
            line.insert(1, "measure")
        elif name == "sev-snp-measure":
            line[:1] = [sys.executable, "-m", "sevsnpmeasure.cli", "--mode", "snp"]
    if boot:
        line += ["--kernel", files.kernel, "--initrd", files.initrd, "--append", files.append]
    return line


def once(line, env):
    """Milliseconds of wall-clock time, milliseconds of processor time, digest."""
    read, write = os.pipe()
    actions = [(os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
    start = time.perf_counter()
    pid = os.posix_spawn(line[0], line, env, file_actions=actions)
    os.close(write)
    with os.fdopen(read) as pipe:
        said = pipe.read()
    _, status, usage = os.wait4(pid, 0)
    wall = time.perf_counter() - start
    if status != 0:
        sys.exit(f"error: status {status} of {' '.join(line)}\n{said}")
    digest = said.split()[-1].removeprefix("0x") if said.strip() else ""
    if len(digest) != 96:
        sys.exit(f"error: no digest from {' '.join(line)}\n{said}")
    return wall * 1e3, (usage.ru_utime + usage.ru_stime) * 1e3, digest


def measure(contestants, files, runs):
    inputs = {"A": (1, "EPYC-v4", False), "B": (4, "EPYC-Milan", True)}
    result = {}
    for key, (vcpus, cpu, boot) in inputs.items():
        lines, digests = {}, {}
        times = {name: {"wall_ms": [], "cpu_ms": []} for name in contestants}
        for name, program in contestants.items():
            env = dict(os.environ, PYTHONPATH=program) if name == "sev-snp-measure" else dict(os.environ)
            lines[name] = command(name, program, files, vcpus, cpu, boot), env
        for counted in [False] + runs * [True]:
            for name, line in lines.items():
                wall, cpu_time, digest = once(*line)
                digests[name] = digest
                if counted:
                    times[name]["wall_ms"].append(wall)
                    times[name]["cpu_ms"].append(cpu_time)
            if len(set(digests.values())) != 1:
                sys.exit(f"error: input {key}: the digests differ: {digests}")
        result[key] = {"vcpus": vcpus, "vcpu_type": cpu, "boot": boot, "digest": digests["cvmm"], "times": times}
    return result


def report(result, runs, load):
    out = [f"{runs} runs each, in turns; milliseconds: median (min to max); load average {load}", ""]
    for key, one in result.items():
        what = "firmware, kernel, initrd, command line" if one["boot"] else "firmware only"
        out.append(f"{key}: {one['vcpus']}x {one['vcpu_type']}, {what}; the same digest from all: {one['digest'][:16]}...")
        own = one["times"]["cvmm"]
        for name, times in one["times"].items():
            wall, cpu = times["wall_ms"], times["cpu_ms"]
            row = f"{statistics.median(wall):8.1f} ({min(wall):.1f} to {max(wall):.1f})"
            ratios = [pick(own[clock]) / pick(times[clock]) for clock in ("wall_ms", "cpu_ms") for pick in (statistics.median, min)]
            text = "" if name == "cvmm" else "cvmm / this: {:.2f} (minima {:.2f}), processor time {:.2f}".format(*ratios)
            out.append(f"  {name:<16}{row:<30}processor {statistics.median(cpu):6.1f}   {text}".rstrip())
        ratio = statistics.median(own["wall_ms"]) / statistics.median(one["times"]["sev"]["wall_ms"])
        out += [f"  {'met   ' if ratio <= AIM else 'MISSED'} {ratio:.3f} of the sev crate's time, aim {AIM}", ""]
    return "\n".join(out)


def main():
    parser = argparse.ArgumentParser()
    for option in ("--out", "--ovmf", "--kernel", "--initrd", "--append"):
        parser.add_argument(option, required=True)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("contestants", nargs="+", metavar="NAME=PROGRAM")
    files = parser.parse_args()
    contestants = dict(entry.split("=", 1) for entry in files.contestants)
    if not {"cvmm", "sev"} <= contestants.keys():
        parser.error("cvmm and sev are what is compared")
    result = measure(contestants, files, files.runs)
    load = "{:.1f}".format(os.getloadavg()[0])
    text = report(result, files.runs, load)
    print(text)
    with open(os.path.join(files.out, "measure.txt"), "w") as file:
        file.write(text + "\n")
    with open(os.path.join(files.out, "measure.json"), "w") as file:
        json.dump({"version": 1, "runs": files.runs, "load": load, "inputs": result}, file, indent=2)


main()
