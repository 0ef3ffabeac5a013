#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Verdicts and times of cvmm's verifier beside the `sev` crate and snpguest. Called by scripts/bench attest.

Peers are given what they ask for: report, certificate of the signing key, and the root and intermediate certificate of its
kind and product line. They have no way to be given a revocation list, a policy or a time. A peer that ends in any other way than by saying yes has
refused. The counts are of this run; nothing is taken from what is known of the vectors but what the verdict should be.
"""
import argparse
import base64
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

CLASSES = ["format", "signature", "chain", "crl", "policy", "derived", "published"]


def authority(vek):
    """File names of root and intermediate, and the product line: by the key's kind and its issuer's line, as a careful caller would."""
    found = re.search(rb"SEV-(?:VLEK-)?(Milan|Genoa|Turin)", vek[:400])
    line = found[1].decode().lower() if found else "milan"
    return f"{line}_ark.der", f"{line}_{'asvk' if is_loaded(vek) else 'ask'}.der", line


def is_loaded(vek):
    """Whether it is a VLEK's: by its subject."""
    return b"SEV-VCEK" not in vek and b"SEV-VLEK" in vek


def pem(der):
    body = base64.encodebytes(der).decode().replace("\n", "")
    lines = "\n".join(body[at:at + 64] for at in range(0, len(body), 64))
    return f"-----BEGIN CERTIFICATE-----\n{lines}\n-----END CERTIFICATE-----\n"


def sev_verdicts(program, vectors, folder):
    """None for yes, else why not. Without a certificate there is nothing to ask."""
    asked = [vector for vector in vectors if (folder / vector["id"] / "vek.der").exists()]
    lines = []
    for vector in asked:
        own = folder / vector["id"]
        roots = folder / ("synth/roots" if vector["made"] else "roots")
        ark, ask, _ = authority((own / "vek.der").read_bytes())
        lines.append(f"{own / 'report.bin'} {own / 'vek.der'} {roots / ark} {roots / ask}")
    answer = subprocess.run([program, "verdicts"], input="\n".join(lines), text=True, capture_output=True, check=True)
    answers = answer.stdout.splitlines()
    assert len(answers) == len(asked), f"{program}: {len(answers)} answers to {len(asked)} questions"
    said = dict(zip((vector["id"] for vector in asked), answers))
    return {vector["id"]: None if said.get(vector["id"]) == "ok" else said.get(vector["id"], "no certificate") for vector in vectors}


def snpguest_verdict(program, vector, folder):
    own = folder / vector["id"]
    if not (own / "vek.der").exists():
        return "no certificate"
    vek = (own / "vek.der").read_bytes()
    roots = folder / ("synth/roots" if vector["made"] else "roots")
    ark, ask, line = authority(vek)
    loaded = is_loaded(vek)
    with tempfile.TemporaryDirectory() as work:
        for name, der in (("ark", (roots / ark).read_bytes()), ("asvk" if "asvk" in ask else "ask", (roots / ask).read_bytes()),
                          ("vlek" if loaded else "vcek", vek)):
            Path(work, f"{name}.pem").write_text(pem(der))
        for command in (["certs", work], ["attestation", "--processor-model", line, work, str(own / "report.bin")]):
            done = subprocess.run([program, "verify", *command], capture_output=True, text=True, timeout=60)
            if done.returncode != 0:
                return (done.stderr.strip() or done.stdout.strip() or "refused").splitlines()[-1]
    return None


def times(programs, folder, rounds):
    """Nanoseconds of (first, second) per program, in turns: median and least. The least is what a busy machine disturbs least."""
    real = (folder / "tav-milan").exists()
    own = folder / ("tav-milan" if real else "synth/ok-milan-v3")
    roots = folder / ("roots" if real else "synth/roots")
    report, vek = str(own / "report.bin"), str(own / "vek.der")
    ark, ask, _ = authority((own / "vek.der").read_bytes())
    peers = [str(roots / ark), str(roots / ask)]
    taken = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            more = [] if name == "cvmm" else peers
            done = subprocess.run([program, "time", report, vek, *more, "25"], capture_output=True, text=True, check=True,
                                  env=dict(os.environ, CVMM_VECTORS=str(folder)))
            # The first ones warm the caches up.
            taken[name] += [tuple(map(int, line.split())) for line in done.stdout.splitlines()][5:]
    return {name: [(statistics.median(column), min(column)) for column in zip(*all_of)] for name, all_of in taken.items()}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--vectors", type=Path, required=True)
    parser.add_argument("--rounds", type=int, required=True)
    parser.add_argument("--out", type=Path, required=True)
    for name in ("cvmm", "nossl", "openssl", "snpguest"):
        parser.add_argument(f"--{name}", required=True)
    options = parser.parse_args()
    folder = options.vectors.resolve()

    own = subprocess.run([options.cvmm, "verdicts"], capture_output=True, text=True, check=True,
                         env={"CVMM_VECTORS": str(folder)})
    vectors = [json.loads(line) for line in own.stdout.splitlines()]
    verdicts = {
        "cvmm": {vector["id"]: vector["refusal"] for vector in vectors},
        "sev 8.0.0, openssl": sev_verdicts(options.openssl, vectors, folder),
        "sev 8.0.0, crypto_nossl": sev_verdicts(options.nossl, vectors, folder),
        "snpguest 0.11.0": {vector["id"]: snpguest_verdict(options.snpguest, vector, folder) for vector in vectors},
    }
    bad = {name: [v["id"] for v in vectors if not v["allowed"] and said[v["id"]] is None] for name, said in verdicts.items()}
    good = {name: [v["id"] for v in vectors if v["allowed"] and said[v["id"]] is not None] for name, said in verdicts.items()}
    size = {name: sum(vector["class"] == name for vector in vectors) for name in [*CLASSES, "valid"]}
    kind = {vector["id"]: vector["class"] for vector in vectors}

    lines = ["misses (accepted, and should not be) and false rejects, by class of vector; (n) vectors of it", "",
             "| verifier | " + " | ".join(f"{name} ({size[name]})" for name in CLASSES) + f" | rejected of valid ({size['valid']}) |",
             "|---" * (len(CLASSES) + 2) + "|"]
    for name in verdicts:
        misses = [sum(kind[missed] == of for missed in bad[name]) for of in CLASSES]
        lines.append(f"| {name} | " + " | ".join(map(str, misses)) + f" | {len(good[name])} |")
    taken = times({"cvmm": options.cvmm, "openssl": options.openssl, "nossl": options.nossl}, folder, options.rounds)
    base = taken["cvmm"][0]
    which = "one real Milan report" if (folder / "tav-milan").exists() else "one made Milan report (RSA of 2048 bits, where AMD's has 4096)"
    lines += ["", f"time of {which}, {20 * options.rounds} times in {options.rounds} turns", "",
              "| verifier | median, ms | ratio | least, ms | ratio |", "|---|---|---|---|---|"]

    def row(label, figures):
        cells = (cell for at in (0, 1) for cell in (f"{figures[at] / 1e6:.3f}", f"{figures[at] / base[at]:.2f}"))
        lines.append(f"| {label} | {' | '.join(cells)} |")

    row("cvmm: certificate, chain, dates, report, claims", base)
    row("cvmm, and appraised by a policy", taken["cvmm"][1])
    for name in ("openssl", "nossl"):
        row(f"sev 8.0.0, {name}: certificate and report, root and intermediate verified beforehand", taken[name][1])
        row(f"sev 8.0.0, {name}: everything", taken[name][0])
    text = "\n".join(lines)
    print(text)
    (options.out / "attest.txt").write_text(text + "\n")
    (options.out / "attest.json").write_text(json.dumps(
        {"verdicts": verdicts, "misses": bad, "false_rejects": good, "median_and_least_ns": taken}, indent=1))
    wrong = bad["cvmm"] + good["cvmm"]
    if wrong:
        sys.exit(f"cvmm is wrong about {', '.join(wrong)}")


main()
