/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The AMD Secure Processor in software (tests/psp): C interface.
 *
 * The emulator owns memory, the RMP and the CPUID of its processors and lends them through CvmmPspOps; the
 * library owns everything the security processor's firmware owns: platform and guest state, keys, the launch
 * digest, reports. One call of cvmm_psp_command() is one mailbox command (CMDRESP bits 26:16 = id), executed
 * to its end before it returns.
 *
 * All addresses are system physical addresses, all structures are little endian, as in the SNP firmware ABI
 * (AMD document 56860).
 *
 * Threads: a CvmmPsp may be used by one thread at a time. The call-backs run on the calling thread, inside
 * cvmm_psp_command() only, and must not call back into the library.
 *
 * Link with: -lcvmm_psp -lpthread -ldl -lm -lgcc_s. Build the staticlib with a profile that unwinds
 * (panic = "unwind"), so that a defect in the library becomes status HWERROR_PLATFORM and not an abort.
 */
#ifndef CVMM_PSP_H
#define CVMM_PSP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct CvmmPsp CvmmPsp;

/* VMPL permission bits of CvmmPspRmpEntry.perms, as RMPADJUST has them. */
#define CVMM_PSP_PERM_R  0x1u
#define CVMM_PSP_PERM_W  0x2u
#define CVMM_PSP_PERM_XU 0x4u
#define CVMM_PSP_PERM_XS 0x8u

/*
 * One 4 KiB page as the RMP describes it. 32 bytes, no padding left to the compiler.
 *
 * Page states the library distinguishes (A assigned, V validated, I immutable):
 *   hypervisor  A0 I0        HV-fixed    A0 I1
 *   reclaim     A1 I0 ASID 0 firmware    A1 I1 ASID 0 GPA 0 VMSA 0
 *   context     A1 I1 ASID 0 VMSA 1      metadata  A1 I1 ASID 0 GPA > 0
 *   pre-guest   A1 I1 V0 ASID > 0        guest-invalid / guest-valid  A1 I0 V0/V1 ASID > 0
 */
typedef struct CvmmPspRmpEntry {
    uint64_t gpa;       /* bytes, bits 11:0 zero; of this very 4 KiB page, also under a 2 MiB entry */
    uint32_t asid;
    uint8_t assigned;   /* 0 or 1 */
    uint8_t pagesize;   /* 0 = 4 KiB, 1 = part of a 2 MiB entry */
    uint8_t immutable;
    uint8_t vmsa;
    uint8_t validated;
    uint8_t perms[4];   /* VMPL0..3, CVMM_PSP_PERM_* */
    uint8_t reserved[11]; /* zero */
} CvmmPspRmpEntry;

typedef struct CvmmPspOps {
    void *opaque;

    /*
     * Memory as the security processor sees it: the plain content, also of pages that the host would read as
     * ciphertext, and without an RMP check (the library checks the RMP itself). 0 = done, else the range is
     * not memory: the command fails with INVALID_ADDRESS.
     */
    int (*mem_read)(void *opaque, uint64_t spa, void *buf, uint64_t len);
    int (*mem_write)(void *opaque, uint64_t spa, const void *buf, uint64_t len);

    /*
     * RMP entry of the 4 KiB page at spa. A 2 MiB entry is reported for each of its 512 pages with
     * pagesize = 1 and the GPA of that page. 0 = done, 1 = the RMP does not cover spa, else failure.
     */
    int (*rmp_read)(void *opaque, uint64_t spa, CvmmPspRmpEntry *out);

    /*
     * Replace the entry. With pagesize = 1 spa is 2 MiB aligned and the entry stands for all 512 pages (GPA
     * rising); with pagesize = 0 it is one 4 KiB page. Must flush the translations of all CPUs before it returns.
     */
    int (*rmp_write)(void *opaque, uint64_t spa, const CvmmPspRmpEntry *in);

    /* 1 when SYSCFG.SNP_EN is set on every CPU and RMP_BASE/RMP_END are valid, else 0. */
    int (*snp_enabled)(void *opaque);

    /* CPUID of the emulated processor: out = EAX, EBX, ECX, EDX. 0 = done. Used to check CPUID pages. */
    int (*cpuid)(void *opaque, uint32_t eax, uint32_t ecx, uint32_t out[4]);

    /*
     * The memory key of an ASID: installed by ACTIVATE, all zero at DECOMMISSION. The emulator derives what the
     * host reads of the guest's private pages from it. May be NULL.
     */
    int (*guest_key)(void *opaque, uint32_t asid, const uint8_t key[32]);
} CvmmPspOps;

/*
 * config_toml, all keys optional (tests/psp/src/config.rs is the reference):
 *
 *   product = "milan"                 # milan | genoa | turin
 *   api = "1.55"                      # firmware ABI, major.minor
 *   build = 21
 *   report_version = 3                # 2..5; without it what the product and api have
 *   chip_id = "<hex>"                 # 64 bytes (turin: 8); without it derived from the seed or random
 *   keys_dir = "/path"                # test PKI, made there when absent (a first RSA generation takes seconds)
 *   seed = "any text"                 # reproducible keys and nonces: for tests
 *   mask_chip_id = false
 *   asids = 509                       # ASIDs 1..asids exist; SNP may use 1..snp_asids
 *   snp_asids = 99
 *   smt = true                        # simultaneous multithreading on (platform info, SMT policy)
 *   debug = "policy"                  # policy | forbid : refuse guests whose policy allows debugging
 *   [tcb]           bootloader = 4  tee = 0  snp = 22  microcode = 213  fmc = 0
 *   [committed_tcb] ...               # default: tcb
 *   [[fault]]       command = 0xA1  status = 0x17  nth = 3  delay_ms = 0  repeat = false
 *
 * ops is copied. Returns NULL and a message in err (NUL-terminated, cut to err_len) when the configuration or the
 * keys folder is unusable.
 */
CvmmPsp *cvmm_psp_new(const char *config_toml, const CvmmPspOps *ops, char *err, size_t err_len);

/* Execute a command; returns the status (SEV_RET_*: 0 = success). Never blocks for delay faults, see below. */
uint32_t cvmm_psp_command(CvmmPsp *psp, uint32_t id, uint64_t cmdbuf_spa);

/* How long, in milliseconds, the last command is to appear to take (a "slow PSP" fault); 0 mostly. */
uint32_t cvmm_psp_delay_ms(CvmmPsp *psp);

/* The last command in words, one line without newline; valid until the next call with this psp. */
const char *cvmm_psp_trace(CvmmPsp *psp);

/* Platform reset: all guests and states are forgotten, chip identity, keys and configuration stay. */
void cvmm_psp_reset(CvmmPsp *psp);

/*
 * WBINVD was executed on a CPU of the machine / on all of them since the last reset of this flag. Emulators that
 * do not track WBINVD need not call it: the firmware's WBINVD_REQUIRED check is then off
 * (configuration key `wbinvd_check`, default false).
 */
void cvmm_psp_wbinvd_done(CvmmPsp *psp);

/*
 * Guest memory as it lies in DRAM: AES under the guest's key (the one that guest_key() was given) and the address.
 * Transforms len bytes in place, to ciphertext (encrypt = 1) or to what the guest reads (0). spa and len are
 * multiples of 16. Needs no CvmmPsp and may be called from any thread.
 */
void cvmm_psp_memory(const uint8_t key[32], uint64_t spa, void *data, uint64_t len, int encrypt);

void cvmm_psp_free(CvmmPsp *psp);

#ifdef __cplusplus
}
#endif
#endif /* CVMM_PSP_H */
