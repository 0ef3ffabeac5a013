// SPDX-License-Identifier: Apache-2.0
// Runs in L1: is nested virtualisation there, and does QEMU survive what stock 10.0 does not?
//
//   nested run     a real-mode guest of four instructions
//   nested cr8 N   a 64-bit guest that writes CR8 N times while an interrupt is pending and
//                  IF is 0: V_IRQ set, CR8 not intercepted. Stock QEMU 10.0 aborts there
//                  (tcg_handle_interrupt: bql_locked()); patches/01 is the fix.
//
// Prints one line and exits 0, or says which call failed and exits 1.
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

enum { RAM = 1 << 20, CODE = 0x8000, PML4 = 0x1000, PDPT = 0x2000, PORT = 0x10 };

static int vm, vcpu;
static uint8_t *ram;
static struct kvm_run *run;

static int check(int result, const char *what)
{
    if (result < 0) {
        perror(what);
        exit(1);
    }
    return result;
}

static void create(int with_irqchip)
{
    int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    vm = check(ioctl(kvm, KVM_CREATE_VM, 0), "KVM_CREATE_VM");
    if (with_irqchip) {
        check(ioctl(vm, KVM_CREATE_IRQCHIP, 0), "KVM_CREATE_IRQCHIP");
    }
    ram = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    check(ram == MAP_FAILED ? -1 : 0, "mmap of guest memory");
    struct kvm_userspace_memory_region region = {
        .memory_size = RAM, .userspace_addr = (uintptr_t)ram };
    check(ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region), "KVM_SET_USER_MEMORY_REGION");
    vcpu = check(ioctl(vm, KVM_CREATE_VCPU, 0), "KVM_CREATE_VCPU");
    int size = check(ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0), "KVM_GET_VCPU_MMAP_SIZE");
    run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    check(run == MAP_FAILED ? -1 : 0, "mmap of kvm_run");
}

// Runs until the guest writes to PORT; returns the byte.
static int run_to_port(void)
{
    for (;;) {
        check(ioctl(vcpu, KVM_RUN, 0), "KVM_RUN");
        if (run->exit_reason == KVM_EXIT_IO && run->io.port == PORT) {
            return *((uint8_t *)run + run->io.data_offset);
        }
        if (run->exit_reason != KVM_EXIT_INTR) {
            fprintf(stderr, "guest ended with exit reason %u instead of its answer\n",
                    run->exit_reason);
            exit(1);
        }
    }
}

static void test_run(void)
{
    // mov al, 40; add al, 2; out PORT, al; hlt
    static const uint8_t code[] = { 0xb0, 40, 0x04, 2, 0xe6, PORT, 0xf4 };
    create(0);
    memcpy(ram + CODE, code, sizeof code);
    struct kvm_sregs sregs;
    check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    sregs.cs.base = sregs.cs.selector = 0;
    check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = { .rip = CODE, .rflags = 2 };
    check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");
    int answer = run_to_port();
    if (answer != 42) {
        fprintf(stderr, "the guest computed %d instead of 42\n", answer);
        exit(1);
    }
    puts("nested guest: 40 + 2 = 42");
}

static void test_cr8(uint32_t times)
{
    // loop: mov cr8, rax; xor al, 1; dec ecx; jnz loop; mov al, 42; out PORT, al; hlt
    static const uint8_t code[] = { 0x44, 0x0f, 0x22, 0xc0, 0x34, 1, 0xff, 0xc9, 0x75, 0xf6,
                                    0xb0, 42, 0xe6, PORT, 0xf4 };
    create(1);
    memcpy(ram + CODE, code, sizeof code);
    uint64_t entry = PDPT | 3;
    memcpy(ram + PML4, &entry, sizeof entry);
    entry = 0x83; // 1 GiB page at 0
    memcpy(ram + PDPT, &entry, sizeof entry);

    // 1 GiB pages and long mode have to be in the guest's CPUID.
    struct { struct kvm_cpuid2 head; struct kvm_cpuid_entry2 entries[128]; } cpuid = { .head.nent = 128 };
    int kvm = check(open("/dev/kvm", O_RDWR | O_CLOEXEC), "open /dev/kvm");
    check(ioctl(kvm, KVM_GET_SUPPORTED_CPUID, &cpuid), "KVM_GET_SUPPORTED_CPUID");
    check(ioctl(vcpu, KVM_SET_CPUID2, &cpuid), "KVM_SET_CPUID2");

    struct kvm_sregs sregs;
    check(ioctl(vcpu, KVM_GET_SREGS, &sregs), "KVM_GET_SREGS");
    struct kvm_segment cs = { .limit = ~0u, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1 };
    struct kvm_segment ds = { .limit = ~0u, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1 };
    sregs.cs = cs;
    sregs.ds = sregs.es = sregs.ss = ds;
    sregs.cr3 = PML4;
    sregs.cr4 |= 0x20;       // PAE
    sregs.cr0 |= 0x80000001; // PG, PE
    sregs.efer |= 0x500;     // LME, LMA
    check(ioctl(vcpu, KVM_SET_SREGS, &sregs), "KVM_SET_SREGS");
    struct kvm_regs regs = { .rip = CODE, .rflags = 2, .rcx = times };
    check(ioctl(vcpu, KVM_SET_REGS, &regs), "KVM_SET_REGS");

    struct kvm_lapic_state lapic;
    check(ioctl(vcpu, KVM_GET_LAPIC, &lapic), "KVM_GET_LAPIC");
    uint32_t spurious = 0x1ff; // enabled
    memcpy(lapic.regs + 0xf0, &spurious, sizeof spurious);
    check(ioctl(vcpu, KVM_SET_LAPIC, &lapic), "KVM_SET_LAPIC");
    // Vector 0x41 is above every priority that the guest writes (0 and 1), so it stays pending.
    struct kvm_msi msi = { .address_lo = 0xfee00000, .data = 0x41 };
    if (check(ioctl(vm, KVM_SIGNAL_MSI, &msi), "KVM_SIGNAL_MSI") == 0) {
        fputs("the local APIC did not take the interrupt\n", stderr);
        exit(1);
    }
    if (run_to_port() != 42) {
        fputs("the guest's answer is wrong\n", stderr);
        exit(1);
    }
    // Else the guest wrote CR8 without a pending interrupt and nothing was tested.
    check(ioctl(vcpu, KVM_GET_LAPIC, &lapic), "KVM_GET_LAPIC");
    uint32_t requested;
    memcpy(&requested, lapic.regs + 0x200 + 0x10 * (0x41 / 32), sizeof requested);
    if (!(requested >> (0x41 % 32) & 1)) {
        fputs("the interrupt was not pending any more\n", stderr);
        exit(1);
    }
    printf("%u CR8 writes with a pending interrupt\n", times);
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "run") == 0) {
        test_run();
    } else if (argc == 3 && strcmp(argv[1], "cr8") == 0) {
        test_cr8((uint32_t)atoi(argv[2]));
    } else {
        fputs("usage: nested run | cr8 N\n", stderr);
        return 2;
    }
    return 0;
}
