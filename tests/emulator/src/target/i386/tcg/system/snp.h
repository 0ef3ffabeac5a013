/* SPDX-License-Identifier: GPL-2.0-or-later */
/* SEV-SNP host emulation: between the files of target/i386/tcg/system. */
#ifndef TCG_SYSTEM_SNP_H
#define TCG_SYSTEM_SNP_H

#include "cpu.h"
#include "exec/mmu-access-type.h"

#define EXCP1D_VC               29

#define SVM_EXIT_EFER_TRAP      0x08f
#define SVM_EXIT_CR0_TRAP       0x090
#define SVM_EXIT_VMGEXIT        0x403
#define SVM_EXIT_NOT_VALIDATED  0x404

#define SVM_SEV_ENABLED         (1 << 1)
#define SVM_SEV_ES_ENABLED      (1 << 2)
#define SVM_GUEST_INTERRUPT_MASK 2

/* Error code bits 31 and up of #NPF (bit 31 also of the host's #PF). */
#define SNP_FAULT_RMP           (1ULL << 31)
#define SNP_FAULT_ENC           (1ULL << 34)
#define SNP_FAULT_SIZEM         (1ULL << 35)
#define SNP_FAULT_VMPL          (1ULL << 36)
/* Ours: the guest touched an assigned page that it has not validated; #VC and not an exit. */
#define SNP_FAULT_NOT_VALIDATED (1ULL << 63)

/* The C bit where the running guest has one. */
static inline uint64_t snp_cbit(CPUX86State *env)
{
    return unlikely(env->snp.sev) ? SNP_CBIT : 0;
}

/* snp_rmp.c */
extern bool snp_rmp_active;
bool snp_check_host(CPUX86State *env, MMUAccessType access, hwaddr *paddr, int *prot,
                    uint64_t page_size);
bool snp_check_nested(CPUX86State *env, hwaddr key, MMUAccessType access, hwaddr *paddr,
                      int *prot, uint64_t page_size, uint64_t *fault);
void snp_rmp_start(void);
uint64_t snp_rmp_msr(bool end);

/* excp_helper.c: both stages without the RMP, for PVALIDATE and RMPADJUST. Faults as usual. */
void snp_walk(CPUX86State *env, vaddr addr, hwaddr *gpa, hwaddr *spa, uint64_t *size,
              uintptr_t ra);

/* snp_helper.c */
extern unsigned snp_trace;
bool snp_vmrun_check(CPUX86State *env, uint64_t nested_ctl, uint32_t asid);
void snp_vmsa_load(CPUX86State *env);
void snp_vmsa_save(CPUX86State *env);
void snp_host_load(CPUX86State *env);
bool snp_exit_is_automatic(uint64_t exit_code);
G_NORETURN void snp_raise_vc(CPUX86State *env, uint64_t code, uintptr_t ra);
void snp_write_trap(CPUX86State *env, uint32_t code, uint64_t value, int next_eip_addend,
                    uintptr_t ra);
bool snp_guest_msr(CPUX86State *env, bool write);
bool snp_rdmsr(CPUX86State *env, uint32_t index, uint64_t *value);
bool snp_wrmsr(CPUX86State *env, uint32_t index, uint64_t value);
void snp_trace_exit(CPUX86State *env, uint64_t code, uint64_t info1);

#endif
