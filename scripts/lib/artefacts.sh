# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What `scripts/fetch` can fetch: for each name the suites in order of preference, the
# package patterns, and how the unpacked tree is put into the shape its users expect.

ARTEFACTS="kernel kernel-guest kernel-guest-6.1 kernel-guest-7 kernel-source ovmf-amdsev ovmf ovmf-12 busybox sd-stub qemu-peer guest-tools tpm-tools libtpms ukify acpi-tools secure-boot-certificates signed-loaders"

# artefact_source NAME: sets SUITES, CLOSURE and PATTERNS.
# shellcheck disable=SC2034 # results, read by the caller
artefact_source() {
    CLOSURE=no
    case $1 in
    kernel) # the host VM's kernel, with KVM and the ccp driver
        SUITES="bookworm-backports trixie trixie-updates"
        PATTERNS=('linux-image-6\.12\.[0-9.]+\+deb[0-9.]+-amd64') ;;
    kernel-guest)
        # The cloud flavour has all the guest needs (SNP guest, unaccepted memory, EFI stub;
        # virtio-pci, virtio-console and ext4 built in) at a third of the package size.
        SUITES="bookworm-backports trixie trixie-updates"
        PATTERNS=('linux-image-6\.12\.[0-9.]+\+deb[0-9.]+-cloud-amd64') ;;
    # Other guest kernels than the one that most tests boot, without modules: Debian 12's, from before Linux had PAT without
    # MTRRs (6.3), and the newest that Debian has.
    kernel-guest-6.1) SUITES="bookworm"; PATTERNS=('linux-image-6\.1\.0-[0-9]+-cloud-amd64') ;;
    kernel-guest-7) # from 7.3 on the image has a package of its own
        SUITES="trixie-backports sid"
        PATTERNS=('linux-binary-7\.[0-9.]+(\+deb[0-9.]+)?-cloud-amd64') ;;
    kernel-source) SUITES="trixie bookworm-backports"; PATTERNS=('linux-source-6\.12') ;;
    ovmf-amdsev) SUITES="sid"; PATTERNS=(ovmf-amdsev) ;;
    ovmf) SUITES="trixie sid"; PATTERNS=('ovmf|ovmf-generic') ;;
    ovmf-12) SUITES="bookworm"; PATTERNS=(ovmf) ;; # Debian 12's, edk2 2022.11
    busybox) SUITES="bookworm trixie sid"; PATTERNS=(busybox-static) ;;
    sd-stub) SUITES="trixie bookworm-backports sid"; PATTERNS=(systemd-boot-efi) ;;
    qemu-peer) SUITES="bookworm-backports trixie"; CLOSURE=yes; PATTERNS=(qemu-system-x86) ;;
    guest-tools) SUITES="trixie bookworm"; CLOSURE=yes; PATTERNS=(e2fsprogs fio) ;;
    tpm-tools)
        # Named one by one: what they all depend on together is three times as much, for tools that download
        # certificates and for an installed system.
        SUITES="trixie"
        PATTERNS=(tpm2-tools cryptsetup-bin systemd-cryptsetup libsystemd-shared libc6 libssl3t64 zlib1g libzstd1
            libtss2-esys-3.0.2-0t64 libtss2-mu-4.0.1-0t64 libtss2-sys1t64 libtss2-rc0t64 libtss2-tctildr0t64
            libtss2-tcti-device0t64 libcryptsetup12 libdevmapper1.02.1 libudev1 libjson-c5 libpopt0
            libblkid1 libuuid1 libmount1 libselinux1 libpcre2-8-0 libacl1 libaudit1 libcap-ng0 libcap2 libcrypt1 libpam0g
            libseccomp2) ;;
    ukify) # what docs/guide/images.md makes a UKI with; in Python
        SUITES="trixie sid"; PATTERNS=(systemd-ukify python3-pefile) ;;
    secure-boot-certificates) # Microsoft's and those of distributions, as others' programs enrol them
        SUITES="trixie sid"; PATTERNS=(python3-virt-firmware) ;;
    signed-loaders) # shim, which Microsoft has signed, and the GRUB that it starts
        SUITES="trixie"; PATTERNS=(shim-signed grub-efi-amd64-signed) ;;
    libtpms) # a later one than the machine has, to build and test against
        SUITES="sid"; PATTERNS=(libtpms-dev) ;;
    acpi-tools) # checkers of ACPI tables; no stable release has fwts
        SUITES="sid"
        PATTERNS=(acpica-tools fwts libatomic1 libc6 libfdt1 libffi8 libglib2.0-0t64 libpcre2-8-0 libselinux1 libblkid1 libmount1
            libsystemd0 zlib1g) ;;
    *) die "nothing known by the name '$1'; known: $ARTEFACTS" ;;
    esac
}

# artefact_finish NAME TREE: TREE holds the unpacked packages.
artefact_finish() {
    local name=$1 tree=$2 f
    case $name in
    kernel | kernel-guest) finish_kernel "$tree" ;;
    kernel-guest-*) finish_kernel_image "$tree" ;;
    kernel-source)
        f=$(find "$tree" -name 'linux-source-*.tar.xz' | head -n 1)
        [ -n "$f" ] || die "the package has no kernel source"
        mv "$f" "$tree/linux.tar.xz" ;;
    ovmf-amdsev)
        finish_file "$tree" OVMF.amdsev.fd
        check_sev_metadata "$tree/OVMF.amdsev.fd" ;;
    ovmf | ovmf-12) finish_file "$tree" OVMF.fd ;;
    busybox)
        f=$(find "$tree" -type f -path '*bin/busybox' | head -n 1)
        [ -n "$f" ] || die "busybox-static has no bin/busybox"
        ln "$f" "$tree/busybox" ;;
    sd-stub) finish_file "$tree" linuxx64.efi.stub ;;
    qemu-peer) finish_qemu "$tree" ;;
    guest-tools)
        finish_programs "$tree" fio mke2fs e2fsck
        stub_network_engines "$tree" ;;
    tpm-tools) finish_tpm_tools "$tree" ;;
    libtpms) finish_libtpms "$tree" ;;
    ukify)
        [ -x "$tree/usr/bin/ukify" ] || die "the package has no ukify"
        # Beside Python's own modules.
        # shellcheck disable=SC2016 # for the script
        printf '#!/bin/sh\nPYTHONPATH=%s/usr/lib/python3/dist-packages exec /usr/bin/python3 %s/usr/bin/ukify "$@"\n' \
            '"$(dirname "$0")"' '"$(dirname "$0")"' >"$tree/ukify"
        chmod 755 "$tree/ukify" ;;
    acpi-tools) finish_acpi_tools "$tree" ;;
    secure-boot-certificates)
        find "$tree/usr/lib" -path '*/virt/firmware/certs/*.pem' -exec mv -t "$tree" {} +
        [ -f "$tree/MicrosoftUEFICA2023.pem" ] || die "the package has no certificates" ;;
    signed-loaders)
        finish_file "$tree" shimx64.efi.signed
        finish_file "$tree" grubx64.efi.signed ;;
    *) die "no finishing step for '$name'" ;;
    esac
}

# Checkers that run from anywhere: run-iasl, run-acpixtract, run-fwts.
finish_acpi_tools() {
    local tree=$1 program
    finish_programs "$tree" iasl acpixtract fwts
    for program in iasl acpixtract fwts; do
        cat >"$tree/run-$program" <<EOF
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
d=\$(cd "\$(dirname "\$0")" && pwd)
exec "\$d/lib64/ld-linux-x86-64.so.2" --library-path "\$d/lib" "\$d/bin/$program" "\$@"
EOF
        chmod 755 "$tree/run-$program"
        "$tree/run-$program" -v >&2 || die "the fetched $program does not start"
    done
}

# A static library that pkg-config finds where it is: PKG_CONFIG_PATH=TREE/pkgconfig. It was built for a later C library than this
# machine may have. All that it needs of that one is strtoul by its C23 name, which differs in how it takes "0b".
finish_libtpms() {
    local tree=$1 lib missing
    lib=$(find "$tree" -name libtpms.a | head -n 1)
    [ -n "$lib" ] || die "libtpms-dev has no libtpms.a"
    mkdir "$tree/pkgconfig" "$tree/lib" "$tree/include"
    mv "$lib" "$tree/lib/"
    mv "$tree"/usr/include/libtpms "$tree/include/"
    # shellcheck disable=SC2016 # pkg-config fills this in
    sed -e 's|^prefix=.*|prefix=${pcfiledir}/..|' -e 's|^libdir=.*|libdir=${prefix}/lib|' \
        "${lib%/*}/pkgconfig/libtpms.pc" >"$tree/pkgconfig/libtpms.pc"
    rm -rf "${tree:?}/usr"
    missing=$(nm -u "$tree/lib/libtpms.a" 2>/dev/null | awk '$2 ~ /^__isoc23_/ { print $2 }' | sort -u)
    case $missing in
    '') ;;
    __isoc23_strtoul)
        # Weak: a C library that has it is asked.
        printf '%s\n' '#undef _GNU_SOURCE' '#include <stdlib.h>' \
            'unsigned long __attribute__((weak)) __isoc23_strtoul(const char *s, char **end, int base) { return strtoul(s, end, base); }' \
            >"$tree/lib/isoc23.c"
        cc -std=c99 -O1 -c -o "$tree/lib/isoc23.o" "$tree/lib/isoc23.c" || die "cannot compile for libtpms"
        ar q "$tree/lib/libtpms.a" "$tree/lib/isoc23.o" 2>/dev/null || die "cannot complete libtpms.a" ;;
    *) die "this libtpms wants of the C library: $missing" ;;
    esac
}

# finish_file TREE FILE: FILE at the top of the tree, wherever the package keeps it.
finish_file() {
    local found
    found=$(find "$1" -name "$2" ! -type d | sort | head -n 1)
    [ -n "$found" ] || die "the package has no $2"
    cp -L "$found" "$1/$2.new" && mv "$1/$2.new" "$1/$2"
}

finish_kernel() {
    local tree=$1 version
    # usr-merge: newer packages carry usr/lib/modules
    [ -d "$tree/lib" ] || ln -s usr/lib "$tree/lib"
    rm -rf "${tree:?}/usr/share"
    version=$(ls "$tree/lib/modules")
    [ -f "$tree/boot/vmlinuz-$version" ] || die "the kernel package has no boot/vmlinuz-$version"
    # What postinst would do on installation: users load modules by modules.dep.
    PATH=$PATH:/usr/sbin:/sbin depmod -b "$tree" "$version" || die "depmod failed for kernel $version"
    ln -s "boot/vmlinuz-$version" "$tree/vmlinuz"
}

# finish_kernel_image TREE: vmlinuz-VERSION and a link to it, nothing else
finish_kernel_image() {
    local tree=$1 file version
    file=$(find "$tree" -type f \( -name 'vmlinuz-*' -o -name vmlinuz \) | head -n 1)
    [ -n "$file" ] || die "the kernel package has no vmlinuz"
    case ${file##*/} in
    vmlinuz-*) version=${file##*/vmlinuz-} ;;
    *) version=${file%/vmlinuz} version=${version##*/} ;; # lib/modules/VERSION/vmlinuz
    esac
    mv "$file" "$tree/vmlinuz-$version"
    find "$tree" -mindepth 1 -maxdepth 1 ! -name "vmlinuz-$version" -exec rm -rf {} +
    ln -s "vmlinuz-$version" "$tree/vmlinuz"
}

# elf_closure TREE PROGRAM...: the shared libraries, inside TREE, that the programs load, as
# paths; found with TREE's own loader, so that nothing of the host gets in.
elf_closure() {
    local tree=$1 loader program
    shift
    loader=$(find "$tree" -name ld-linux-x86-64.so.2 | head -n 1)
    [ -n "$loader" ] || die "no dynamic loader in the packages"
    for program in "$@"; do
        LD_LIBRARY_PATH='' "$loader" --library-path "$(library_path "$tree")" --list "$program" ||
            die "$(basename "$program") does not find all its libraries"
    done | awk -v tree="$tree/" '$2 == "=>" && $1 !~ /ld-linux/ {
        if (index($3, tree) != 1) { print "error: " $1 " is not in the packages, found: " $3 >"/dev/stderr"; exit 1 }
        if (!seen[$3]++) print $3 }'
}

library_path() {
    find "$1" -type d \( -path "$1/lib" -o -path '*/lib/x86_64-linux-gnu' -o -path '*/lib/x86_64-linux-gnu/*' \) |
        LC_ALL=C sort | tr '\n' ':' | sed 's/:$//'
}

# finish_programs TREE PROGRAM...: reduces TREE to the programs and their libraries:
# bin/PROGRAM, lib/*.so, lib64/ld-linux-x86-64.so.2. Ready to be copied into an initrd.
finish_programs() {
    local tree=$1 new=$1/.new program found paths=() lib
    shift
    mkdir -p "$new/bin" "$new/lib" "$new/lib64"
    for program in "$@"; do
        found=$(find "$tree" \( -path '*bin/'"$program" -o -path '*bin/'"$program.*" \) -type f | head -n 1)
        [ -n "$found" ] || die "the packages have no program $program"
        cp "$found" "$new/bin/$program"
        paths+=("$new/bin/$program")
    done
    elf_closure "$tree" "${paths[@]}" >"$tree/.libs"
    while read -r lib; do cp -L "$lib" "$new/lib/"; done <"$tree/.libs"
    cp -L "$(find "$tree" -name ld-linux-x86-64.so.2 | head -n 1)" "$new/lib64/"
    find "$tree" -mindepth 1 -maxdepth 1 ! -name .new ! -name .share -exec rm -rf {} +
    mv "$new"/* "$tree/" && rmdir "$new"
}

# link_stub PROGRAM OUT LIBRARY...: an empty library OUT that defines the names which PROGRAM wants and none of the
# libraries has, so that the loader is content (Debian's programs are linked with BIND_NOW). Calling one of them crashes.
link_stub() {
    local program=$1 out=$2 tmp lib
    shift 2
    tmp=$(mktemp -d)
    {
        for lib; do readelf -W --dyn-syms "$lib" | sed 's/^/L /'; done
        readelf -W --dyn-syms "$program" | sed 's/^/F /'
    } | awk -v script="$tmp/map" '
        # columns: tag Num: Value Size Type Bind Vis Ndx Name
        $1 == "L" && $8 != "UND" && NF >= 9 { split($9, n, "@"); have[n[1]] = 1 }
        $1 == "F" && $8 == "UND" && $6 == "GLOBAL" && NF >= 9 {
            split($9, n, "@")
            if (!(n[1] in have)) { print "--defsym=" n[1] "=0"; if (n[2] != "") versions[n[2]] = versions[n[2]] n[1] "; " }
        }
        END { for (v in versions) print v " { global: " versions[v] "};" >script; print "" >>script }' >"$tmp/args"
    as -o "$tmp/empty.o" /dev/null
    ld -shared -soname "${out##*/}" --version-script "$tmp/map" "@$tmp/args" -o "$out" "$tmp/empty.o" ||
        die "cannot link a stub library for ${program##*/}"
    rm -rf "$tmp"
}

# Debian's fio is linked with the clients of five network storage systems, 50 MB of
# libraries that a disk test in an initrd never calls. They are replaced by a stub; only the engines
# rbd, rados, nfs, nbd, rdma, gfapi and libpmem would call it.
stub_network_engines() {
    local tree=$1 new=$1/lib.new lib program
    local keep=(libc.so.6 libm.so.6 libz.so.1 libaio.so.1t64 libaio.so.1 libnuma.so.1)
    mkdir "$new"
    for lib in "${keep[@]}"; do
        [ ! -f "$tree/lib/$lib" ] || cp "$tree/lib/$lib" "$new/"
    done
    for program in "$tree"/bin/mke2fs "$tree"/bin/e2fsck; do
        elf_closure "$tree" "$program" | while read -r lib; do cp "$lib" "$new/"; done
    done
    link_stub "$tree/bin/fio" "$new/libfio-network-stub.so" "$new"/*.so*
    for lib in $(readelf -d "$tree/bin/fio" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p'); do
        [ -e "$new/$lib" ] || ln -s libfio-network-stub.so "$new/$lib"
    done
    rm -rf "${tree:?}/lib"
    mv "$new" "$tree/lib"
    "$tree/lib64/ld-linux-x86-64.so.2" --library-path "$tree/lib" "$tree/bin/fio" --version >&2 ||
        die "fio does not start with the stub library"
}

# finish_tpm_tools TREE: reduces TREE to what a guest needs at /usr to use its TPM: tpm2, cryptsetup, systemd-cryptenroll,
# systemd-cryptsetup and what they load. The places are Debian's, as the programs have them compiled in.
finish_tpm_tools() {
    local tree=$1 new=$1/.new libs=lib/x86_64-linux-gnu file lib paths=()
    # tpm2-tools wants libcurl for the download of EK certificates, and with it 20 more libraries.
    link_stub "$tree/usr/bin/tpm2" "$tree/usr/$libs/libcurl-gnutls.so.4" "$tree/usr/$libs"/*.so*
    mkdir -p "$new/lib64"
    for file in bin/tpm2 bin/systemd-cryptenroll bin/systemd-cryptsetup sbin/cryptsetup \
        "$libs/cryptsetup/libcryptsetup-token-systemd-tpm2.so" "$libs/libtss2-tcti-device.so.0"; do
        [ -f "$tree/usr/$file" ] || die "the packages have no /usr/$file"
        mkdir -p "$new/${file%/*}"
        cp -L "$tree/usr/$file" "$new/$file"
        paths+=("$new/$file")
    done
    # What systemd opens by name is tpm2's and cryptsetup's too.
    elf_closure "$tree" "${paths[@]}" >"$tree/.libs"
    while read -r lib; do
        file=$new/${lib#"$tree/usr/"}
        mkdir -p "${file%/*}"
        cp -L "$lib" "$file"
    done <"$tree/.libs"
    cp -L "$(find "$tree" -name ld-linux-x86-64.so.2 | head -n 1)" "$new/lib64/"
    find "$tree" -mindepth 1 -maxdepth 1 ! -name .new -exec rm -rf {} +
    mv "$new"/* "$tree/" && rmdir "$new"
}

# finish_qemu TREE: a QEMU that runs from anywhere, initramfs or file share, with its own
# loader, libraries and firmware blobs: run-qemu, usr/bin, lib, lib64, share.
finish_qemu() {
    local tree=$1 share=$1/.share blob
    mkdir -p "$share"
    # What a PC guest can ask for; the packages' other firmware is ten times as much.
    for blob in bios-256k.bin bios.bin bios-microvm.bin kvmvapic.bin linuxboot.bin linuxboot_dma.bin \
        multiboot.bin multiboot_dma.bin pvh.bin vgabios-stdvga.bin efi-virtio.rom; do
        local found
        found=$(find "$tree/usr" -name "$blob" | head -n 1)
        [ -z "$found" ] || cp -L "$found" "$share/$blob"
    done
    [ -f "$share/bios-256k.bin" ] || die "the QEMU packages lack their firmware blobs"
    finish_programs "$tree" qemu-system-x86_64
    mkdir -p "$tree/usr"
    mv "$tree/bin" "$tree/usr/bin"
    mv "$share" "$tree/share"
    cat >"$tree/run-qemu" <<'EOF'
#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
d=$(cd "$(dirname "$0")" && pwd)
exec "$d/lib64/ld-linux-x86-64.so.2" --library-path "$d/lib" "$d/usr/bin/qemu-system-x86_64" -L "$d/share" "$@"
EOF
    chmod 755 "$tree/run-qemu"
    "$tree/run-qemu" --version >&2 || die "the fetched QEMU does not start"
}

# check_sev_metadata FILE: is this firmware for SEV-SNP? Walks the GUIDed table at the end of
# the file (edk2 OvmfPkg/ResetVector) to the SEV metadata and checks its sections. The
# program's own parser is stricter; this one refuses a package that is something else.
check_sev_metadata() {
    python3 - "$1" <<'PY' || die "$1 has no valid SEV metadata; not usable as SNP firmware"
import struct, sys, uuid
data = open(sys.argv[1], "rb").read()
size = len(data)
def guid(at): return str(uuid.UUID(bytes_le=data[at:at + 16]))
def fail(why): sys.exit("error: firmware metadata: " + why)
if size < 0x1000 or size % 4096: fail(f"file size {size} is not a multiple of 4 KiB")
if guid(size - 48) != "96b582de-1fb2-45f7-baea-a366c55a082d": fail("no GUIDed table before the reset vector")
end = size - 50
total = struct.unpack_from("<H", data, end)[0]
low, found = size - 32 - total, {}
if low < 0: fail("table longer than the file")
while end > low:
    length = struct.unpack_from("<H", data, end - 18)[0]
    if length < 18 or end - length < low: fail(f"entry of length {length} at {end - 18:#x}")
    found[guid(end - 16)] = data[end - length:end - 18]
    end -= length
meta = found.get("dc886566-984a-4798-a75e-5585a7bf67cc")
if meta is None or len(meta) != 4: fail("no SEV metadata entry in the table")
at = size - struct.unpack("<I", meta)[0]
if not 0 <= at <= size - 16: fail("SEV metadata outside the file")
magic, length, version, count = struct.unpack_from("<4sIII", data, at)
if magic != b"ASEV" or version != 1: fail(f"SEV metadata header {magic!r} version {version}")
if length < 16 + 12 * count or at + length > size or not 0 < count < 64: fail(f"SEV metadata with {count} sections in {length} bytes")
kinds = [struct.unpack_from("<III", data, at + 16 + 12 * i)[2] for i in range(count)]
if 2 not in kinds or 3 not in kinds: fail("no secrets or CPUID section")
print(f"firmware metadata: {count} SEV sections, {len(found)} table entries", file=sys.stderr)
PY
}
