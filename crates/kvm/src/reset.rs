// SPDX-License-Identifier: Apache-2.0
//! The architectural reset state of a vCPU (AMD APM volume 2, table 14-1).
//!
//! KVM has reset values of its own, but they are not those that QEMU sets and that every published SEV-SNP
//! digest is computed from (segment types, RDX). The state is therefore written in full, with or without SNP.

use cvmm_launch::plan::VcpuStart;
use cvmm_launch::vmsa::stage_registers as stage;
use cvmm_snp::vmsa::{Segment, Vmsa};
use kvm_bindings::{kvm_dtable, kvm_regs, kvm_segment, kvm_sregs};

/// Segment types as in descriptor bits 43:40.
mod kind {
    pub const DATA_RW_ACCESSED: u8 = 0x3;
    pub const CODE_RX_ACCESSED: u8 = 0xb;
    pub const LDT: u8 = 0x2;
    pub const TSS_BUSY: u8 = 0xb;
}

/// CR0 at reset: CD, NW and ET.
const CR0_RESET: u64 = 0x6000_0010;
const RFLAGS_RESET: u64 = 2;
/// What KVM adds to an SNP guest's EFER and CR4.
const EFER_SVME: u64 = 0x1000;
const CR4_MCE: u64 = 0x40;

/// Writes the state of `start` over `sregs` (as read from the vCPU: APIC base and the like stay).
pub fn special_registers(sregs: &mut kvm_sregs, start: &VcpuStart) {
    match start {
        VcpuStart::Reset { eip } => reset_state(sregs, *eip),
        VcpuStart::FirstStage { place } => first_stage(sregs, u64::from(*place)),
        VcpuStart::Registers(registers) => given_state(sregs, registers.given()),
    }
}

/// 64-bit mode with the stage's page tables; flat segments without a table that they came from.
fn first_stage(sregs: &mut kvm_sregs, place: u64) {
    reset_state(sregs, 0);
    let flat = |selector, kind| kvm_segment { limit: 0xffff_ffff, g: 1, ..segment(selector, 0, kind, true) };
    let data = kvm_segment { db: 1, ..flat(0x10, kind::DATA_RW_ACCESSED) };
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    sregs.cs = kvm_segment { l: 1, ..flat(0x8, kind::CODE_RX_ACCESSED) };
    (sregs.cr0, sregs.cr3, sregs.cr4, sregs.efer) = (stage::CR0, stage::cr3(place), stage::CR4, stage::EFER);
}

/// What an IGVM file gives. EFER.SVME and CR4.MCE, which KVM adds, are in the file too.
fn given_state(sregs: &mut kvm_sregs, vmsa: &Vmsa) {
    let table = |table: &Segment| {
        // `StartRegisters` has checked that the limit has 16 bits.
        kvm_dtable { base: table.base.get(), limit: table.limit.get() as u16, ..Default::default() }
    };
    (sregs.es, sregs.cs, sregs.ss) = (given(&vmsa.es), given(&vmsa.cs), given(&vmsa.ss));
    (sregs.ds, sregs.fs, sregs.gs) = (given(&vmsa.ds), given(&vmsa.fs), given(&vmsa.gs));
    (sregs.ldt, sregs.tr) = (given(&vmsa.ldtr), given(&vmsa.tr));
    (sregs.gdt, sregs.idt) = (table(&vmsa.gdtr), table(&vmsa.idtr));
    (sregs.cr0, sregs.cr2, sregs.cr3) = (vmsa.cr0.get(), 0, vmsa.cr3.get());
    (sregs.cr4, sregs.cr8) = (vmsa.cr4.get() & !CR4_MCE, 0);
    sregs.efer = vmsa.efer.get() & !EFER_SVME;
}

/// KVM makes the same attributes of these fields again.
fn given(segment: &Segment) -> kvm_segment {
    let attrib = segment.attrib.get();
    let bit = |at: u16| u8::from(attrib >> at & 1 != 0);
    kvm_segment {
        base: segment.base.get(),
        limit: segment.limit.get(),
        selector: segment.selector.get(),
        type_: (attrib & 0xf) as u8,
        present: bit(7),
        dpl: (attrib >> 5 & 3) as u8,
        db: bit(10),
        s: bit(4),
        l: bit(9),
        g: bit(11),
        avl: bit(8),
        unusable: 1 - bit(7),
        padding: 0,
    }
}

/// The low 16 bits of `eip` are IP, the rest the base of CS.
fn reset_state(sregs: &mut kvm_sregs, eip: u32) {
    let data = segment(0, 0, kind::DATA_RW_ACCESSED, true);
    (sregs.ds, sregs.es, sregs.fs, sregs.gs, sregs.ss) = (data, data, data, data, data);
    // The selector of CS:IP that yields 0xfffffff0 is f000, whatever the base.
    sregs.cs = segment(0xf000, u64::from(eip & 0xffff_0000), kind::CODE_RX_ACCESSED, true);
    sregs.ldt = segment(0, 0, kind::LDT, false);
    sregs.tr = segment(0, 0, kind::TSS_BUSY, false);
    (sregs.gdt.base, sregs.gdt.limit) = (0, 0xffff);
    (sregs.idt.base, sregs.idt.limit) = (0, 0xffff);
    (sregs.cr0, sregs.cr2, sregs.cr3, sregs.cr4, sregs.cr8, sregs.efer) = (CR0_RESET, 0, 0, 0, 0, 0);
}

/// General registers of `start`; `signature` is CPUID.1:EAX.
pub fn general_registers(start: &VcpuStart, signature: u32) -> kvm_regs {
    let (rip, rsp) = match start {
        VcpuStart::Reset { eip } => (u64::from(eip & 0xffff), 0),
        VcpuStart::FirstStage { place } => (stage::rip(u64::from(*place)), stage::rsp(u64::from(*place))),
        VcpuStart::Registers(registers) => return given_registers(registers.given()),
    };
    kvm_regs { rip, rsp, rdx: u64::from(signature), rflags: RFLAGS_RESET, ..Default::default() }
}

fn given_registers(vmsa: &Vmsa) -> kvm_regs {
    kvm_regs {
        rax: vmsa.rax.get(),
        rbx: vmsa.rbx.get(),
        rcx: vmsa.rcx.get(),
        rdx: vmsa.rdx.get(),
        rsi: vmsa.rsi.get(),
        rdi: vmsa.rdi.get(),
        rsp: vmsa.rsp.get(),
        rbp: vmsa.rbp.get(),
        r8: vmsa.r8.get(),
        r9: vmsa.r9.get(),
        r10: vmsa.r10.get(),
        r11: vmsa.r11.get(),
        r12: vmsa.r12.get(),
        r13: vmsa.r13.get(),
        r14: vmsa.r14.get(),
        r15: vmsa.r15.get(),
        rip: vmsa.rip.get(),
        rflags: vmsa.rflags.get(),
    }
}

fn segment(selector: u16, base: u64, kind: u8, code_or_data: bool) -> kvm_segment {
    kvm_segment {
        selector,
        base,
        limit: 0xffff,
        type_: kind,
        s: u8::from(code_or_data),
        present: 1,
        ..Default::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn starts_sixteen_bytes_below_four_gib() {
        let mut sregs = kvm_sregs { apic_base: 0xfee0_0900, cr3: 7, ..Default::default() };
        let start = VcpuStart::Reset { eip: 0xffff_fff0 };
        special_registers(&mut sregs, &start);
        let regs = general_registers(&start, 0xa0_0f11);
        assert_eq!(sregs.cs.base + regs.rip, 0xffff_fff0);
        assert_eq!((sregs.cs.selector, sregs.cs.type_, sregs.tr.type_, sregs.tr.s), (0xf000, 0xb, 0xb, 0));
        assert_eq!((sregs.apic_base, sregs.cr3), (0xfee0_0900, 0));
        assert_eq!((regs.rdx, regs.rflags), (0xa0_0f11, 2));
    }
}
