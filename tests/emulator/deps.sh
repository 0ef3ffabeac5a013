# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# Host packages of the emulator, installed only when something has to be built.
# Needs scripts/lib/common.sh.

# To compile QEMU: compiler, GLib, zlib, and Python with venv and pip, which its
# configure script uses to set meson up.
emulator_build_packages() {
    local multiarch=/usr/lib/x86_64-linux-gnu
    need_packages cc:gcc /usr/include/stdio.h:libc6-dev make:make ninja:ninja-build \
        pkg-config:pkgconf "$multiarch/pkgconfig/glib-2.0.pc:libglib2.0-dev" \
        /usr/include/zlib.h:zlib1g-dev /usr/bin/python3:python3 \
        xz:xz-utils patch:patch ld:binutils
    # pip and venv are modules of the system's Python; a program of that name may belong to
    # another Python (pyenv) and would not help configure.
    local missing=()
    /usr/bin/python3 -c 'import ensurepip' 2>/dev/null || missing+=(/nonexistent:python3-venv)
    /usr/bin/python3 -m pip --version >/dev/null 2>&1 || missing+=(/nonexistent:python3-pip)
    [ ${#missing[@]} = 0 ] || need_packages "${missing[@]}"
}

# To put L1's kernel and initramfs together.
emulator_l1_packages() {
    need_packages xz:xz-utils zstd:zstd depmod:kmod
}
