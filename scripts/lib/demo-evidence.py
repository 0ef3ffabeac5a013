#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What scripts/demo reads of the evidence: nothing here is cvmm's code.

  demo-evidence.py extract DISK OUT         the guest's evidence out of its disk: OUT/bundle.json, ticket.jwt and the parts of the
                                            bundle as files for other verifiers
  demo-evidence.py report REPORT            measurement of a report and who asked for it, two words
  demo-evidence.py question NONCE           qualifyingData of a quote that answers a nonce (docs/reference/gate-protocol.md)
  demo-evidence.py audit LOG VM             the gate's audit log, a line for each decision
  demo-evidence.py admitted LOG VM CLASS    fails unless a ticket of this evidence class is in the log for the VM
  demo-evidence.py pcrs BUNDLE YAML         the PCRs of `tpm2 eventlog` beside the quoted ones; fails if they differ
  demo-evidence.py requests QEMU-LOG DIGEST what the security processor did for launches of this digest
"""
import base64
import hashlib
import json
import os
import re
import struct
import sys

# Offsets: SEV-SNP firmware ABI, table "ATTESTATION_REPORT Structure".
VMPL, MEASUREMENT = 0x30, 0x90
HOST = 0xFFFFFFFF


def extract(disk, out):
    with open(disk, "rb") as file:
        data = file.read()
    text = data[:1 << 20].split(b"\0", 1)[0]
    bundle = json.loads(text)

    def put(name, content):
        with open(os.path.join(out, name), "wb") as file:
            file.write(content)

    put("bundle.json", text)
    put("ticket.jwt", data[1 << 20:].split(b"\0", 1)[0])
    put("report.bin", base64.b64decode(bundle["report"]))
    tpm = bundle.get("tpm")
    if tpm:
        key = base64.b64decode(tpm["ak"])
        put("ak.pub", struct.pack(">H", len(key)) + key)  # TPM2B_PUBLIC
        put("quote.msg", base64.b64decode(tpm["quote"]["attest"]))
        put("quote.sig", base64.b64decode(tpm["quote"]["signature"]))
        if tpm["quote"].get("event_log"):
            put("eventlog.bin", base64.b64decode(tpm["quote"]["event_log"]))


def report(path):
    with open(path, "rb") as file:
        data = file.read()
    asked = struct.unpack_from("<I", data, VMPL)[0]
    print(data[MEASUREMENT:MEASUREMENT + 48].hex(), "host" if asked == HOST else "guest")


def question(nonce):
    parts = (b"cvmm quote v1", bytes.fromhex(nonce), b"")
    print(hashlib.sha256(b"".join(struct.pack("<Q", len(part)) + part for part in parts)).hexdigest())


def payload(jwt):
    part = jwt.split(".")[1]
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def find(value, key):
    """The first value of `key` anywhere in a JSON document."""
    if isinstance(value, dict):
        if key in value:
            return value[key]
        value = list(value.values())
    if isinstance(value, list):
        for item in value:
            found = find(item, key)
            if found is not None:
                return found
    return None


def events(log, vm):
    with open(log, encoding="utf-8") as file:
        for line in file:
            event = json.loads(line)
            if event.get("vm") == vm:
                yield event


def ticket_class(event):
    jwt = find(event.get("answer"), "jwt")
    return find(payload(jwt), "evidence_class") or find(payload(jwt), "cvmm.evidence_class") if jwt else None


def audit(log, vm):
    for event in events(log, vm):
        reasons = find(event, "reasons") or []
        about = "; ".join(f"{reason.get('code')}" for reason in reasons) or ticket_class(event) or ""
        print(f"  {str(event.get('seq', '')):>4}  {event.get('event', ''):<11}{about}")


def admitted(log, vm, wanted):
    classes = [ticket_class(event) for event in events(log, vm)]
    if wanted not in classes:
        sys.exit(f"no ticket of class {wanted} for {vm}; there are: {[c for c in classes if c]}")


def pcrs(bundle, yaml):
    with open(bundle, encoding="utf-8") as file:
        quoted = {(pcr["bank"], pcr["index"]): pcr["value"].lower() for pcr in json.load(file)["tpm"]["quote"]["pcrs"]}
    # pcrs:\n  sha256:\n    0  : 0x...
    bank, inside, replayed = None, False, {}
    with open(yaml, encoding="utf-8", errors="replace") as file:
        for line in file:
            if re.match(r"\S", line):
                inside = line.startswith("pcrs:")
            elif inside:
                head, row = re.match(r"\s+(sha\d+):", line), re.match(r"\s+(\d+)\s*:\s*0x([0-9a-fA-F]+)", line)
                if head:
                    bank = head.group(1)
                elif row:
                    replayed[bank, int(row.group(1))] = row.group(2).lower()
    same, wrong = 0, []
    for (bank, index), value in sorted(replayed.items()):
        # From 10 on the operating system goes on measuring by itself.
        if index < 10 and (bank, index) in quoted:
            if quoted[bank, index] == value:
                same += 1
            else:
                wrong.append(f"{bank} {index}")
    print(f"{same} PCRs are as the event log says" + (f", not: {', '.join(wrong)}" if wrong else ""))
    if wrong or same < 8:
        sys.exit(1)


def requests(log, digest):
    """Launches of the digest, and requests of guests (reports) after the last of them."""
    launches = reports = 0
    with open(log, encoding="utf-8", errors="replace") as file:
        for line in file:
            if "SNP_LAUNCH_FINISH" in line and digest in line and "SUCCESS" in line:
                launches += 1
            elif launches and "SNP_GUEST_REQUEST" in line and "SUCCESS" in line:
                reports += 1
    print(launches, reports)


def main():
    commands = {f.__name__: f for f in (extract, report, question, audit, admitted, pcrs, requests)}
    if len(sys.argv) < 2 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](*sys.argv[2:])


main()
