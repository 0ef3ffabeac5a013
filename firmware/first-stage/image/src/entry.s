/* SPDX-License-Identifier: Apache-2.0 */
/* Entry, exception entry, and the way back to the state of a reset. AT&T syntax. */

    .section .text.entry, "ax"
    .global stage_entry
    .code64
stage_entry:
    lgdt gdt_pointer(%rip)
    /* Load selectors from the new table. */
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    pushq $0x08
    lea 1f(%rip), %rax
    pushq %rax
    lretq
1:  fninit
    xor %ebp, %ebp
    call stage_main
    ud2

/* Exceptions. Only #VC (29) is ever served; all others end the guest. The stubs leave an error code and the vector. */
    .macro stub vector, code
    .balign 16
stub_\vector:
    .if \code == 0
    pushq $0
    .endif
    pushq $\vector
    jmp exception
    .endm

    .text
    .global stubs
    .balign 16
stubs:
    .altmacro
    .macro one vector
    .if (\vector == 8) || (\vector == 10) || (\vector == 11) || (\vector == 12) || (\vector == 13) || (\vector == 14) || (\vector == 17) || (\vector == 21) || (\vector == 29) || (\vector == 30)
    stub \vector, 1
    .else
    stub \vector, 0
    .endif
    .endm
    .set i, 0
    .rept 32
    one %i
    .set i, i + 1
    .endr
    .noaltmacro

exception:
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rbp
    push %rdi
    push %rsi
    push %rdx
    push %rcx
    push %rbx
    push %rax
    mov %rsp, %rdi
    /* Rust code uses SSE registers, and so may the interrupted code. */
    mov %rsp, %rbp
    sub $512, %rsp
    and $-64, %rsp
    fxsave64 (%rsp)
    cld
    call stage_exception
    fxrstor64 (%rsp)
    mov %rbp, %rsp
    pop %rax
    pop %rbx
    pop %rcx
    pop %rdx
    pop %rsi
    pop %rdi
    pop %rbp
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $16, %rsp
    iretq

    .section .rodata
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    /* An address, which moves with the program: not in read-only data. */
    .data
    .balign 16
gdt_pointer:
    .word 23
    .quad gdt

/*
 * The way out, in a page of the top 64 KiB. Entered in 64-bit mode with EDX = CPUID.1.EAX (the reset value of EDX),
 * RDI = first byte and RCX = bytes to be wiped: stage with stack, data, parameters and page tables.
 */
    .section .exit, "ax"
    .global stage_exit
    .balign 16
stage_exit:
    .code64
    cli
    cld
    mov %edi, %ebx
    mov %ecx, %esi
    mov %edx, %ebp
    /* Clear the vector and floating point registers. */
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    pxor %xmm\n, %xmm\n
    .endr
    fninit
    ldmxcsr exit_mxcsr(%rip)
    /* The firmware chooses its own GHCB. */
    mov $0xc0010130, %ecx
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
    xor %r8d, %r8d
    xor %r9d, %r9d
    xor %r10d, %r10d
    xor %r11d, %r11d
    xor %r12d, %r12d
    xor %r13d, %r13d
    xor %r14d, %r14d
    xor %r15d, %r15d
    lgdt exit_gdt_pointer(%rip)
    /* No stack from here on: it is about to be wiped. A far jump through memory enters compatibility mode. */
    mov $0x10, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    ljmpl *exit_32(%rip)

    .code32
exit_protected:
    mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    mov $0xc0000080, %ecx
    rdmsr
    and $0xfffffeff, %eax
    wrmsr
    xor %eax, %eax
    mov %eax, %cr3
    /* Without paging all of memory is private. */
    mov %ebx, %edi
    mov %esi, %ecx
    mov $0xff, %al
    rep stosb
    mov %cr4, %eax
    /* PAE, OSFXSR, OSXMMEXCPT */
    and $0xfffff9df, %eax
    mov %eax, %cr4
    lidt exit_idt_pointer - exit_base + 0xffff8000
    mov $0x20, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    ljmp $0x28, $(exit_real - exit_base + 0x8000)

    .code16
exit_real:
    mov %cr0, %eax
    and $0xfffffffc, %eax
    mov %eax, %cr0
    /* The base of CS keeps the value of its descriptor: ffff0000h, as after a reset. */
    lgdtl %cs:(exit_idt_pointer - exit_base + 0x8000)
    /* Leaves the flags of a reset; what follows changes none. */
    mov $1, %al
    or %al, %al
    mov $0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %fs
    mov %eax, %gs
    mov %eax, %ss
    mov %ebp, %edx
    mov $0, %ebx
    mov $0, %ecx
    mov $0, %esi
    mov $0, %edi
    mov $0, %ebp
    mov $0, %esp
    /* jmp to IP fff0h */
    .byte 0xe9
    .word 0xfff0 - (exit_here - exit_base + 0x8000)
exit_here:

    .balign 8
exit_32:
    .long exit_protected - exit_base + 0xffff8000
    .word 0x18
    .balign 8
exit_mxcsr:
    .long 0x1f80
    .balign 8
exit_gdt:
    .quad 0
    .quad 0x00af9b000000ffff
    .quad 0x00cf93000000ffff
    .quad 0x00cf9b000000ffff
    .quad 0x000093000000ffff
    .quad 0xff009bff0000ffff
exit_gdt_pointer:
    .word exit_gdt_pointer - exit_gdt - 1
    .quad exit_gdt - exit_base + 0xffff8000
    .balign 8
exit_idt_pointer:
    .word 0xffff
    .quad 0
    .set exit_base, stage_exit
