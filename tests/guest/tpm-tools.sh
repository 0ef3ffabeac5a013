# SPDX-License-Identifier: Apache-2.0
# SC2154: `dev`, `vm` and `then` are set by init.
# shellcheck shell=sh disable=SC3043,SC2154
# What a guest does with its TPM by Debian's own tools. It is on the disk `tools` with them (see build), and `init`, whose
# functions it uses, runs `tools` from it. The disk is mounted at /usr, where the tools have been made for.

PATH=/bin:/usr/bin:/usr/sbin
export TPM2TOOLS_TCTI=device:/dev/tpmrm0
# There is no udev here, which libdevmapper would wait for.
export DM_DISABLE_UDEV=1
# What secrets are bound to: the UKI (4 as firmware loads it, 11 as its sections) and Secure Boot's state (7).
pcrs=4,7,11
secret='kept by the TPM alone'

hexfact() { say "$1=$(od -A n -v -t x1 "$2" | tr -d ' \n')"; }
# must WORDS COMMAND...: the command has to work
must() {
    local what="$1"
    shift
    "$@" >/tool.log 2>&1 || { cat /tool.log; fail "$what: $1 ended with $?"; }
}

# A quote by the VM's attestation key or, in a VM without one, by a key of the same kind.
quote() {
    local key=0x81810000 whose=provisioned
    tpm2 readpublic -Q -c $key -f tss -o /ak.pub 2>/dev/null || {
        key=/ak.ctx whose=own
        must "make a key" tpm2 createprimary -Q -C e -G ecc384:ecdsa-sha384:null -g sha384 -c $key \
            -a 'fixedtpm|fixedparent|sensitivedataorigin|userwithauth|restricted|sign|noda'
        must "read the key" tpm2 readpublic -Q -c $key -f tss -o /ak.pub
    }
    must quote tpm2 quote -Q -c $key -l sha256:0,1,2,3,4,5,6,7,8,9,11,12,13+sha384:0,1,2,3,4,5,6,7,8,9,11,12,13 -g sha384 \
        -q 00112233445566778899aabbccddeeff -m /quote.msg -s /quote.sig -o /quote.pcrs
    say "ak=$whose"
    [ $whose = own ] || {
        must "read the key's certificate" tpm2 nvread -Q 0x01c10002 -o /ak.der
        hexfact ak_certificate /ak.der
    }
    hexfact ak_public /ak.pub
    hexfact quote_message /quote.msg
    hexfact quote_signature /quote.sig
    must "check the quote" tpm2 checkquote -Q -u /ak.pub -m /quote.msg -s /quote.sig -f /quote.pcrs -g sha384 \
        -q 00112233445566778899aabbccddeeff
    say "checkquote=ok"
}

primary() { must "make a storage key" tpm2 createprimary -Q -C o -G ecc -c /primary.ctx; }

seal() {
    printf %s "$secret" >/secret
    must "make a policy" tpm2 createpolicy -Q --policy-pcr -l sha256:$pcrs -L /policy
    must seal tpm2 create -Q -C /primary.ctx -L /policy -i /secret -u /seal.pub -r /seal.priv
    busybox tar -c -f "$1" -C / seal.pub seal.priv || fail "cannot write the sealed secret to $1"
    say "sealed=yes"
}

unseal() {
    local found
    busybox tar -x -f "$1" -C / || fail "no sealed secret on $1"
    must "load the sealed secret" tpm2 load -Q -C /primary.ctx -u /seal.pub -r /seal.priv -c /seal.ctx
    if found=$(tpm2 unseal -c /seal.ctx -p pcr:sha256:$pcrs 2>/tool.log); then
        [ "$found" = "$secret" ] || fail "unsealed something else: $found"
        say "unseal=ok"
    elif busybox grep -q '(0x99D)' /tool.log; then # TPM_RC_POLICY_FAIL of session 1
        say "unseal=policy-fail"
    else
        cat /tool.log
        say "unseal=error"
    fi
}

# luks_new DISK: encrypted by a key that only the TPM can open, under the same condition
luks_new() {
    dd if=/dev/urandom of=/key bs=32 count=1 2>/dev/null
    must "format the disk" cryptsetup luksFormat --batch-mode --type luks2 --pbkdf pbkdf2 --pbkdf-force-iterations 1000 \
        --luks2-metadata-size 16k --luks2-keyslots-size 512k --key-file /key "$1"
    must "enroll the TPM" systemd-cryptenroll --unlock-key-file=/key --tpm2-device=/dev/tpmrm0 \
        --tpm2-pcrs="$(echo $pcrs | tr , +)" "$1"
    must "remove the passphrase" systemd-cryptenroll --wipe-slot=0 "$1"
    must "unlock the disk" systemd-cryptsetup attach secret "$1" none tpm2-device=/dev/tpmrm0,headless=1
    echo "$secret" | dd of=/dev/mapper/secret bs=512 conv=sync 2>/dev/null || fail "cannot write to the unlocked disk"
    must "lock the disk" systemd-cryptsetup detach secret
    say "luks_enrolled=yes"
}

luks_open() {
    local found
    if systemd-cryptsetup attach secret "$1" none tpm2-device=/dev/tpmrm0,headless=1 >/tool.log 2>&1; then
        read -r found </dev/mapper/secret
        [ "$found" = "$secret" ] || fail "the unlocked disk has something else on it"
        systemd-cryptsetup detach secret
        say "luks=ok"
    else
        cat /tool.log
        say "luks=refused"
    fi
}

# bundle DISK: all that a guest shows, in a file for verification without the gate; half a mebibyte into the disk
bundle() {
    must "make a bundle" /cvmm-guest attest --vm-id "$vm" --bundle /bundle \
        --nonce 0f1e2d3c4b5a69788796a5b4c3d2e1f00f1e2d3c4b5a69788796a5b4c3d2e1f0
    dd if=/bundle of="$1" bs=512k seek=1 conv=notrunc 2>/dev/null || fail "cannot write the bundle to $1"
}

# A boot with a blank disk `blobs` seals and enrolls; each one tries to have back what was sealed.
tools() {
    local blobs
    load dm-mod dm-crypt xts af_alg algif_skcipher
    mkdir -p /run /tmp /etc
    [ -z "$vm" ] || show
    quote
    primary
    find_disk blobs
    blobs=$dev
    find_disk secret
    [ -n "$(dd if="$blobs" bs=512 count=1 2>/dev/null | tr -d '\0')" ] || {
        [ -z "$vm" ] || bundle "$blobs"
        seal "$blobs"
        luks_new "$dev"
    }
    unseal "$blobs"
    luks_open "$dev"
    say "tools_uptime=$(cat /proc/uptime)"
    finish ok
}
