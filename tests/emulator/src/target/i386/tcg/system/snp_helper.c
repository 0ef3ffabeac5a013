/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SEV-SNP host emulation: the state of SEV-ES guests (VMSA), which of their exits reach the
 * hypervisor and which become #VC, and the MSRs.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/main-loop.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "exec/address-spaces.h"
#include "exec/cputlb.h"
#include "hw/core/cpu.h"
#include "hw/i386/snp-emu.h"
#include "tcg/helper-tcg.h"
#include "snp.h"

#define MSR_AMD_SYSCFG          0xc0010010
#define MSR_AMD_HWCR            0xc0010015
#define MSR_AMD_GHCB            0xc0010130
#define MSR_AMD_SEV_STATUS      0xc0010131
#define MSR_AMD_RMP_BASE        0xc0010132
#define MSR_AMD_RMP_END         0xc0010133

#define SYSCFG_MFDM             (1ULL << 19)
#define SYSCFG_MEM_ENCRYPT      (1ULL << 23)
#define SYSCFG_SNP_EN           (1ULL << 24)
#define SYSCFG_VMPL_EN          (1ULL << 25)

#define VMCB_GHCB               0x0a0
#define VMCB_VMSA               0x108

/*
 * The save area behind what VMCB and VMSA share. At #VMEXIT the host's part comes from its own
 * save area, at VM_HSAVE_PA + 0x400, with the same offsets.
 */
#define SAVE_FS                 0x040
#define SAVE_GS                 0x050
#define SAVE_LDTR               0x070
#define SAVE_TR                 0x090
#define SAVE_VMPL               0x0ca
#define SAVE_XSS                0x140
#define SAVE_STAR               0x200
#define SAVE_LSTAR              0x208
#define SAVE_CSTAR              0x210
#define SAVE_SFMASK             0x218
#define SAVE_KERNEL_GS          0x220
#define SAVE_SYSENTER_CS        0x228
#define SAVE_SYSENTER_ESP       0x230
#define SAVE_SYSENTER_EIP       0x238
#define SAVE_PAT                0x268
#define SAVE_PKRU               0x2e8
#define SAVE_TSC_AUX            0x2ec
#define SAVE_SEV_FEATURES       0x3b0
#define SAVE_XCR0               0x3e8
#define SAVE_MXCSR              0x408
#define SAVE_FTW                0x40c
#define SAVE_FSW                0x40e
#define SAVE_FCW                0x410
#define SAVE_ST                 0x420
#define SAVE_ST_HIGH            0x460
#define SAVE_XMM                0x470
#define SAVE_YMM                0x570
#define SAVE_SIZE               0x670

unsigned snp_trace;

static uint32_t max_asid = 509, max_snp_asid = 99;

/* RSP and RAX are in the part that svm_helper.c handles. */
static const struct {
    uint16_t offset;
    uint8_t reg;
} gprs[] = {
    { 0x308, R_ECX }, { 0x310, R_EDX }, { 0x318, R_EBX }, { 0x328, R_EBP },
    { 0x330, R_ESI }, { 0x338, R_EDI }, { 0x340, 8 }, { 0x348, 9 }, { 0x350, 10 },
    { 0x358, 11 }, { 0x360, 12 }, { 0x368, 13 }, { 0x370, 14 }, { 0x378, 15 },
};

void snp_set_asids(uint32_t asids, uint32_t snp_asids)
{
    max_asid = asids;
    max_snp_asid = snp_asids;
}

void snp_set_trace(unsigned level)
{
    snp_trace = level;
}

bool snp_host(void)
{
    return first_cpu && X86_CPU(first_cpu)->snp_host;
}

bool snp_enabled_everywhere(void)
{
    CPUState *cs;

    CPU_FOREACH(cs) {
        if (!(cpu_env(cs)->snp.syscfg & SYSCFG_SNP_EN)) {
            return false;
        }
    }
    return snp_rmp_active;
}

void snp_cpuid(uint32_t *eax, uint32_t *ebx, uint32_t *ecx, uint32_t *edx)
{
    /*
     * SEV, SEV-ES, SNP, VMPL, TSC_AUX virtualisation, coherent caches. Not SME: the host's own
     * page tables have no C bit here.
     */
    *eax = 1 << 1 | 1 << 3 | 1 << 4 | 1 << 5 | 1 << 9 | 1 << 10;
    *ebx = SNP_CBIT_POS | 4 << 12;      /* no physical address bits lost; four VMPLs */
    *ecx = max_asid;
    *edx = max_snp_asid + 1;            /* first that is for plain SEV guests */
}

/* ---- guest state ---- */

static void load_seg(CPUX86State *env, const uint8_t *p, SegmentCache *sc)
{
    uint32_t attr = lduw_le_p(p + 2);
    int shift = 64 - (env->features[FEAT_7_0_ECX] & CPUID_7_0_ECX_LA57 ? 57 : 48);

    sc->selector = lduw_le_p(p);
    sc->limit = ldl_le_p(p + 4);
    sc->base = (int64_t)(ldq_le_p(p + 8) << shift) >> shift;
    sc->flags = (attr & 0xff) << 8 | (attr & 0xf00) << 12;
}

static void save_seg(uint8_t *p, const SegmentCache *sc)
{
    stw_le_p(p, sc->selector);
    stw_le_p(p + 2, (sc->flags >> 8 & 0xff) | (sc->flags >> 12 & 0xf00));
    stl_le_p(p + 4, sc->limit);
    stq_le_p(p + 8, sc->base);
}

/* What #VMEXIT loads for the host and VMRUN for the guest alike. */
static void load_common(CPUX86State *env, const uint8_t *p)
{
    SegmentCache sc;

    load_seg(env, p + SAVE_FS, &sc);
    cpu_x86_load_seg_cache(env, R_FS, sc.selector, sc.base, sc.limit, sc.flags);
    load_seg(env, p + SAVE_GS, &sc);
    cpu_x86_load_seg_cache(env, R_GS, sc.selector, sc.base, sc.limit, sc.flags);
    load_seg(env, p + SAVE_LDTR, &env->ldt);
    load_seg(env, p + SAVE_TR, &env->tr);
    env->star = ldq_le_p(p + SAVE_STAR);
    env->lstar = ldq_le_p(p + SAVE_LSTAR);
    env->cstar = ldq_le_p(p + SAVE_CSTAR);
    env->fmask = ldq_le_p(p + SAVE_SFMASK);
    env->kernelgsbase = ldq_le_p(p + SAVE_KERNEL_GS);
    env->sysenter_cs = ldq_le_p(p + SAVE_SYSENTER_CS);
    env->sysenter_esp = ldq_le_p(p + SAVE_SYSENTER_ESP);
    env->sysenter_eip = ldq_le_p(p + SAVE_SYSENTER_EIP);
    env->tsc_aux = ldl_le_p(p + SAVE_TSC_AUX);
    env->pkru = ldl_le_p(p + SAVE_PKRU);
    env->xss = ldq_le_p(p + SAVE_XSS);
    env->xcr0 = ldq_le_p(p + SAVE_XCR0) | XSTATE_FP_MASK;
    cpu_sync_avx_hflag(env);
    for (size_t i = 0; i < ARRAY_SIZE(gprs); i++) {
        env->regs[gprs[i].reg] = ldq_le_p(p + gprs[i].offset);
    }
}

static void reset_fpu(CPUX86State *env)
{
    memset(env->fpregs, 0, sizeof(env->fpregs));
    memset(env->xmm_regs, 0, sizeof(env->xmm_regs));
    env->fpstt = 0;
    for (int i = 0; i < 8; i++) {
        env->fptags[i] = 1;
    }
    env->fpus = 0;
    cpu_set_fpuc(env, 0x37f);
    cpu_set_mxcsr(env, 0x1f80);
}

/* VMRUN with SEV or SEV-ES enabled. false: the VMCB is invalid. */
bool snp_vmrun_check(CPUX86State *env, uint64_t nested_ctl, uint32_t asid)
{
    CPUState *cs = env_cpu(env);
    X86SnpState *snp = &env->snp;
    SnpRmpEntry e;
    uint64_t vmsa, features;

    if (!env_archcpu(env)->snp_host || asid > max_asid || !(nested_ctl & SVM_SEV_ENABLED)) {
        return false;
    }
    if (!(nested_ctl & SVM_SEV_ES_ENABLED)) {
        snp->sev = true;
        snp->asid = asid;
        return true;
    }
    vmsa = x86_ldq_phys(cs, env->vm_vmcb + VMCB_VMSA) & ~0xfffULL;
    features = x86_ldq_phys(cs, vmsa + SAVE_SEV_FEATURES);
    if (!vmsa || asid > max_snp_asid || (features & ~1ULL)) {
        return false;
    }
    if (features & 1) {
        /* A page that is not, or no longer, a VMSA of this guest's is not run. */
        if (!(snp->syscfg & SYSCFG_SNP_EN) || !snp_rmp_read(vmsa, &e) || !e.assigned ||
            e.asid != asid) {
            return false;
        }
        if (!e.vmsa) {
            /*
             * A guest that gives a vCPU a new VMSA takes the old one back as soon as the
             * hypervisor has sent that vCPU's processor an interrupt. It arrives in less than a
             * microsecond there; here our host may have kept this thread from running since
             * before VMRUN. Let it be early: KVM would give the vCPU up.
             */
            if (cs->interrupt_request & (CPU_INTERRUPT_HARD | CPU_INTERRUPT_POLL)) {
                cpu_vmexit(env, SVM_EXIT_INTR, 0, 0);
            }
            return false;
        }
    }
    snp->vmsa = vmsa;
    snp->sev_features = features;
    snp->vmpl = x86_ldub_phys(cs, vmsa + SAVE_VMPL) & 3;
    snp->asid = asid;
    snp->snp = features & 1;
    snp->sev = true;
    snp->es = true;
    return true;
}

void snp_vmsa_load(CPUX86State *env)
{
    uint8_t p[SAVE_SIZE];
    uint8_t ftw;

    address_space_read(env_cpu(env)->as, env->snp.vmsa, MEMTXATTRS_UNSPECIFIED, p, sizeof(p));
    load_common(env, p);
    env->pat = ldq_le_p(p + SAVE_PAT);
    env->fpus = lduw_le_p(p + SAVE_FSW) & ~0x3800;
    env->fpstt = lduw_le_p(p + SAVE_FSW) >> 11 & 7;
    cpu_set_fpuc(env, lduw_le_p(p + SAVE_FCW));
    cpu_set_mxcsr(env, ldl_le_p(p + SAVE_MXCSR));
    ftw = p[SAVE_FTW];
    for (int i = 0; i < 8; i++) {
        floatx80 *st = &env->fpregs[(env->fpstt + i) & 7].d;

        env->fptags[i] = !(ftw >> i & 1);
        st->low = ldq_le_p(p + SAVE_ST + 8 * i);
        st->high = lduw_le_p(p + SAVE_ST_HIGH + 2 * i);
    }
    for (int i = 0; i < 16; i++) {
        env->xmm_regs[i].ZMM_Q(0) = ldq_le_p(p + SAVE_XMM + 16 * i);
        env->xmm_regs[i].ZMM_Q(1) = ldq_le_p(p + SAVE_XMM + 16 * i + 8);
        env->xmm_regs[i].ZMM_Q(2) = ldq_le_p(p + SAVE_YMM + 16 * i);
        env->xmm_regs[i].ZMM_Q(3) = ldq_le_p(p + SAVE_YMM + 16 * i + 8);
    }
}

void snp_vmsa_save(CPUX86State *env)
{
    AddressSpace *as = env_cpu(env)->as;
    uint8_t p[SAVE_SIZE];
    uint8_t ftw = 0;

    address_space_read(as, env->snp.vmsa, MEMTXATTRS_UNSPECIFIED, p, sizeof(p));
    save_seg(p + SAVE_FS, &env->segs[R_FS]);
    save_seg(p + SAVE_GS, &env->segs[R_GS]);
    save_seg(p + SAVE_LDTR, &env->ldt);
    save_seg(p + SAVE_TR, &env->tr);
    stq_le_p(p + SAVE_STAR, env->star);
    stq_le_p(p + SAVE_LSTAR, env->lstar);
    stq_le_p(p + SAVE_CSTAR, env->cstar);
    stq_le_p(p + SAVE_SFMASK, env->fmask);
    stq_le_p(p + SAVE_KERNEL_GS, env->kernelgsbase);
    stq_le_p(p + SAVE_SYSENTER_CS, env->sysenter_cs);
    stq_le_p(p + SAVE_SYSENTER_ESP, env->sysenter_esp);
    stq_le_p(p + SAVE_SYSENTER_EIP, env->sysenter_eip);
    stq_le_p(p + SAVE_PAT, env->pat);
    stl_le_p(p + SAVE_TSC_AUX, env->tsc_aux);
    stl_le_p(p + SAVE_PKRU, env->pkru);
    stq_le_p(p + SAVE_XSS, env->xss);
    stq_le_p(p + SAVE_XCR0, env->xcr0);
    for (size_t i = 0; i < ARRAY_SIZE(gprs); i++) {
        stq_le_p(p + gprs[i].offset, env->regs[gprs[i].reg]);
    }
    update_mxcsr_from_sse_status(env);
    stl_le_p(p + SAVE_MXCSR, env->mxcsr);
    stw_le_p(p + SAVE_FCW, env->fpuc);
    stw_le_p(p + SAVE_FSW, (env->fpus & ~0x3800) | (env->fpstt & 7) << 11);
    for (int i = 0; i < 8; i++) {
        const floatx80 *st = &env->fpregs[(env->fpstt + i) & 7].d;

        ftw |= !env->fptags[i] << i;
        stq_le_p(p + SAVE_ST + 8 * i, st->low);
        stw_le_p(p + SAVE_ST_HIGH + 2 * i, st->high);
    }
    p[SAVE_FTW] = ftw;
    for (int i = 0; i < 16; i++) {
        stq_le_p(p + SAVE_XMM + 16 * i, env->xmm_regs[i].ZMM_Q(0));
        stq_le_p(p + SAVE_XMM + 16 * i + 8, env->xmm_regs[i].ZMM_Q(1));
        stq_le_p(p + SAVE_YMM + 16 * i, env->xmm_regs[i].ZMM_Q(2));
        stq_le_p(p + SAVE_YMM + 16 * i + 8, env->xmm_regs[i].ZMM_Q(3));
    }
    address_space_write(as, env->snp.vmsa, MEMTXATTRS_UNSPECIFIED, p, sizeof(p));
}

/* #VMEXIT of an SEV-ES guest, after the part that every #VMEXIT loads. */
void snp_host_load(CPUX86State *env)
{
    uint8_t p[SAVE_SIZE];

    address_space_read(env_cpu(env)->as, env->vm_hsave + offsetof(struct vmcb, save),
                       MEMTXATTRS_UNSPECIFIED, p, sizeof(p));
    load_common(env, p);
    reset_fpu(env);
}

/* ---- exits ---- */

/* Automatic exits go to the hypervisor, all others become #VC in the guest. */
bool snp_exit_is_automatic(uint64_t exit_code)
{
    switch (exit_code) {
    case SVM_EXIT_EXCP_BASE + EXCP12_MCHK:
    case SVM_EXIT_INTR:
    case SVM_EXIT_NMI:
    case SVM_EXIT_SMI:
    case SVM_EXIT_INIT:
    case SVM_EXIT_VINTR:
    case SVM_EXIT_PAUSE:
    case SVM_EXIT_HLT:
    case SVM_EXIT_SHUTDOWN:
    case SVM_EXIT_EFER_TRAP ... SVM_EXIT_CR0_TRAP + 15:
    case SVM_EXIT_NPF:
    case SVM_EXIT_VMGEXIT:
    case (uint64_t)SVM_EXIT_ERR:
        return true;
    default:
        return false;
    }
}

void snp_trace_exit(CPUX86State *env, uint64_t code, uint64_t info1)
{
    info_report("snp: cpu%d asid %u exit %" PRIx64 " info1 %" PRIx64 " info2 %" PRIx64
                " rip %" PRIx64 " cr0 %" PRIx64 " cr3 %" PRIx64 " ghcb %" PRIx64,
                env_cpu(env)->cpu_index, env->snp.asid, code, info1,
                x86_ldq_phys(env_cpu(env),
                             env->vm_vmcb + offsetof(struct vmcb, control.exit_info_2)),
                (uint64_t)env->eip, (uint64_t)env->cr[0], (uint64_t)env->cr[3],
                x86_ldq_phys(env_cpu(env), env->vm_vmcb + VMCB_GHCB));
}

void snp_raise_vc(CPUX86State *env, uint64_t code, uintptr_t ra)
{
    if (unlikely(snp_trace > 1)) {
        cpu_restore_state(env_cpu(env), ra);
        ra = 0;
        info_report("snp: cpu%d asid %u #VC %" PRIx64 " rip %" PRIx64 " rax %" PRIx64
                    " rcx %" PRIx64, env_cpu(env)->cpu_index, env->snp.asid, code,
                    (uint64_t)env->eip, (uint64_t)env->regs[R_EAX],
                    (uint64_t)env->regs[R_ECX]);
    }
    raise_exception_err_ra(env, EXCP1D_VC, code, ra);
}

/* After a control register or EFER changed. RIP is the next instruction: KVM never moves it. */
void snp_write_trap(CPUX86State *env, uint32_t code, uint64_t value, int next_eip_addend,
                    uintptr_t ra)
{
    if (likely(!env->snp.es) || !cpu_svm_has_intercept(env, code)) {
        return;
    }
    cpu_restore_state(env_cpu(env), ra);
    env->eip += next_eip_addend;
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    cpu_vmexit(env, code, value, 0);
}

void helper_vmgexit(CPUX86State *env, int next_eip_addend)
{
    if (!env->snp.es) {
        helper_vmmcall(env);
        return;
    }
    cpu_restore_state(env_cpu(env), GETPC());
    env->eip += next_eip_addend;
    env->hflags &= ~HF_INHIBIT_IRQ_MASK;
    cpu_vmexit(env, SVM_EXIT_VMGEXIT, 0, 0);
}

/* ---- MSRs ---- */

/* The two that a guest reaches whatever the hypervisor's bitmap says. */
bool snp_guest_msr(CPUX86State *env, bool write)
{
    uint32_t index = env->regs[R_ECX];
    hwaddr ghcb = env->vm_vmcb + VMCB_GHCB;
    uint64_t value;

    if (index == MSR_AMD_GHCB && write && env->snp.es) {
        x86_stq_phys(env_cpu(env), ghcb,
                     (uint32_t)env->regs[R_EAX] | (uint64_t)env->regs[R_EDX] << 32);
        return true;
    }
    if (index == MSR_AMD_GHCB && !write && env->snp.es) {
        value = x86_ldq_phys(env_cpu(env), ghcb);
    } else if (index == MSR_AMD_SEV_STATUS && !write) {
        value = 1 | (env->snp.es ? 2 : 0) | env->snp.sev_features << 2;
    } else {
        return false;
    }
    env->regs[R_EAX] = (uint32_t)value;
    env->regs[R_EDX] = value >> 32;
    return true;
}

bool snp_rdmsr(CPUX86State *env, uint32_t index, uint64_t *value)
{
    if (!env_archcpu(env)->snp_host) {
        return false;
    }
    switch (index) {
    case MSR_AMD_SYSCFG:
        *value = env->snp.syscfg | SYSCFG_MEM_ENCRYPT;
        return true;
    case MSR_AMD_HWCR:
        *value = 1;             /* SMMLOCK */
        return true;
    case MSR_AMD_RMP_BASE:
        *value = snp_rmp_msr(false);
        return true;
    case MSR_AMD_RMP_END:
        *value = snp_rmp_msr(true);
        return true;
    default:
        return false;
    }
}

bool snp_wrmsr(CPUX86State *env, uint32_t index, uint64_t value)
{
    if (!env_archcpu(env)->snp_host || index != MSR_AMD_SYSCFG) {
        return false;
    }
    /* SNP_EN stays until reset; MEM_ENCRYPT is the firmware's. */
    env->snp.syscfg = (value & (SYSCFG_MFDM | SYSCFG_VMPL_EN | SYSCFG_SNP_EN)) |
                      (env->snp.syscfg & SYSCFG_SNP_EN);
    if (env->snp.syscfg & SYSCFG_SNP_EN) {
        bql_lock();
        snp_rmp_start();
        bql_unlock();
        tlb_flush(env_cpu(env));
    }
    return true;
}
