# SPDX-License-Identifier: Apache-2.0
#
# The guest of the SNP cases that need no Linux: the last 4 KiB of a firmware image. The reset vector jumps to its start in
# real mode; it goes to flat 32-bit mode (no paging: as an SNP guest all its memory accesses are private ones, and it can
# reach the host only by the GHCB MSR) and runs the records at the address in RECORDS. A record is four words: operation, a, b, c.
# There is no interrupt table: any exception, #VC too, is a triple fault.

.set BASE, 0xfffff000
.set RECORDS, 0xffffff00
.set GHCB_MSR, 0xc0010130
# GHCB specification 2.3.1: termination request, reason set 3 (ours).
.set TERMINATION, 0x3100

    .section .rodata.snp_payload, "a", @progbits
    .balign 16
    .globl snp_payload_start
snp_payload_start:
    .code16
    cli
    lgdtl %cs:(gdt_register - snp_payload_start + 0xf000)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $(flat - snp_payload_start + BASE)

gdt_register:
    .word 23
    .long gdt - snp_payload_start + BASE
    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff
    .quad 0x00cf93000000ffff

    .code32
flat:
    movw $16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    cld
    movl RECORDS, %ebp
    subl $16, %ebp
next:
    addl $16, %ebp
    movl (%ebp), %ecx
    movl 4(%ebp), %eax
    movl 8(%ebp), %edx
    testl %ecx, %ecx
    jz terminate
    decl %ecx
    jz request
    decl %ecx
    jz touch
    decl %ecx
    jz hold
    decl %ecx
    jz secret
    decl %ecx
    jz again

# 0: end with reason a.
terminate:
    shll $16, %eax
    orl $TERMINATION, %eax
    xorl %edx, %edx
    movl $GHCB_MSR, %ecx
    wrmsr
    rep vmmcall
# 3: wait indefinitely.
hold:
    hlt
    jmp hold

# 1: a page state change request, b:a its MSR value; the upper half of the answer must be zero (granted) if c is.
request:
    movl $GHCB_MSR, %ecx
    wrmsr
    rep vmmcall
    rdmsr
    cmpl $0x15, %eax
    jne wrong
    xorl %eax, %eax
    testl %edx, %edx
    setnz %al
    cmpl 12(%ebp), %eax
    je next
# The reason is the number of the record, from 0x80.
wrong:
    movl %ebp, %eax
    subl RECORDS, %eax
    shrl $4, %eax
    orl $0x80, %eax
    andl $0xff, %eax
    jmp terminate

# 2: read a byte at a.
touch:
    movb (%eax), %al
    jmp next

# 4: write 64 bytes made out of a at b.
secret:
    movl %edx, %edi
    movl $16, %ecx
1:  imull $1664525, %eax, %eax
    addl $1013904223, %eax
    stosl
    loop 1b
    jmp next

# 5: go on with record a.
again:
    shll $4, %eax
    addl RECORDS, %eax
    leal -16(%eax), %ebp
    jmp next

    .globl snp_payload_end
snp_payload_end:
    .text
