# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
# What the scripts refuse at once, and what they say about downloads. Part of tests/scripts/run.
: "${root:?}"

test_the_demo_refuses_what_no_guest_can_have() {
    local arguments status
    for arguments in "--vcpus 65" "--vcpus 64" "--vcpus 0" "--vcpus -1" "--vcpus two" "--vcpus 100000000000000000000" "--profile disk"; do
        status=0
        # shellcheck disable=SC2086 # an option and its value
        timeout 10 "$root/scripts/demo" $arguments --out out >said 2>&1 </dev/null || status=$?
        [ "$status" = 1 ] || fail "$arguments: status $status: $(cat said)"
        grep -q "^error: ${arguments%% *} is .* not '${arguments#* }'" said || fail "$arguments: $(cat said)"
        [ "$(wc -l <said)" = 1 ] || fail "$arguments: it did something first: $(cat said)"
        [ ! -e out ] || fail "$arguments: the output folder was made"
    done
}

test_fetch_says_names_and_sizes() {
    local sha rows
    if [ ! -x /usr/lib/apt/apt-helper ] || [ ! -r /usr/share/keyrings/debian-archive-keyring.gpg ]; then
        skip "no apt-helper, or no keyring of Debian's archive"
    fi
    # shellcheck source=scripts/lib/debian.sh
    . "$root/scripts/lib/debian.sh"
    mkdir -p mirror/pool
    head -c 3000 /dev/zero >mirror/pool/first.deb
    head -c 2097152 /dev/zero >mirror/pool/second.deb
    sha=$(sha256sum <mirror/pool/first.deb | cut -d ' ' -f 1)
    rows="group first 1.0-1 amd64 $sha suite pool/first.deb
group second 2:7+deb12u1 amd64 $(sha256sum <mirror/pool/second.deb | cut -d ' ' -f 1) suite pool/second.deb"
    export CVMM_CACHE=$PWD/cache CVMM_DEBIAN_MIRROR=copy:$PWD/mirror
    (debian_download "$rows") >out 2>said || fail "$(cat said)"
    [ ! -s out ] || fail "on standard output, which is for the folder: $(cat out)"
    printf '%s\n' 'downloading 2 package(s):' '  first 1.0-1' '  second 2:7+deb12u1' \
        '  got first 1.0-1 (3.0KiB)' '  got second 2:7+deb12u1 (2.0MiB)' >expected
    diff expected said >differ || fail "$(cat differ)"
    cmp -s mirror/pool/first.deb "cache/deb/$sha.deb" || fail "it is not in the cache"
    # What is there is not fetched again, and nothing is said.
    (debian_download "$rows") >said 2>&1 || fail "$(cat said)"
    [ ! -s said ] || fail "$(cat said)"
    # Another file under the name is not taken, and the package is named.
    rm -r cache/deb
    printf 'other' >>mirror/pool/first.deb
    (debian_download "$rows") >said 2>&1 && fail "a file with another checksum is taken"
    grep -qx 'not available: first 1.0-1' said || fail "$(cat said)"
    [ ! -e "cache/deb/$sha.deb" ] || fail "a file with another checksum is in the cache"
}
