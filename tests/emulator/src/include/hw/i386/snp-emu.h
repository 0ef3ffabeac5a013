/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SEV-SNP host emulation (TCG): what the processor, the board and the security processor share.
 *
 * Sources of all numbers: AMD64 Architecture Programmer's Manual volume 2 (24593), chapter 15;
 * SEV-SNP firmware ABI (56860).
 */
#ifndef HW_I386_SNP_EMU_H
#define HW_I386_SNP_EMU_H

/* The C bit of guest page tables, and of the key of nested lookups (excp_helper.c). */
#define SNP_CBIT_POS            51
#define SNP_CBIT                (1ULL << SNP_CBIT_POS)

#define SNP_PERM_R              1
#define SNP_PERM_W              2
#define SNP_PERM_XU             4
#define SNP_PERM_XS             8
#define SNP_PERM_ALL            15

/* State of one processor. All zero at reset. */
typedef struct X86SnpState {
    uint64_t syscfg;            /* bits written to SYSCFG */
    uint64_t vmsa;              /* running SEV-ES guest: system physical address of its VMSA */
    uint64_t sev_features;      /* of that VMSA */
    uint64_t fault;             /* why the last nested lookup failed: SNP_FAULT_* */
    uint32_t asid;
    uint8_t vmpl;
    bool sev;                   /* running guest has a C bit */
    bool es;                    /* its state is in a VMSA */
    bool snp;                   /* its private pages are checked in the RMP */
} X86SnpState;

/* One 4 KiB page of the RMP; a 2 MiB entry is resolved to its sub-page. */
typedef struct SnpRmpEntry {
    uint64_t gpa;
    uint32_t asid;
    bool assigned, huge, immutable, vmsa, validated;
    uint8_t perms[4];
} SnpRmpEntry;

/* Highest ASID, and the highest that SEV-ES and SNP guests may use. */
void snp_set_asids(uint32_t asids, uint32_t snp_asids);
/* 1: security processor commands, 2: also exits and #VC of SEV-ES guests. */
void snp_set_trace(unsigned level);

/* pc.c: takes the RMP from the end of the RAM that ends at ram_end; returns its size or 0. */
uint64_t snp_rmp_carve(uint64_t ram_start, uint64_t ram_end);
/* A board reset. */
void snp_rmp_reset(void);
/* Leaf 0x8000001F. */
void snp_cpuid(uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx);
/* Does the board emulate an SNP host (CPU property snp-host)? */
bool snp_host(void);
/* SYSCFG.SNP_EN on every processor? */
bool snp_enabled_everywhere(void);

/* For the security processor. Writing flushes all TLBs. false: the RMP does not cover spa. */
bool snp_rmp_read(uint64_t spa, SnpRmpEntry *e);
bool snp_rmp_write(uint64_t spa, const SnpRmpEntry *e);
/* The memory key of a guest, and the cipher it is for: whole blocks of 16 bytes, in place. */
typedef void SnpMemoryCipher(const uint8_t key[32], uint64_t spa, void *data, uint64_t len,
                             int encrypt);
void snp_set_memory_cipher(SnpMemoryCipher *fn);
void snp_set_key(uint32_t asid, const uint8_t key[32]);

#endif
