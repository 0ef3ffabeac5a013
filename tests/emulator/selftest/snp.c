// SPDX-License-Identifier: Apache-2.0
/*
 * SEV-SNP guests of a few instructions by raw ioctls, without firmware: the fast test of the
 * emulated SNP host. Runs in L1 as root; statically linked or not.
 *
 *   snp launch       a guest runs and asks for its termination through the GHCB MSR
 *   snp unvalidated  a guest that reads a page it never validated is stopped
 *   snp twice        the firmware takes no page a second time
 *   snp secret       64 bytes of a plain guest are read through /proc/kcore, of an SNP guest not
 *   snp rmp          the host cannot write the RMP
 *
 * Structures and numbers: Linux 6.12, include/uapi/linux/kvm.h and arch/x86/include/uapi/asm/kvm.h.
 */
#define _GNU_SOURCE
#include <elf.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define TOP 0xfffff000UL /* the page of the reset vector */
#define DATA 0x1000UL
#define LOW_SIZE 0x10000UL

/* Spelled out: the headers of the building machine may be older than 6.8. */
struct region2 {
    uint32_t slot, flags;
    uint64_t gpa, size, uaddr, fd_offset;
    uint32_t fd, pad1;
    uint64_t pad2[14];
};
struct create_memfd { uint64_t size, flags, reserved[6]; };
struct attributes { uint64_t address, size, attributes, flags; };
struct sev_cmd { uint32_t id, pad; uint64_t data; uint32_t error, sev_fd; };
struct sev_init { uint64_t vmsa_features; uint32_t flags; uint16_t ghcb_version, pad1; uint32_t pad2[8]; };
struct launch_start { uint64_t policy; uint8_t gosvw[16]; uint16_t flags; uint8_t pad0[6]; uint64_t pad1[4]; };
struct launch_update { uint64_t gfn, uaddr, len; uint8_t type, pad0; uint16_t flags; uint32_t pad1; uint64_t pad2[4]; };
struct launch_finish {
    uint64_t id_block, id_auth;
    uint8_t id_block_en, auth_key_en, vcek_disabled, host_data[32], pad0[3];
    uint16_t flags;
    uint64_t pad1[4];
};
#define SET_REGION2 _IOW(KVMIO, 0x49, struct region2)
#define CREATE_MEMFD _IOWR(KVMIO, 0xd4, struct create_memfd)
#define SET_ATTRIBUTES _IOW(KVMIO, 0xd2, struct attributes)
#define SNP_VM 4
#define SEV_INIT2 22
#define SNP_START 100
#define SNP_UPDATE 101
#define SNP_FINISH 102
#define PAGE_NORMAL 1
#define EVENT_SEV_TERM 6

static int kvm, sev, vm, vcpu;
static struct kvm_run *run;
static uint8_t *low, *top;

static void die(const char *what)
{
    printf("%s: %s\n", what, strerror(errno));
    exit(1);
}

static void check(int ok, const char *what)
{
    if (!ok) {
        die(what);
    }
}

static uint32_t firmware_error;

static int command(uint32_t id, void *data)
{
    struct sev_cmd c = { .id = id, .data = (uintptr_t)data, .sev_fd = sev };
    int r = ioctl(vm, KVM_MEMORY_ENCRYPT_OP, &c);

    firmware_error = c.error;
    return r;
}

static void add_slot(uint32_t slot, uint64_t gpa, uint64_t size, void *memory)
{
    struct create_memfd m = { .size = size };
    struct region2 r = { .slot = slot, .flags = 4, .gpa = gpa, .size = size, .uaddr = (uintptr_t)memory };
    struct attributes a = { .address = gpa, .size = size, .attributes = 8 };
    int fd = ioctl(vm, CREATE_MEMFD, &m);

    check(fd >= 0, "KVM_CREATE_GUEST_MEMFD");
    r.fd = fd;
    check(!ioctl(vm, SET_REGION2, &r), "KVM_SET_USER_MEMORY_REGION2");
    check(!ioctl(vm, SET_ATTRIBUTES, &a), "KVM_SET_MEMORY_ATTRIBUTES");
}

static void setup(void)
{
    struct sev_init init = { .ghcb_version = 2 };
    struct launch_start start = { .policy = 0x30000 };
    int size;

    kvm = open("/dev/kvm", O_RDWR);
    check(kvm >= 0, "/dev/kvm");
    sev = open("/dev/sev", O_RDWR);
    check(sev >= 0, "/dev/sev");
    vm = ioctl(kvm, KVM_CREATE_VM, SNP_VM);
    check(vm >= 0, "KVM_CREATE_VM of an SNP guest");
    check(!command(SEV_INIT2, &init), "KVM_SEV_INIT2");
    low = mmap(NULL, LOW_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    top = mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(low != MAP_FAILED && top != MAP_FAILED, "mmap");
    add_slot(0, 0, LOW_SIZE, low);
    add_slot(1, TOP, PAGE, top);
    vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
    check(vcpu >= 0, "KVM_CREATE_VCPU");
    size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
    run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    check(run != MAP_FAILED, "mmap of kvm_run");
    check(!command(SNP_START, &start), "SNP_LAUNCH_START");
}

static int update(uint64_t gpa, const void *page)
{
    struct launch_update u = { .gfn = gpa / PAGE, .uaddr = (uintptr_t)page, .len = PAGE, .type = PAGE_NORMAL };
    int r = 0;

    while (u.len && !(r = command(SNP_UPDATE, &u))) {
    }
    return r;
}

/* The page of the reset vector: jumps back by 240 bytes to code. */
static void load_code(const uint8_t *code, size_t len)
{
    static uint8_t page[4096] __attribute__((aligned(4096)));

    memset(page, 0xf4, sizeof(page));
    memcpy(page + 0xf00, code, len);
    memcpy(page + 0xff0, "\xe9\x0d\xff", 3);
    check(!update(TOP, page), "SNP_LAUNCH_UPDATE");
}

static void finish(void)
{
    struct launch_finish f = { 0 };

    check(!command(SNP_FINISH, &f), "SNP_LAUNCH_FINISH");
}

/* WRMSR GHCB, 0x423100 (terminate, reason set 3, reason 0x42); VMGEXIT; HLT */
static const uint8_t terminate[] = {
    0x66, 0xb9, 0x30, 0x01, 0x01, 0xc0, 0x66, 0xb8, 0x00, 0x31, 0x42, 0x00,
    0x66, 0x31, 0xd2, 0x0f, 0x30, 0xf3, 0x0f, 0x01, 0xd9, 0xf4,
};

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

static int launch(void)
{
    double t[4] = { now() };

    setup();
    t[1] = now();
    load_code(terminate, sizeof(terminate));
    finish();
    t[2] = now();
    check(!ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    t[3] = now();
    printf("exit %u type %u data %#llx; setup %.1f ms, launch %.1f ms, run %.1f ms\n",
           run->exit_reason, run->system_event.type, (unsigned long long)run->system_event.data[0],
           1e3 * (t[1] - t[0]), 1e3 * (t[2] - t[1]), 1e3 * (t[3] - t[2]));
    return run->exit_reason != KVM_EXIT_SYSTEM_EVENT || run->system_event.type != EVENT_SEV_TERM ||
           run->system_event.data[0] != 0x423100;
}

static int unvalidated(void)
{
    /* MOV AL,[0x1000] and the termination if that should work */
    uint8_t code[3 + sizeof(terminate)] = { 0xa0, 0x00, 0x10 };

    memcpy(code + 3, terminate, sizeof(terminate));
    setup();
    load_code(code, sizeof(code));
    finish();
    check(!ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
    printf("exit %u (%u is the shutdown)\n", run->exit_reason, KVM_EXIT_SHUTDOWN);
    return run->exit_reason != KVM_EXIT_SHUTDOWN;
}

static int twice(void)
{
    int r;

    setup();
    load_code(terminate, sizeof(terminate));
    r = update(TOP, low);
    printf("second SNP_LAUNCH_UPDATE: %d %s\n", r, r ? strerror(errno) : "");
    return r == 0;
}

/* ---- what the host sees ---- */

/* Reads host memory at a physical address; the kernel's direct map, as a root user has it. */
static void read_physical(uint64_t pa, void *buf, size_t len)
{
    int fd = open("/proc/kcore", O_RDONLY);
    Elf64_Ehdr eh;
    Elf64_Phdr ph;

    check(fd >= 0 && pread(fd, &eh, sizeof(eh), 0) == sizeof(eh), "/proc/kcore");
    for (int i = 0; i < eh.e_phnum; i++) {
        check(pread(fd, &ph, sizeof(ph), eh.e_phoff + i * sizeof(ph)) == sizeof(ph), "/proc/kcore");
        /* Several segments may cover it; the direct map is the one at the lowest address. */
        if (ph.p_type == PT_LOAD && ph.p_paddr != (uint64_t)-1 && ph.p_vaddr < 0xffffc00000000000UL &&
            pa >= ph.p_paddr && pa + len <= ph.p_paddr + ph.p_memsz) {
            check(pread(fd, buf, len, ph.p_offset + (pa - ph.p_paddr)) == (ssize_t)len, "kcore");
            close(fd);
            return;
        }
    }
    printf("physical address %#llx is not in /proc/kcore\n", (unsigned long long)pa);
    exit(1);
}

static uint64_t rdmsr(uint32_t index)
{
    int fd = open("/dev/cpu/0/msr", O_RDONLY);
    uint64_t v;

    check(fd >= 0 && pread(fd, &v, sizeof(v), index) == sizeof(v), "/dev/cpu/0/msr");
    close(fd);
    return v;
}

static volatile uint64_t *map_rmp(uint64_t *entries)
{
    uint64_t base = rdmsr(0xc0010132), end = rdmsr(0xc0010133);
    int fd = open("/dev/mem", O_RDWR);
    uint8_t *p;

    check(fd >= 0, "/dev/mem");
    p = mmap(NULL, end + 1 - base, PROT_READ | PROT_WRITE, MAP_SHARED, fd, base);
    check(p != MAP_FAILED, "mmap of the RMP");
    close(fd);
    *entries = (end + 1 - base - 0x4000) / 16;
    return (volatile uint64_t *)(p + 0x4000);
}

static int secret(void)
{
    static uint8_t page[4096] __attribute__((aligned(4096)));
    volatile uint64_t *rmp;
    uint64_t entries, pfn, found = 0, map;
    uint8_t seen[64];
    int fd, plain, sealed;

    fd = open("/dev/urandom", O_RDONLY);
    check(read(fd, page + 0x200, 64) == 64, "/dev/urandom");
    close(fd);

    /* Control: the page of this process, which is what a plain guest's memory is. */
    fd = open("/proc/self/pagemap", O_RDONLY);
    check(pread(fd, &map, 8, (uintptr_t)page / PAGE * 8) == 8 && (map >> 63), "pagemap");
    close(fd);
    read_physical((map & ((1UL << 55) - 1)) * PAGE + 0x200, seen, 64);
    plain = !memcmp(seen, page + 0x200, 64);

    setup();
    load_code(terminate, sizeof(terminate));
    check(!update(DATA, page), "SNP_LAUNCH_UPDATE");
    finish();
    rmp = map_rmp(&entries);
    for (pfn = 0; pfn < entries; pfn++) {
        uint64_t lo = rmp[2 * pfn];

        /* assigned, validated, an ASID, this GPA */
        if ((lo & 1) && (lo >> 62 & 1) && (lo >> 51 & 0x3ff) && (lo & 0x7fffffffff000UL) == DATA) {
            found = pfn;
        }
    }
    check(found != 0, "no RMP entry of the secret's page");
    read_physical(found * PAGE + 0x200, seen, 64);
    sealed = memcmp(seen, page + 0x200, 64) != 0 && !memmem(seen, 64, page + 0x200, 8);
    printf("secret at %#llx: plain %s, SNP %s\n", (unsigned long long)found * PAGE,
           plain ? "readable" : "HIDDEN", sealed ? "hidden" : "READABLE");
    return !plain || !sealed;
}

static sigjmp_buf out;

static void caught(int signal)
{
    siglongjmp(out, signal);
}

static int rmp_write(void)
{
    uint64_t entries, before;
    volatile uint64_t *rmp = map_rmp(&entries);
    int signal;

    before = rmp[1];
    for (int i = 1; i < 32; i++) {
        if (i == SIGALRM || i == SIGSEGV || i == SIGBUS) {
            struct sigaction a = { .sa_handler = caught };
            sigaction(i, &a, NULL);
        }
    }
    /* The kernel has no answer to such a fault and tries again: so ends it by a signal. */
    alarm(1);
    signal = sigsetjmp(out, 1);
    if (signal == 0) {
        rmp[1] = before + 1;
        printf("the RMP was WRITTEN\n");
        return 1;
    }
    printf("write to the RMP: signal %d, %s\n", signal, rmp[1] == before ? "unchanged" : "CHANGED");
    return rmp[1] != before;
}

int main(int argc, char **argv)
{
    static const struct { const char *name; int (*run)(void); } tests[] = {
        { "launch", launch }, { "unvalidated", unvalidated }, { "twice", twice },
        { "secret", secret }, { "rmp", rmp_write },
    };
    int failed = argc < 2;

    setvbuf(stdout, NULL, _IOLBF, 0);
    for (int a = 1; a < argc; a++) {
        for (size_t i = 0; i < sizeof(tests) / sizeof(*tests); i++) {
            if (!strcmp(argv[a], tests[i].name)) {
                failed |= tests[i].run();
            }
        }
    }
    return failed;
}
