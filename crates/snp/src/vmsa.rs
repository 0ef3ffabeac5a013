// SPDX-License-Identifier: Apache-2.0
//! The VMSA: state of a vCPU that the processor keeps encrypted.
//!
//! At launch each vCPU's VMSA is measured as one page, so every field counts. [`Vmsa::fields`] gives them by
//! name, for listings and for describing how two VMSAs differ. Source: APM volume 2, table B-4, "VMSA Layout,
//! State Save Area for SEV-ES"; names as in Linux arch/x86/include/asm/svm.h, `sev_es_save_area`.

#![expect(
    missing_debug_implementations,
    reason = "zerocopy derives a helper type per field; inside a macro the lint takes them for ours"
)]

use std::fmt;

use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::PAGE_SIZE;
use crate::layout::layout;

/// A segment register.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Segment {
    /// Selector.
    pub selector: U16,
    /// Type, S, DPL, P in bits 7:0; AVL, L, D, G in bits 11:8.
    pub attrib: U16,
    /// Limit.
    pub limit: U32,
    /// Base.
    pub base: U64,
}

layout!(Segment, 16, { selector: 0, attrib: 2, limit: 4, base: 8 });

impl Segment {
    /// A segment with these values.
    pub fn new(selector: u16, attrib: u16, limit: u32, base: u64) -> Self {
        Self {
            selector: U16::new(selector),
            attrib: U16::new(attrib),
            limit: U32::new(limit),
            base: U64::new(base),
        }
    }
}

/// How a field is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shape {
    /// Selector, attributes, limit and base.
    Segment,
    /// Little-endian number, or bytes if longer than eight.
    Plain,
}

/// Defines the structure, asserts its offsets and lists its fields.
macro_rules! vmsa {
    ($($(#[$doc:meta])* $offset:literal $name:ident: $type:ty, $shape:ident;)*) => {
        /// The page: the save area and zeros.
        #[derive(Clone, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
        #[repr(C)]
        pub struct Vmsa {
            $($(#[$doc])* pub $name: $type,)*
        }

        layout!(Vmsa, PAGE_SIZE, { $($name: $offset),* });

        const FIELDS: &[(&str, usize, usize, Shape)] =
            &[$((stringify!($name), $offset, size_of::<$type>(), Shape::$shape)),*];
    };
}

vmsa! {
    /// Segment register.
    0x000 es: Segment, Segment;
    /// Segment register.
    0x010 cs: Segment, Segment;
    /// Segment register.
    0x020 ss: Segment, Segment;
    /// Segment register.
    0x030 ds: Segment, Segment;
    /// Segment register.
    0x040 fs: Segment, Segment;
    /// Segment register.
    0x050 gs: Segment, Segment;
    /// Global descriptor table; base and limit only.
    0x060 gdtr: Segment, Segment;
    /// Local descriptor table.
    0x070 ldtr: Segment, Segment;
    /// Interrupt descriptor table; base and limit only.
    0x080 idtr: Segment, Segment;
    /// Task register.
    0x090 tr: Segment, Segment;
    /// Shadow stack pointers of the VMPLs.
    0x0a0 vmpl_ssp: [U64; 4], Plain;
    /// User-mode CET.
    0x0c0 u_cet: U64, Plain;
    /// Reserved.
    0x0c8 reserved_0xc8: [u8; 2], Plain;
    /// VMPL of this VMSA.
    0x0ca vmpl: u8, Plain;
    /// Current privilege level.
    0x0cb cpl: u8, Plain;
    /// Reserved.
    0x0cc reserved_0xcc: [u8; 4], Plain;
    /// Extended features.
    0x0d0 efer: U64, Plain;
    /// Reserved.
    0x0d8 reserved_0xd8: [u8; 104], Plain;
    /// IA32_XSS.
    0x140 xss: U64, Plain;
    /// Control register.
    0x148 cr4: U64, Plain;
    /// Control register.
    0x150 cr3: U64, Plain;
    /// Control register.
    0x158 cr0: U64, Plain;
    /// Debug register.
    0x160 dr7: U64, Plain;
    /// Debug register.
    0x168 dr6: U64, Plain;
    /// Flags.
    0x170 rflags: U64, Plain;
    /// Instruction pointer.
    0x178 rip: U64, Plain;
    /// Debug register.
    0x180 dr0: U64, Plain;
    /// Debug register.
    0x188 dr1: U64, Plain;
    /// Debug register.
    0x190 dr2: U64, Plain;
    /// Debug register.
    0x198 dr3: U64, Plain;
    /// Debug register masks.
    0x1a0 dr_addr_mask: [U64; 4], Plain;
    /// Reserved.
    0x1c0 reserved_0x1c0: [u8; 24], Plain;
    /// Stack pointer.
    0x1d8 rsp: U64, Plain;
    /// Supervisor-mode CET.
    0x1e0 s_cet: U64, Plain;
    /// Shadow stack pointer.
    0x1e8 ssp: U64, Plain;
    /// Interrupt shadow stack table.
    0x1f0 isst_addr: U64, Plain;
    /// General register.
    0x1f8 rax: U64, Plain;
    /// System-call MSR.
    0x200 star: U64, Plain;
    /// System-call MSR.
    0x208 lstar: U64, Plain;
    /// System-call MSR.
    0x210 cstar: U64, Plain;
    /// System-call MSR.
    0x218 sfmask: U64, Plain;
    /// GS base the kernel swaps in.
    0x220 kernel_gs_base: U64, Plain;
    /// SYSENTER MSR.
    0x228 sysenter_cs: U64, Plain;
    /// SYSENTER MSR.
    0x230 sysenter_esp: U64, Plain;
    /// SYSENTER MSR.
    0x238 sysenter_eip: U64, Plain;
    /// Page-fault address.
    0x240 cr2: U64, Plain;
    /// Reserved.
    0x248 reserved_0x248: [u8; 32], Plain;
    /// Page attribute table.
    0x268 g_pat: U64, Plain;
    /// DebugCtl.
    0x270 dbgctl: U64, Plain;
    /// Last branch.
    0x278 br_from: U64, Plain;
    /// Last branch.
    0x280 br_to: U64, Plain;
    /// Last exception.
    0x288 last_excp_from: U64, Plain;
    /// Last exception.
    0x290 last_excp_to: U64, Plain;
    /// Reserved.
    0x298 reserved_0x298: [u8; 80], Plain;
    /// Protection keys.
    0x2e8 pkru: U32, Plain;
    /// TSC_AUX.
    0x2ec tsc_aux: U32, Plain;
    /// Guest TSC scale, offset and other fields of Secure TSC.
    0x2f0 reserved_0x2f0: [u8; 24], Plain;
    /// General register.
    0x308 rcx: U64, Plain;
    /// General register; processor signature at reset.
    0x310 rdx: U64, Plain;
    /// General register.
    0x318 rbx: U64, Plain;
    /// Reserved.
    0x320 reserved_0x320: U64, Plain;
    /// General register.
    0x328 rbp: U64, Plain;
    /// General register.
    0x330 rsi: U64, Plain;
    /// General register.
    0x338 rdi: U64, Plain;
    /// General register.
    0x340 r8: U64, Plain;
    /// General register.
    0x348 r9: U64, Plain;
    /// General register.
    0x350 r10: U64, Plain;
    /// General register.
    0x358 r11: U64, Plain;
    /// General register.
    0x360 r12: U64, Plain;
    /// General register.
    0x368 r13: U64, Plain;
    /// General register.
    0x370 r14: U64, Plain;
    /// General register.
    0x378 r15: U64, Plain;
    /// Reserved.
    0x380 reserved_0x380: [u8; 16], Plain;
    /// Exit information for the guest.
    0x390 guest_exit_info_1: U64, Plain;
    /// Exit information for the guest.
    0x398 guest_exit_info_2: U64, Plain;
    /// Exit information for the guest.
    0x3a0 guest_exit_int_info: U64, Plain;
    /// Next instruction at an exit.
    0x3a8 guest_nrip: U64, Plain;
    /// [`crate::features::SevFeatures`].
    0x3b0 sev_features: U64, Plain;
    /// Virtual interrupt control.
    0x3b8 vintr_ctrl: U64, Plain;
    /// Exit code for the guest.
    0x3c0 guest_exit_code: U64, Plain;
    /// Virtual top of memory.
    0x3c8 virtual_tom: U64, Plain;
    /// TLB identifier.
    0x3d0 tlb_id: U64, Plain;
    /// Physical CPU the vCPU ran on.
    0x3d8 pcpu_id: U64, Plain;
    /// Event to inject.
    0x3e0 event_inj: U64, Plain;
    /// XCR0.
    0x3e8 xcr0: U64, Plain;
    /// Reserved.
    0x3f0 reserved_0x3f0: [u8; 16], Plain;
    /// x87 data pointer.
    0x400 x87_dp: U64, Plain;
    /// SSE control and status.
    0x408 mxcsr: U32, Plain;
    /// x87 tag word.
    0x40c x87_ftw: U16, Plain;
    /// x87 status word.
    0x40e x87_fsw: U16, Plain;
    /// x87 control word.
    0x410 x87_fcw: U16, Plain;
    /// x87 opcode.
    0x412 x87_fop: U16, Plain;
    /// x87 data segment.
    0x414 x87_ds: U16, Plain;
    /// x87 code segment.
    0x416 x87_cs: U16, Plain;
    /// x87 instruction pointer.
    0x418 x87_rip: U64, Plain;
    /// x87 registers.
    0x420 fpreg_x87: [u8; 80], Plain;
    /// Low halves of the vector registers.
    0x470 fpreg_xmm: [u8; 256], Plain;
    /// High halves of the vector registers.
    0x570 fpreg_ymm: [u8; 256], Plain;
    /// Zero up to the end of the page.
    0x670 padding: [u8; 0x990], Plain;
}

/// One field of a VMSA.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Field {
    /// Name: `rip`, `cs.base` ...
    pub name: String,
    /// Offset in the page, bytes.
    pub offset: usize,
    /// Value: a hexadecimal number, or the bytes of a field of more than eight.
    pub value: String,
}

impl Vmsa {
    /// A page of zeros.
    pub fn zeroed() -> Self {
        Self::new_zeroed()
    }

    /// All fields in ascending order; a segment gives four.
    pub fn fields(&self) -> Vec<Field> {
        let mut fields = Vec::with_capacity(FIELDS.len() + 30);
        for (name, offset, len, shape) in FIELDS {
            match shape {
                Shape::Plain => fields.push(self.field((*name).to_owned(), *offset, *len)),
                Shape::Segment => {
                    for (part, at, len) in
                        [("selector", 0, 2), ("attrib", 2, 2), ("limit", 4, 4), ("base", 8, 8)]
                    {
                        fields.push(self.field(format!("{name}.{part}"), offset + at, len));
                    }
                }
            }
        }
        fields
    }

    /// The fields that are not zero.
    pub fn nonzero_fields(&self) -> Vec<Field> {
        let zero = Self::zeroed().fields();
        self.fields().into_iter().zip(zero).filter(|(own, zero)| own != zero).map(|(own, _)| own).collect()
    }

    fn field(&self, name: String, offset: usize, len: usize) -> Field {
        let bytes = self.as_bytes().get(offset..offset + len).unwrap_or_default();
        let value = if len <= 8 {
            let number = bytes.iter().rev().fold(0_u64, |number, byte| number << 8 | u64::from(*byte));
            format!("{number:#x}")
        } else {
            bytes.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Field { name, offset, value }
    }
}

/// Lists the fields that are not zero; most of the page is.
impl fmt::Debug for Vmsa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut out = f.debug_struct("Vmsa");
        for field in self.nonzero_fields() {
            out.field(&field.name, &format_args!("{}", field.value));
        }
        out.finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_fields_cover_the_page_without_gap_or_overlap() {
        let mut at = 0;
        for (name, offset, len, _) in FIELDS {
            assert_eq!(*offset, at, "{name}");
            at += len;
        }
        assert_eq!(at, PAGE_SIZE);
    }

    #[test]
    fn fields_are_found_by_name() {
        let mut vmsa = Vmsa::zeroed();
        vmsa.cs = Segment::new(0xf000, 0x9b, 0xffff, 0xffff_0000);
        vmsa.x87_fcw = U16::new(0x37f);
        vmsa.fpreg_x87[79] = 1;
        let fields: Vec<_> = vmsa.nonzero_fields().into_iter().map(|f| (f.name, f.offset, f.value)).collect();
        let long = "00".repeat(79) + "01";
        let expected = [
            ("cs.selector", 0x10, "0xf000"),
            ("cs.attrib", 0x12, "0x9b"),
            ("cs.limit", 0x14, "0xffff"),
            ("cs.base", 0x18, "0xffff0000"),
            ("x87_fcw", 0x410, "0x37f"),
            ("fpreg_x87", 0x420, &long),
        ];
        assert_eq!(fields, expected.map(|(name, offset, value)| (name.to_owned(), offset, value.to_owned())));
        assert!(format!("{vmsa:?}").contains("cs.base: 0xffff0000"));
    }
}
