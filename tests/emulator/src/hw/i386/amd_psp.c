/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * AMD Secure Processor, the PCI device: the SEV mailbox as Linux's ccp driver uses it. What the
 * commands do is the library tests/psp's business (cvmm_psp.h); this file lends it memory, the
 * RMP and CPUID.
 *
 * Buffer addresses are system physical and bypass the IOMMU.
 */
#include "qemu/osdep.h"
#include "qapi/error.h"
#include "qemu/error-report.h"
#include "qemu/timer.h"
#include "qemu/units.h"
#include "cpu.h"
#include "exec/address-spaces.h"
#include "hw/core/cpu.h"
#include "hw/i386/snp-emu.h"
#include "hw/pci/msi.h"
#include "hw/pci/pci_device.h"
#include "hw/qdev-properties.h"
#include "cvmm_psp.h"

#define TYPE_AMD_PSP "amd-psp"
OBJECT_DECLARE_SIMPLE_TYPE(AmdPspState, AMD_PSP)

/* Genoa's register layout ("pspv4"); Milan's has the same SEV registers. */
#define REG_INTEN               0x10690
#define REG_INTSTS              0x10694
#define REG_CMDRESP             0x10980
#define REG_ADDR_LO             0x109e0
#define REG_ADDR_HI             0x109e4
#define REG_BOOTLOADER          0x109ec
#define REG_FEATURE             0x109fc

#define CMDRESP_DONE            (1u << 31)
#define CMDRESP_IOC             1
#define INT_SEV                 (1u << 1)
#define FEATURE_SEV             1

struct AmdPspState {
    PCIDevice parent_obj;
    MemoryRegion mmio;
    QEMUTimer slow;
    CvmmPsp *psp;
    uint32_t inten, intsts, cmdresp, addr_lo, addr_hi;
    uint32_t status;            /* of a command whose answer is still to come */
    bool ioc;

    char *product, *api, *tcb, *committed_tcb, *chip_id, *keys, *seed, *debug, *fault;
    uint32_t build, report_version, asids, snp_asids, trace;
    bool mask_chip_id;
};

/* ---- what the library asks of us ---- */

static int op_mem_read(void *opaque, uint64_t spa, void *buf, uint64_t len)
{
    return address_space_read(&address_space_memory, spa, MEMTXATTRS_UNSPECIFIED, buf, len);
}

static int op_mem_write(void *opaque, uint64_t spa, const void *buf, uint64_t len)
{
    return address_space_write(&address_space_memory, spa, MEMTXATTRS_UNSPECIFIED, buf, len);
}

static int op_rmp_read(void *opaque, uint64_t spa, CvmmPspRmpEntry *out)
{
    SnpRmpEntry e;

    memset(out, 0, sizeof(*out));
    if (!snp_rmp_read(spa, &e)) {
        return 1;
    }
    out->gpa = e.gpa;
    out->asid = e.asid;
    out->assigned = e.assigned;
    out->pagesize = e.huge;
    out->immutable = e.immutable;
    out->vmsa = e.vmsa;
    out->validated = e.validated;
    memcpy(out->perms, e.perms, sizeof(out->perms));
    return 0;
}

static int op_rmp_write(void *opaque, uint64_t spa, const CvmmPspRmpEntry *in)
{
    SnpRmpEntry e = {
        .gpa = in->gpa,
        .asid = in->asid,
        .assigned = in->assigned,
        .huge = in->pagesize,
        .immutable = in->immutable,
        .vmsa = in->vmsa,
        .validated = in->validated,
    };

    memcpy(e.perms, in->perms, sizeof(e.perms));
    return snp_rmp_write(spa, &e) ? 0 : 1;
}

static int op_snp_enabled(void *opaque)
{
    return snp_enabled_everywhere();
}

static int op_cpuid(void *opaque, uint32_t eax, uint32_t ecx, uint32_t out[4])
{
    cpu_x86_cpuid(cpu_env(first_cpu), eax, ecx, &out[0], &out[1], &out[2], &out[3]);
    return 0;
}

static int op_guest_key(void *opaque, uint32_t asid, const uint8_t key[32])
{
    snp_set_key(asid, key);
    return 0;
}

/* ---- registers ---- */

static void answer(AmdPspState *s)
{
    s->cmdresp = CMDRESP_DONE | (s->status & 0xffff);
    if (s->ioc) {
        s->intsts |= INT_SEV;
        if ((s->inten & INT_SEV) && msi_enabled(&s->parent_obj)) {
            msi_notify(&s->parent_obj, 0);
        }
    }
}

static void slow_answer(void *opaque)
{
    answer(opaque);
}

static void command(AmdPspState *s, uint32_t value)
{
    uint32_t id = (value >> 16) & 0x7ff, delay;

    s->ioc = value & CMDRESP_IOC;
    s->cmdresp = value & ~CMDRESP_DONE;
    s->status = cvmm_psp_command(s->psp, id, s->addr_lo | (uint64_t)s->addr_hi << 32);
    if (s->trace) {
        info_report("psp: %s", cvmm_psp_trace(s->psp));
    }
    delay = cvmm_psp_delay_ms(s->psp);
    if (delay) {
        timer_mod(&s->slow, qemu_clock_get_ms(QEMU_CLOCK_VIRTUAL) + delay);
    } else {
        answer(s);
    }
}

static uint64_t psp_read(void *opaque, hwaddr addr, unsigned size)
{
    AmdPspState *s = opaque;

    switch (addr) {
    case REG_INTEN:
        return s->inten;
    case REG_INTSTS:
        return s->intsts;
    case REG_CMDRESP:
        return s->cmdresp;
    case REG_ADDR_LO:
        return s->addr_lo;
    case REG_ADDR_HI:
        return s->addr_hi;
    case REG_BOOTLOADER:
        return 0x00360053;
    case REG_FEATURE:
        return FEATURE_SEV;
    default:
        return 0;
    }
}

static void psp_write(void *opaque, hwaddr addr, uint64_t value, unsigned size)
{
    AmdPspState *s = opaque;

    switch (addr) {
    case REG_INTEN:
        s->inten = value;
        break;
    case REG_INTSTS:
        s->intsts &= ~value;
        break;
    case REG_ADDR_LO:
        s->addr_lo = value;
        break;
    case REG_ADDR_HI:
        s->addr_hi = value;
        break;
    case REG_CMDRESP:
        /* The mailbox is not looked at while a command runs. */
        if (!timer_pending(&s->slow)) {
            command(s, value);
        }
        break;
    }
}

static const MemoryRegionOps psp_ops = {
    .read = psp_read,
    .write = psp_write,
    .endianness = DEVICE_LITTLE_ENDIAN,
    .valid = { .min_access_size = 4, .max_access_size = 4 },
};

/* ---- configuration ---- */

/* "4.0.22.213" or, with FMC, "1.4.0.22.213": the order of the parts in AMD's documents. */
static void add_tcb(GString *toml, const char *table, const char *value, Error **errp)
{
    unsigned v[5] = {};
    char rest;
    int n;

    if (!value) {
        return;
    }
    n = sscanf(value, "%u.%u.%u.%u.%u%c", &v[0], &v[1], &v[2], &v[3], &v[4], &rest);
    if (n == 4) {
        g_string_append_printf(toml, "[%s]\nbootloader = %u\ntee = %u\nsnp = %u\nmicrocode = %u\n",
                               table, v[0], v[1], v[2], v[3]);
    } else if (n == 5) {
        g_string_append_printf(toml, "[%s]\nfmc = %u\nbootloader = %u\ntee = %u\nsnp = %u\n"
                               "microcode = %u\n", table, v[0], v[1], v[2], v[3], v[4]);
    } else {
        error_setg(errp, "%s is BOOTLOADER.TEE.SNP.MICROCODE, with FMC. in front on Turin; not '%s'",
                   table, value);
    }
}

/*
 * COMMAND:STATUS[:NTH[:DELAY_MS[:repeat]]], several separated by '+'. Numbers as in C. Without STATUS
 * (COMMAND::NTH:DELAY_MS) the command is executed, only later.
 */
static void add_faults(GString *toml, const char *list, Error **errp)
{
    g_auto(GStrv) faults = g_strsplit(list ? list : "", "+", -1);

    for (int i = 0; faults[i]; i++) {
        g_auto(GStrv) part = g_strsplit(faults[i], ":", 5);
        guint n = g_strv_length(part);
        bool late;
        unsigned long v[4] = { 0, 0, 1, 0 };

        for (guint j = 0; j < MIN(n, 4); j++) {
            char *end;

            v[j] = strtoul(part[j], &end, 0);
            if (*end || (!*part[j] && j != 1)) {
                n = 0;
            }
        }
        late = n > 3 && !*part[1];
        if (n < 2 || (!*part[1] && !late) || (n == 5 && strcmp(part[4], "repeat"))) {
            error_setg(errp, "fault is COMMAND:STATUS[:NTH[:DELAY_MS[:repeat]]], not '%s'",
                       faults[i]);
            return;
        }
        g_string_append_printf(toml, "[[fault]]\ncommand = %lu\nnth = %lu\ndelay_ms = %lu\n"
                               "repeat = %s\n", v[0], v[2], v[3], n == 5 ? "true" : "false");
        if (!late) {
            g_string_append_printf(toml, "status = %lu\n", v[1]);
        }
    }
}

static void add_string(GString *toml, const char *key, const char *value)
{
    if (!value) {
        return;
    }
    g_string_append_printf(toml, "%s = \"", key);
    for (; *value; value++) {
        if (*value == '"' || *value == '\\') {
            g_string_append_c(toml, '\\');
        }
        g_string_append_c(toml, *value);
    }
    g_string_append(toml, "\"\n");
}

static void psp_realize(PCIDevice *pdev, Error **errp)
{
    ERRP_GUARD();
    AmdPspState *s = AMD_PSP(pdev);
    g_autoptr(GString) toml = g_string_new(NULL);
    char message[256] = "";
    const CvmmPspOps ops = {
        .opaque = s,
        .mem_read = op_mem_read,
        .mem_write = op_mem_write,
        .rmp_read = op_rmp_read,
        .rmp_write = op_rmp_write,
        .snp_enabled = op_snp_enabled,
        .cpuid = op_cpuid,
        .guest_key = op_guest_key,
    };

    if (!snp_host()) {
        error_setg(errp, "amd-psp needs processors with snp-host=on");
        return;
    }
    if (s->snp_asids < 1 || s->snp_asids >= s->asids || s->asids > 1007) {
        error_setg(errp, "asids is at most 1007 and snp-asids between 1 and asids - 1");
        return;
    }
    add_string(toml, "product", s->product);
    add_string(toml, "api", s->api);
    add_string(toml, "chip_id", s->chip_id);
    add_string(toml, "keys_dir", s->keys);
    add_string(toml, "seed", s->seed);
    add_string(toml, "debug", s->debug);
    if (s->build) {
        g_string_append_printf(toml, "build = %u\n", s->build);
    }
    if (s->report_version) {
        g_string_append_printf(toml, "report_version = %u\n", s->report_version);
    }
    g_string_append_printf(toml, "mask_chip_id = %s\nasids = %u\nsnp_asids = %u\n",
                           s->mask_chip_id ? "true" : "false", s->asids, s->snp_asids);
    add_tcb(toml, "tcb", s->tcb, errp);
    if (!*errp) {
        add_tcb(toml, "committed_tcb", s->committed_tcb, errp);
    }
    if (!*errp) {
        add_faults(toml, s->fault, errp);
    }
    if (*errp) {
        return;
    }
    s->psp = cvmm_psp_new(toml->str, &ops, message, sizeof(message));
    if (!s->psp) {
        error_setg(errp, "amd-psp: %s", message);
        return;
    }
    snp_set_memory_cipher(cvmm_psp_memory);
    snp_set_asids(s->asids, s->snp_asids);
    snp_set_trace(s->trace);
    timer_init_ms(&s->slow, QEMU_CLOCK_VIRTUAL, slow_answer, s);
    pci_config_set_interrupt_pin(pdev->config, 1);
    if (msi_init(pdev, 0, 1, true, false, errp)) {
        return;
    }
    memory_region_init_io(&s->mmio, OBJECT(s), &psp_ops, s, "amd-psp", 1 * MiB);
    pci_register_bar(pdev, 2, PCI_BASE_ADDRESS_SPACE_MEMORY, &s->mmio);
}

static void psp_exit(PCIDevice *pdev)
{
    AmdPspState *s = AMD_PSP(pdev);

    timer_del(&s->slow);
    msi_uninit(pdev);
    cvmm_psp_free(s->psp);
}

static void psp_reset(DeviceState *dev)
{
    AmdPspState *s = AMD_PSP(dev);

    timer_del(&s->slow);
    s->inten = s->intsts = s->cmdresp = s->addr_lo = s->addr_hi = 0;
    cvmm_psp_reset(s->psp);
    snp_rmp_reset();
}

static const Property psp_properties[] = {
    DEFINE_PROP_STRING("product", AmdPspState, product),
    DEFINE_PROP_STRING("api", AmdPspState, api),
    DEFINE_PROP_UINT32("build", AmdPspState, build, 0),
    DEFINE_PROP_UINT32("report-version", AmdPspState, report_version, 0),
    DEFINE_PROP_STRING("tcb", AmdPspState, tcb),
    DEFINE_PROP_STRING("committed-tcb", AmdPspState, committed_tcb),
    DEFINE_PROP_STRING("chip-id", AmdPspState, chip_id),
    DEFINE_PROP_STRING("keys", AmdPspState, keys),
    DEFINE_PROP_STRING("seed", AmdPspState, seed),
    DEFINE_PROP_STRING("debug", AmdPspState, debug),
    DEFINE_PROP_STRING("fault", AmdPspState, fault),
    DEFINE_PROP_BOOL("mask-chip-id", AmdPspState, mask_chip_id, false),
    DEFINE_PROP_UINT32("asids", AmdPspState, asids, 509),
    DEFINE_PROP_UINT32("snp-asids", AmdPspState, snp_asids, 99),
    DEFINE_PROP_UINT32("trace", AmdPspState, trace, 0),
};

static void psp_class_init(ObjectClass *class, void *data)
{
    DeviceClass *dc = DEVICE_CLASS(class);
    PCIDeviceClass *k = PCI_DEVICE_CLASS(class);

    k->realize = psp_realize;
    k->exit = psp_exit;
    k->vendor_id = PCI_VENDOR_ID_AMD;
    k->device_id = 0x14ca;
    k->class_id = 0x1080;       /* encryption controller */
    dc->desc = "AMD Secure Processor with SEV-SNP";
    device_class_set_legacy_reset(dc, psp_reset);
    device_class_set_props(dc, psp_properties);
    set_bit(DEVICE_CATEGORY_MISC, dc->categories);
}

static const TypeInfo psp_info = {
    .name = TYPE_AMD_PSP,
    .parent = TYPE_PCI_DEVICE,
    .instance_size = sizeof(AmdPspState),
    .class_init = psp_class_init,
    .interfaces = (InterfaceInfo[]) {
        { INTERFACE_CONVENTIONAL_PCI_DEVICE },
        { },
    },
};

static void psp_register(void)
{
    type_register_static(&psp_info);
}

type_init(psp_register)
