# SPDX-License-Identifier: Apache-2.0
#
# The guest of the payload tests: a script interpreter of a few hundred bytes for a machine without firmware.
#
# It lies in the last 64 KiB of the firmware image, so everything is addressed from 0xffff0000. The reset vector jumps to
# `guest_start` in real mode; from there it goes to flat 32-bit mode without paging or interrupts and runs the records at
# the address in PARAMETERS. A record is four words: operation, a, b, c. `acc` is the last value read.
#
# RAM: 0x600 acc, 0x604 random state, 0x608 rounds left, 0x60c and 0x610 what the hammer hits, stack below 0x7000, AP code at 0x8000, AP flags at 0x9000. The rest is the script's.

.set BASE, 0xffff0000
.set PARAMETERS, 0xffffff00
.set ACC, 0x600
.set RANDOM, 0x604
.set ROUNDS, 0x608
.set HAMMER_AT, 0x60c
.set HAMMER_LEN, 0x610
.set STACK, 0x7000
.set AP_CODE, 0x8000
.set AP_COUNT, 0x8ff0
.set AP_FLAGS, 0x9000
.set APIC, 0xfee00000
.set IOAPIC, 0xfec00000
.set BUTTON_VECTOR, 0x40
.set SERIAL, 0x3f8

    .section .rodata.guest, "a", @progbits
    .balign 16
    .globl guest_start
guest_start:
    .code16
    cli
    lgdtl %cs:(gdt_register - guest_start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $(flat - guest_start + BASE)

gdt_register:
    .word 23
    .long gdt - guest_start + BASE
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
    movl $STACK, %esp
    cld
    movl PARAMETERS, %ebp
    subl $16, %ebp

next:
    addl $16, %ebp
    movl (%ebp), %eax
    cmpl $((operations_end - operations) / 4), %eax
    jae op_off
    movl (operations - guest_start + BASE)(,%eax,4), %eax
    # For most operations: a is an address or port, b a value.
    movl 4(%ebp), %edx
    movl %edx, %edi
    movl 8(%ebp), %ebx
    jmp *%eax

    .macro OPERATION label
    .long \label - guest_start + BASE
    .endm
# The order is that of `enum Operation` in script.rs.
    .balign 4
operations:
    OPERATION op_off
    OPERATION op_out8
    OPERATION op_out16
    OPERATION op_out32
    OPERATION op_in8
    OPERATION op_in16
    OPERATION op_in32
    OPERATION op_write8
    OPERATION op_write16
    OPERATION op_write32
    OPERATION op_read8
    OPERATION op_read16
    OPERATION op_read32
    OPERATION op_print
    OPERATION op_text
    OPERATION op_wait8
    OPERATION op_wait32
    OPERATION op_halt
    OPERATION op_spin
    OPERATION op_triple_fault
    OPERATION op_echo
    OPERATION op_processors
    OPERATION op_sweep_ports
    OPERATION op_sweep_memory
    OPERATION op_fuzz_pci
    OPERATION op_button
    OPERATION op_delay
    OPERATION op_copy
    OPERATION op_flood
    OPERATION op_hammer
operations_end:

# Power off; what runs when the script is over.
op_off:
    movw $0x604, %dx
    movw $0x2000, %ax
    outw %ax, %dx
op_halt:
    cli
    hlt
    jmp op_halt

op_out8:
    movl %ebx, %eax
    outb %al, %dx
    jmp next
op_out16:
    movl %ebx, %eax
    outw %ax, %dx
    jmp next
op_out32:
    movl %ebx, %eax
    outl %eax, %dx
    jmp next
op_in8:
    xorl %eax, %eax
    inb %dx, %al
    jmp keep
op_in16:
    xorl %eax, %eax
    inw %dx, %ax
    jmp keep
op_in32:
    inl %dx, %eax
    jmp keep
op_write8:
    movb %bl, (%edi)
    jmp next
op_write16:
    movw %bx, (%edi)
    jmp next
op_write32:
    movl %ebx, (%edi)
    jmp next
op_read8:
    xorl %eax, %eax
    movb (%edi), %al
    jmp keep
op_read16:
    xorl %eax, %eax
    movw (%edi), %ax
    jmp keep
op_read32:
    movl (%edi), %eax
keep:
    movl %eax, ACC
    jmp next

# Print acc as eight hexadecimal digits and a newline.
op_print:
    movl ACC, %eax
    call print_hex
    jmp next

print_hex:
    movl %eax, %ebx
    movl $8, %ecx
    movw $SERIAL, %dx
1:  roll $4, %ebx
    movb %bl, %al
    andb $15, %al
    addb $0x30, %al
    cmpb $0x3a, %al
    jb 2f
    addb $0x27, %al
2:  outb %al, %dx
    decl %ecx
    jnz 1b
    movb $0x0a, %al
    outb %al, %dx
    ret

# Print b bytes at a, one exit each.
op_text:
    movl %edi, %esi
    movw $SERIAL, %dx
1:  testl %ebx, %ebx
    jz next
    movb (%esi), %al
    outb %al, %dx
    incl %esi
    decl %ebx
    jmp 1b

# Print b bytes at a by string instructions, c times.
op_flood:
    movl 12(%ebp), %eax
    movw $SERIAL, %dx
1:  movl 4(%ebp), %esi
    movl %ebx, %ecx
    rep outsb
    decl %eax
    jnz 1b
    jmp next

# Wait until the byte or word at a, masked with b, is c; give up after a while. acc is the last value.
op_wait8:
    movl $100000, %ecx
1:  xorl %eax, %eax
    movb (%edi), %al
    movl %eax, ACC
    andl %ebx, %eax
    cmpl 12(%ebp), %eax
    je next
    decl %ecx
    jnz 1b
    jmp next
op_wait32:
    movl $300000, %ecx
1:  movl (%edi), %eax
    movl %eax, ACC
    andl %ebx, %eax
    cmpl 12(%ebp), %eax
    je next
    decl %ecx
    jnz 1b
    jmp next

op_spin:
    jmp op_spin

op_triple_fault:
    lidtl empty - guest_start + BASE
    # A selector past the descriptor table is a fault that also a KVM that emulates all instructions knows.
    movw $0x100, %ax
    movw %ax, %ds
    jmp op_halt
    .balign 4
empty:
    .long 0, 0

# Read a bytes from the serial port and send each back.
op_echo:
    movl 4(%ebp), %ecx
1:  testl %ecx, %ecx
    jz next
2:  movw $(SERIAL + 5), %dx
    inb %dx, %al
    testb $1, %al
    jz 2b
    movw $SERIAL, %dx
    inb %dx, %al
    outb %al, %dx
    decl %ecx
    jmp 1b

# Start all other processors, wait until a of them (this one included) are there, print their APIC ids.
op_processors:
    movl $(ap_start - guest_start + BASE), %esi
    movl $AP_CODE, %edi
    movl $(ap_end - ap_start), %ecx
    rep movsb
    movl $1, AP_COUNT
    movb $1, AP_FLAGS
    movl $0xc4500, APIC + 0x300
    movl $0xc4600 | (AP_CODE >> 12), APIC + 0x300
    movl 4(%ebp), %edx
    movl $2000000, %ecx
1:  cmpl %edx, AP_COUNT
    je 2f
    decl %ecx
    jnz 1b
2:  xorl %esi, %esi
3:  cmpb $1, AP_FLAGS(%esi)
    jne 4f
    movl %esi, %eax
    call print_hex
4:  incl %esi
    cmpl $256, %esi
    jb 3b
    jmp next

    .code16
ap_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movl $1, %eax
    cpuid
    shrl $24, %ebx
    movb $1, AP_FLAGS(%bx)
    lock incl AP_COUNT
1:  hlt
    jmp 1b
ap_end:
    .code32

# Write b to every port and read it, with a bytes, but for the writes that power off or reset.
op_sweep_ports:
    movl 4(%ebp), %ecx
    xorl %edx, %edx
1:  movl %ebx, %eax
    cmpl $2, %ecx
    ja sweep32
    je sweep16
    cmpl $0x605, %edx
    je 2f
    cmpl $0xcf9, %edx
    je 2f
    outb %al, %dx
2:  inb %dx, %al
    jmp 3f
sweep16:
    cmpl $0x604, %edx
    je 2f
    outw %ax, %dx
2:  inw %dx, %ax
    jmp 3f
sweep32:
    outl %eax, %dx
    inl %dx, %eax
3:  incl %edx
    cmpl $0x10000, %edx
    jb 1b
    jmp next

# Read and write around c addresses from a, b bytes apart, in all widths, aligned and not.
op_sweep_memory:
    movl 12(%ebp), %ecx
1:  movl (%edi), %eax
    movw 2(%edi), %ax
    movb 3(%edi), %al
    movl 1(%edi), %eax
    movl $-1, %eax
    movl %eax, (%edi)
    movw %ax, 1(%edi)
    movb %al, 3(%edi)
    addl %ebx, %edi
    decl %ecx
    jnz 1b
    jmp next

random:
    movl RANDOM, %eax
    movl %eax, %edx
    shll $13, %edx
    xorl %edx, %eax
    movl %eax, %edx
    shrl $17, %edx
    xorl %edx, %eax
    movl %eax, %edx
    shll $5, %edx
    xorl %edx, %eax
    movl %eax, RANDOM
    ret

# a random configuration accesses from seed b; every fourth or so moves a BAR to one of the eight addresses at c and
# touches what is there.
op_fuzz_pci:
    movl %ebx, RANDOM
    movl %edx, ROUNDS
fuzz_round:
    call random
    movl %eax, %ebx
    # Device 0 to 6 function 0, sometimes anything.
    movl %ebx, %ecx
    andl $7, %ecx
    shll $11, %ecx
    cmpl $0x3800, %ecx
    jne 1f
    movl %ebx, %ecx
    andl $0xff00, %ecx
1:  orl $0x80000000, %ecx
    testl $0x300000, %ebx
    jz move_bar
    movl %ebx, %eax
    shrl $8, %eax
    andl $0xfc, %eax
    orl %ecx, %eax
    movw $0xcf8, %dx
    outl %eax, %dx
    call random
    movl %ebx, %edx
    shrl $28, %edx
    andl $3, %edx
    addl $0xcfc, %edx
    testl $0x04000000, %ebx
    jz 2f
    testl $0x08000000, %ebx
    jz 3f
    outl %eax, %dx
    inl %dx, %eax
    jmp fuzz_next
2:  outb %al, %dx
    inb %dx, %al
    jmp fuzz_next
3:  outw %ax, %dx
    inw %dx, %ax
fuzz_next:
    decl ROUNDS
    jnz fuzz_round
    jmp next
move_bar:
    movl 12(%ebp), %esi
    movl %ebx, %eax
    shrl $24, %eax
    andl $7, %eax
    movl (%esi,%eax,4), %esi
    leal 0x10(%ecx), %eax
    movw $0xcf8, %dx
    outl %eax, %dx
    movl %esi, %eax
    movw $0xcfc, %dx
    outl %eax, %dx
    leal 0x14(%ecx), %eax
    movw $0xcf8, %dx
    outl %eax, %dx
    xorl %eax, %eax
    testl $0x80000000, %ebx
    jz 1f
    movl %ebx, %eax
1:  movw $0xcfc, %dx
    outl %eax, %dx
    leal 0x04(%ecx), %eax
    movw $0xcf8, %dx
    outl %eax, %dx
    movl $6, %eax
    movw $0xcfc, %dx
    outw %ax, %dx
    # Only the PCI window and ECAM are touched: elsewhere are this program, RAM and the APICs.
    cmpl $0x80000000, %esi
    jb fuzz_next
    cmpl $0xef000000, %esi
    jae fuzz_next
    call random
    movl %eax, %edi
    andl $0x7fff, %edi
    addl %esi, %edi
    movl %eax, (%edi)
    movw %ax, 1(%edi)
    movb (%edi), %al
    movl (%edi), %eax
    jmp fuzz_next

# Wait for the interrupt of the power button: I/O APIC pin a as an edge, seen in the local APIC's request register.
op_button:
    movl $0x1ff, APIC + 0xf0
    leal 0x11(%edx,%edx), %eax
    movl %eax, IOAPIC
    movl $0, IOAPIC + 0x10
    leal 0x10(%edx,%edx), %eax
    movl %eax, IOAPIC
    movl $BUTTON_VECTOR, IOAPIC + 0x10
1:  testl $1, APIC + 0x200 + (BUTTON_VECTOR / 32) * 0x10
    jz 1b
    jmp next

op_delay:
    decl %edi
    jnz op_delay
    jmp next

# Start the other processors and let them write to the b bytes at a for ever; go on when the first of them runs.
op_hammer:
    movl %edi, HAMMER_AT
    movl %ebx, HAMMER_LEN
    movl $(hammer_start - guest_start + BASE), %esi
    movl $AP_CODE, %edi
    movl $(hammer_end - hammer_start), %ecx
    rep movsb
    movl $1, AP_COUNT
    movl $0xc4500, APIC + 0x300
    movl $0xc4600 | (AP_CODE >> 12), APIC + 0x300
    movl $2000000, %ecx
1:  cmpl $1, AP_COUNT
    jne next
    decl %ecx
    jnz 1b
    jmp next

    .code16
hammer_start:
    cli
    lgdtl %cs:(hammer_gdt - hammer_start)
    movl %cr0, %eax
    orb $1, %al
    movl %eax, %cr0
    ljmpl $8, $(hammer - guest_start + BASE)
hammer_gdt:
    .word 23
    .long gdt - guest_start + BASE
hammer_end:
    .code32
hammer:
    movw $16, %ax
    movw %ax, %ds
    lock incl AP_COUNT
    xorl %eax, %eax
1:  movl HAMMER_AT, %edi
    movl HAMMER_LEN, %ecx
2:  movb %al, (%edi)
    incl %eax
    incl %edi
    decl %ecx
    jnz 2b
    jmp 1b

# Copy c bytes from b to a.
op_copy:
    movl %ebx, %esi
    movl 12(%ebp), %ecx
    rep movsb
    jmp next

    .globl guest_end
guest_end:
    .byte 0
