/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * SEV-SNP host emulation: the reverse map table (RMP), its instructions and its checks, and the
 * guests' memory keys.
 *
 * The table is in the emulated RAM, where the host reads it. Checks are made when a TLB entry is
 * filled; every change of the table flushes all TLBs.
 *
 * Guest memory lies in QEMU's RAM as the guest sees it. A host (or shared) read of a page that
 * belongs to a guest is sent to an alias region which answers with ciphertext, and a page that
 * leaves or enters a guest by RMPUPDATE changes into what the other side would see: ciphertext.
 * Pages in the immutable state are still, or again, the firmware's and read as they are.
 */
#include "qemu/osdep.h"
#include "qemu/error-report.h"
#include "qemu/cutils.h"
#include "qemu/lockable.h"
#include "qemu/thread.h"
#include "qemu/units.h"
#include "cpu.h"
#include "exec/helper-proto.h"
#include "exec/address-spaces.h"
#include "exec/cpu_ldst.h"
#include "exec/cputlb.h"
#include "exec/page-protection.h"
#include "hw/core/cpu.h"
#include "hw/i386/snp-emu.h"
#include "tcg/helper-tcg.h"
#include "snp.h"

/* Entry of a page, low quadword. The high one is implementation defined: our VMPL permissions. */
#define RMP_ASSIGNED            (1ULL << 0)
#define RMP_HUGE                (1ULL << 1)
#define RMP_IMMUTABLE           (1ULL << 2)
#define RMP_GPA_MASK            0x0007fffffffff000ULL
#define RMP_ASID_SHIFT          51
#define RMP_ASID_MASK           0x3ffULL
#define RMP_VMSA                (1ULL << 61)
#define RMP_VALIDATED           (1ULL << 62)

#define RMP_BOOKKEEPING         0x4000
#define HUGE_SIZE               (2 * MiB)
#define HUGE_PAGES              512

enum {
    RMP_OK = 0,
    RMP_FAIL_INPUT = 1,
    RMP_FAIL_PERMISSION = 2,
    RMP_FAIL_OVERLAP = 4,
    RMP_FAIL_SIZEMISMATCH = 6,
};

/* Where the host's reads of guest pages go: above every physical address. */
#define CIPHER_BASE             (1ULL << 52)
#define CIPHER_SIZE             (1ULL << 46)

typedef struct RmpSlot {
    uint64_t lo, hi;
} RmpSlot;

bool snp_rmp_active;

static uint64_t rmp_base, rmp_end;      /* as in the MSRs: end is the last byte */
static RmpSlot *slots;
static uint64_t nr_slots;
static uint16_t *assigned_in;           /* pages assigned, per 2 MiB */
static QemuMutex rmp_lock;              /* read-modify-write of slots */
static uint8_t keys[RMP_ASID_MASK + 1][32];
static SnpMemoryCipher *memory_cipher;
static MemoryRegion cipher;

uint64_t snp_rmp_msr(bool end)
{
    return end ? rmp_end : rmp_base;
}

uint64_t snp_rmp_carve(uint64_t ram_start, uint64_t ram_end)
{
    uint64_t size = ROUND_UP(RMP_BOOKKEEPING + (ram_end >> 12) * sizeof(RmpSlot), HUGE_SIZE);

    if (ram_end - ram_start <= size) {
        return 0;
    }
    rmp_base = ROUND_DOWN(ram_end - size, HUGE_SIZE);
    rmp_end = ram_end - 1;
    return ram_end - rmp_base;
}

/* ---- memory keys ---- */

void snp_set_memory_cipher(SnpMemoryCipher *fn)
{
    memory_cipher = fn;
}

/* A page changes hands: what its next owner sees of what the last one left. */
static void crypt_page(uint32_t asid, uint64_t spa, bool encrypt)
{
    uint8_t page[4096];

    if (!memory_cipher ||
        address_space_read(&address_space_memory, spa, MEMTXATTRS_UNSPECIFIED, page, 4096)) {
        return;
    }
    memory_cipher(keys[asid & RMP_ASID_MASK], spa, page, sizeof(page), encrypt);
    address_space_write(&address_space_memory, spa, MEMTXATTRS_UNSPECIFIED, page, 4096);
}

void snp_set_key(uint32_t asid, const uint8_t key[32])
{
    /* A key that is taken away stays until the next comes: what it hid must not come to light. */
    if (asid <= RMP_ASID_MASK && !buffer_is_zero(key, 32)) {
        memcpy(keys[asid], key, 32);
    }
}

static uint64_t cipher_read(void *opaque, hwaddr spa, unsigned size)
{
    /* Not aligned, it may need two blocks. */
    uint8_t blocks[32];
    hwaddr start = spa & ~15ULL;
    unsigned offset = spa - start, len = offset + size > 16 ? 32 : 16;
    uint64_t value = 0;
    SnpRmpEntry e;

    if (!memory_cipher || !snp_rmp_read(spa, &e) ||
        address_space_read(&address_space_memory, start, MEMTXATTRS_UNSPECIFIED, blocks, len)) {
        return 0;
    }
    memory_cipher(keys[e.asid & RMP_ASID_MASK], start, blocks, len, true);
    memcpy(&value, blocks + offset, size);
    return le64_to_cpu(value);
}

static void cipher_write(void *opaque, hwaddr spa, uint64_t value, unsigned size)
{
    /* Never mapped writable. */
}

static const MemoryRegionOps cipher_ops = {
    .read = cipher_read,
    .write = cipher_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
    .impl = { .min_access_size = 1, .max_access_size = 8, .unaligned = true },
};

/* ---- the table ---- */

/* SNP_EN was set on some processor. The host has cleared the table before that. */
void snp_rmp_start(void)
{
    MemoryRegionSection s;

    if (slots || !rmp_base) {
        return;
    }
    s = memory_region_find(get_system_memory(), rmp_base, rmp_end + 1 - rmp_base);
    if (!s.mr || !memory_region_is_ram(s.mr) || int128_get64(s.size) < rmp_end + 1 - rmp_base) {
        error_report("snp: the RMP is not in one piece of RAM");
        exit(1);
    }
    qemu_mutex_init(&rmp_lock);
    nr_slots = (rmp_end + 1 - rmp_base - RMP_BOOKKEEPING) / sizeof(RmpSlot);
    assigned_in = g_new0(uint16_t, nr_slots / HUGE_PAGES + 1);
    memory_region_init_io(&cipher, NULL, &cipher_ops, NULL, "snp-ciphertext", CIPHER_SIZE);
    memory_region_add_subregion(get_system_memory(), CIPHER_BASE, &cipher);
    slots = (RmpSlot *)(memory_region_get_ram_ptr(s.mr) + s.offset_within_region +
                        RMP_BOOKKEEPING);
    for (uint64_t i = 0; i < nr_slots; i++) {
        if (le64_to_cpu(slots[i].lo) & RMP_ASSIGNED) {
            assigned_in[i / HUGE_PAGES]++;
        }
    }
    qatomic_store_release(&snp_rmp_active, true);
}

/* A board reset: the next kernel sets everything up again. */
void snp_rmp_reset(void)
{
    if (slots) {
        memset(slots, 0, nr_slots * sizeof(*slots));
        memset(assigned_in, 0, (nr_slots / HUGE_PAGES + 1) * sizeof(*assigned_in));
    }
}

static void slot_store(uint64_t pfn, uint64_t lo, uint64_t hi)
{
    uint64_t old = le64_to_cpu(slots[pfn].lo);

    assigned_in[pfn / HUGE_PAGES] += (int)(lo & RMP_ASSIGNED) - (int)(old & RMP_ASSIGNED);
    /* Readers take no lock: the half that says "assigned" comes last. */
    qatomic_set(&slots[pfn].hi, cpu_to_le64(hi));
    qatomic_store_release(&slots[pfn].lo, cpu_to_le64(lo));
}

static bool view(uint64_t spa, SnpRmpEntry *e)
{
    uint64_t pfn = spa >> 12, base = pfn & ~(uint64_t)(HUGE_PAGES - 1);
    uint64_t lo, hi;

    memset(e, 0, sizeof(*e));
    if (!snp_rmp_active || pfn >= nr_slots) {
        return false;
    }
    lo = le64_to_cpu(qatomic_load_acquire(&slots[base].lo));
    if ((lo & (RMP_ASSIGNED | RMP_HUGE)) == (RMP_ASSIGNED | RMP_HUGE)) {
        e->huge = true;
        pfn = base;
    } else {
        lo = le64_to_cpu(qatomic_load_acquire(&slots[pfn].lo));
    }
    hi = le64_to_cpu(qatomic_read(&slots[pfn].hi));
    e->assigned = lo & RMP_ASSIGNED;
    e->immutable = lo & RMP_IMMUTABLE;
    e->vmsa = lo & RMP_VMSA;
    e->validated = lo & RMP_VALIDATED;
    e->asid = (lo >> RMP_ASID_SHIFT) & RMP_ASID_MASK;
    e->gpa = lo & RMP_GPA_MASK;
    if (e->huge) {
        e->gpa += spa & (HUGE_SIZE - 1) & ~0xfffULL;
    }
    for (int i = 0; i < 4; i++) {
        e->perms[i] = hi >> (8 * i);
    }
    return true;
}

/* With huge, spa is 2 MiB aligned and the entry stands for all of it. */
static void store(uint64_t spa, const SnpRmpEntry *e)
{
    uint64_t pfn = spa >> 12, lo = 0, hi = 0;

    lo = (e->assigned ? RMP_ASSIGNED : 0) | (e->huge && e->assigned ? RMP_HUGE : 0) |
         (e->immutable ? RMP_IMMUTABLE : 0) | (e->vmsa ? RMP_VMSA : 0) |
         (e->validated ? RMP_VALIDATED : 0) | (e->gpa & RMP_GPA_MASK) |
         ((e->asid & RMP_ASID_MASK) << RMP_ASID_SHIFT);
    for (int i = 0; i < 4; i++) {
        hi |= (uint64_t)e->perms[i] << (8 * i);
    }
    if (e->huge) {
        /* The kernel looks for `assigned` in the 4 KiB slots too. */
        for (int i = 1; i < HUGE_PAGES; i++) {
            slot_store(pfn + i, lo & (RMP_ASSIGNED | RMP_IMMUTABLE), 0);
        }
    }
    slot_store(pfn, lo, hi);
}

static void flush_one(CPUState *cpu, run_on_cpu_data unused)
{
    tlb_flush(cpu);
}

static void flush_all(CPUState *cs)
{
    if (!cs) {
        CPUState *cpu;

        /* Not a processor's thread. A running one's TLB is its own to flush. */
        CPU_FOREACH(cpu) {
            async_run_on_cpu(cpu, flush_one, RUN_ON_CPU_NULL);
        }
    } else if (CPU_NEXT(first_cpu)) {
        /*
         * Takes effect at the end of the translation block, and the instructions here end it:
         * none runs on this processor before all others have flushed.
         */
        tlb_flush_all_cpus_synced(cs);
    } else {
        tlb_flush(cs);
    }
}

bool snp_rmp_read(uint64_t spa, SnpRmpEntry *e)
{
    return view(spa, e);
}

bool snp_rmp_write(uint64_t spa, const SnpRmpEntry *e)
{
    uint64_t pfn = spa >> 12;

    if (!snp_rmp_active || pfn + (e->huge ? HUGE_PAGES : 1) > nr_slots ||
        (e->huge && (spa & (HUGE_SIZE - 1)))) {
        return false;
    }
    WITH_QEMU_LOCK_GUARD(&rmp_lock) {
        store(spa & ~0xfffULL, e);
    }
    flush_all(current_cpu);
    return true;
}

/* Does the host see ciphertext here? */
static bool sealed(const SnpRmpEntry *e)
{
    return e->assigned && e->asid && !e->immutable;
}

/* ---- checks at TLB fill ---- */

/*
 * An access of the host, or a shared or plain one of a guest: a store to an assigned page, or
 * through a large mapping with an assigned page below it, faults (false).
 */
static bool check_shared(MMUAccessType access, hwaddr *paddr, int *prot, uint64_t page_size)
{
    SnpRmpEntry e;
    bool no_write;

    if (*paddr >= rmp_base && *paddr <= rmp_end) {
        no_write = true;
    } else if (!view(*paddr, &e)) {
        return true;
    } else {
        no_write = e.assigned ||
                   (page_size >= HUGE_SIZE && assigned_in[*paddr / HUGE_SIZE]);
        if (sealed(&e) && access != MMU_DATA_STORE) {
            *paddr += CIPHER_BASE;
        }
    }
    if (no_write) {
        if (access == MMU_DATA_STORE) {
            return false;
        }
        *prot &= ~PAGE_WRITE;
    }
    return true;
}

bool snp_check_host(CPUX86State *env, MMUAccessType access, hwaddr *paddr, int *prot,
                    uint64_t page_size)
{
    return !(env->snp.syscfg & (1 << 24)) || check_shared(access, paddr, prot, page_size);
}

/*
 * The second stage has translated a guest's access (key: guest physical address, with the C bit
 * for a private one) to *paddr.
 */
bool snp_check_nested(CPUX86State *env, hwaddr key, MMUAccessType access, hwaddr *paddr,
                      int *prot, uint64_t page_size, uint64_t *fault)
{
    SnpRmpEntry e;
    uint8_t perms;
    int can = 0;

    if (!env->snp.snp || !(key & SNP_CBIT)) {
        if (check_shared(access, paddr, prot, page_size)) {
            return true;
        }
        *fault = SNP_FAULT_RMP;
        return false;
    }
    if (!view(*paddr, &e) || !e.assigned || e.immutable || e.asid != env->snp.asid ||
        e.gpa != (key & ~SNP_CBIT & ~0xfffULL)) {
        *fault = SNP_FAULT_RMP | SNP_FAULT_ENC;
        return false;
    }
    if (page_size >= HUGE_SIZE && !e.huge) {
        *fault = SNP_FAULT_RMP | SNP_FAULT_ENC | SNP_FAULT_SIZEM;
        return false;
    }
    if (!e.validated) {
        *fault = SNP_FAULT_NOT_VALIDATED;
        return false;
    }
    if (env->snp.vmpl == 0) {
        return true;
    }
    /* The TLB entry outlives a change of the privilege level: only matters where XU != XS. */
    perms = e.perms[env->snp.vmpl & 3];
    if (perms & SNP_PERM_R) {
        can |= PAGE_READ | (perms & SNP_PERM_W ? PAGE_WRITE : 0);
    }
    if (perms & ((env->hflags & HF_CPL_MASK) == 3 ? SNP_PERM_XU : SNP_PERM_XS)) {
        can |= PAGE_EXEC;
    }
    if (!(can & (1 << access))) {
        *fault = SNP_FAULT_RMP | SNP_FAULT_ENC | SNP_FAULT_VMPL;
        return false;
    }
    *prot &= can;
    return true;
}

/* ---- instructions ---- */

static void result(CPUX86State *env, uint32_t code, bool carry)
{
    env->regs[R_EAX] = code;
    CC_SRC = (code ? 0 : CC_Z) | (carry ? CC_C : 0) | (parity8(code) ? 0 : CC_P);
    CC_OP = CC_OP_EFLAGS;
}

static void need_host(CPUX86State *env, uintptr_t ra)
{
    if (!(env->snp.syscfg & (1 << 24)) || (env->hflags & HF_GUEST_MASK)) {
        raise_exception_ra(env, EXCP06_ILLOP, ra);
    }
}

static void need_guest(CPUX86State *env, uintptr_t ra)
{
    if (!env->snp.snp) {
        raise_exception_ra(env, EXCP06_ILLOP, ra);
    }
}

static uint32_t rmpupdate(CPUX86State *env, uint64_t spa, SnpRmpEntry *new)
{
    uint64_t pfn = spa >> 12, count = new->huge ? HUGE_PAGES : 1;
    SnpRmpEntry old;

    if ((spa & (new->huge ? HUGE_SIZE - 1 : 0xfff)) || pfn + count > nr_slots ||
        (spa <= rmp_end && spa + count * 4096 > rmp_base) ||
        (new->assigned && (new->gpa & (new->huge ? HUGE_SIZE - 1 : 0xfff)))) {
        return RMP_FAIL_INPUT;
    }
    view(spa, &old);
    if (old.huge && !new->huge) {
        return RMP_FAIL_OVERLAP;
    }
    for (uint64_t i = 0; i < count; i++) {
        view(spa + i * 4096, &old);
        if (old.immutable) {
            return RMP_FAIL_PERMISSION;
        }
        if (new->huge && old.assigned && !old.huge) {
            return RMP_FAIL_OVERLAP;
        }
    }
    if (!new->assigned) {
        bool huge = new->huge;

        memset(new, 0, sizeof(*new));
        new->huge = huge;
    } else {
        new->perms[0] = SNP_PERM_ALL;
    }
    for (uint64_t i = 0; i < count; i++) {
        uint64_t page = spa + i * 4096;
        bool now = sealed(new);

        view(page, &old);
        if (sealed(&old) && (!now || old.asid != new->asid)) {
            crypt_page(old.asid, page, true);
        }
        if (now && (!sealed(&old) || old.asid != new->asid)) {
            crypt_page(new->asid, page, false);
        }
    }
    store(spa, new);
    return RMP_OK;
}

void helper_rmpupdate(CPUX86State *env)
{
    uintptr_t ra = GETPC();
    uint64_t spa, arg, flags;
    SnpRmpEntry new = {};
    uint32_t code;

    need_host(env, ra);
    spa = env->regs[R_EAX];
    arg = env->regs[R_ECX];
    new.gpa = cpu_ldq_data_ra(env, arg, ra);
    flags = cpu_ldq_data_ra(env, arg + 8, ra);
    new.assigned = flags & 1;
    new.huge = (flags >> 8) & 1;
    new.immutable = (flags >> 16) & 1;
    new.asid = flags >> 32;
    if (new.asid > RMP_ASID_MASK) {
        code = RMP_FAIL_INPUT;
    } else {
        WITH_QEMU_LOCK_GUARD(&rmp_lock) {
            code = rmpupdate(env, spa, &new);
        }
        flush_all(env_cpu(env));
    }
    result(env, code, false);
}

void helper_psmash(CPUX86State *env)
{
    uint64_t spa = env->regs[R_EAX];
    uint32_t code = RMP_OK;
    SnpRmpEntry e;

    need_host(env, GETPC());
    WITH_QEMU_LOCK_GUARD(&rmp_lock) {
        if ((spa & (HUGE_SIZE - 1)) || !view(spa, &e)) {
            code = RMP_FAIL_INPUT;
        } else if (!e.assigned || !e.huge || e.immutable) {
            code = RMP_FAIL_PERMISSION;
        } else {
            uint64_t gpa = e.gpa;

            e.huge = false;
            for (int i = HUGE_PAGES - 1; i >= 0; i--) {
                e.gpa = gpa + i * 4096ULL;
                store(spa + i * 4096ULL, &e);
            }
        }
    }
    if (code == RMP_OK) {
        flush_all(env_cpu(env));
    }
    result(env, code, false);
}

/* The page of PVALIDATE and RMPADJUST. Returns false (and the code) for a size that does not fit. */
static bool guest_page(CPUX86State *env, bool huge, hwaddr *spa, SnpRmpEntry *e, uint32_t *code,
                       uintptr_t ra)
{
    uint64_t addr = env->regs[R_EAX], size, fault = SNP_FAULT_RMP | SNP_FAULT_ENC;
    hwaddr gpa;

    need_guest(env, ra);
    if (!(env->hflags & HF_CS64_MASK)) {
        addr = (uint32_t)addr;
    }
    if (huge && (addr & (HUGE_SIZE - 1))) {
        *code = RMP_FAIL_INPUT;
        return false;
    }
    snp_walk(env, addr & ~0xfffULL, &gpa, spa, &size, ra);
    gpa &= ~SNP_CBIT & ~0xfffULL;
    *spa &= ~0xfffULL;
    if (huge && size < HUGE_SIZE) {
        *code = RMP_FAIL_SIZEMISMATCH;
        return false;
    }
    if (view(*spa, e) && e->assigned && !e->immutable && e->asid == env->snp.asid &&
        e->gpa == gpa) {
        if (huge == e->huge) {
            return true;
        }
        if (huge) {
            *code = RMP_FAIL_SIZEMISMATCH;
            return false;
        }
        fault |= SNP_FAULT_SIZEM;
    }
    x86_stq_phys(env_cpu(env), env->vm_vmcb + offsetof(struct vmcb, control.exit_info_2), gpa);
    cpu_vmexit(env, SVM_EXIT_NPF,
               fault | SVM_NPTEXIT_GPA | PG_ERROR_P_MASK | PG_ERROR_U_MASK | PG_ERROR_W_MASK, ra);
}

/*
 * With the lock held: what guest_page() saw, as it is now. false: another processor has changed
 * it in between. The caller starts again, outside the lock, and gets the fault that is due.
 */
static bool still(hwaddr spa, SnpRmpEntry *e)
{
    SnpRmpEntry seen = *e;

    return view(spa, e) && e->assigned && !e->immutable && e->huge == seen.huge &&
           e->asid == seen.asid && e->gpa == seen.gpa;
}

void helper_pvalidate(CPUX86State *env)
{
    /* The kernel passes bools: the upper bits are anything. */
    bool huge = env->regs[R_ECX] & 1, validate = env->regs[R_EDX] & 1;
    bool done = false, same = false;
    uintptr_t ra = GETPC();
    uint32_t code;
    SnpRmpEntry e;
    hwaddr spa;

    while (!done) {
        if (!guest_page(env, huge, &spa, &e, &code, ra)) {
            result(env, code, false);
            return;
        }
        if (env->snp.vmpl != 0) {
            result(env, RMP_FAIL_PERMISSION, false);
            return;
        }
        WITH_QEMU_LOCK_GUARD(&rmp_lock) {
            done = still(spa, &e);
            same = e.validated == validate;
            if (done && !same) {
                e.validated = validate;
                store(spa, &e);
            }
        }
    }
    /* Nothing is cached for a page that was not validated. */
    if (!same && !validate) {
        flush_all(env_cpu(env));
    }
    /* Carry means "success, but it was so already", never an error. */
    result(env, RMP_OK, same);
}

void helper_rmpadjust(CPUX86State *env)
{
    bool huge = env->regs[R_ECX] & 1, vmsa = (env->regs[R_EDX] >> 16) & 1;
    uint8_t target = env->regs[R_EDX], perms = env->regs[R_EDX] >> 8;
    bool done = false;
    uintptr_t ra = GETPC();
    uint32_t code;
    SnpRmpEntry e;
    hwaddr spa;

    while (!done) {
        if (!guest_page(env, huge, &spa, &e, &code, ra)) {
            result(env, code, false);
            return;
        }
        if (!e.validated) {
            env->cr[2] = env->regs[R_EAX];
            snp_raise_vc(env, SVM_EXIT_NOT_VALIDATED, ra);
        }
        if (target > 3) {
            result(env, RMP_FAIL_INPUT, false);
            return;
        }
        if (target <= env->snp.vmpl || (vmsa && env->snp.vmpl) ||
            (env->snp.vmpl && (perms & ~e.perms[env->snp.vmpl & 3]))) {
            result(env, RMP_FAIL_PERMISSION, false);
            return;
        }
        WITH_QEMU_LOCK_GUARD(&rmp_lock) {
            done = still(spa, &e) && e.validated;
            if (done) {
                e.perms[target] = perms & SNP_PERM_ALL;
                if (env->snp.vmpl == 0) {
                    e.vmsa = vmsa;
                }
                store(spa, &e);
            }
        }
    }
    flush_all(env_cpu(env));
    result(env, RMP_OK, false);
}
