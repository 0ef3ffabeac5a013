// SPDX-License-Identifier: Apache-2.0
//! Guests and the commands that launch them.

use cvmm_psp::{Host as _, Status, command};

use super::{Buffer, Rig};

/// A guest policy with the reserved bit and SMT.
pub const POLICY: u64 = 0x3_0000;

/// A guest.
#[derive(Clone, Copy, Debug)]
pub struct Guest {
    /// System address of its context page.
    pub gctx: u64,
    /// Its address space.
    pub asid: u32,
}

/// Arguments of LAUNCH_UPDATE beyond context and address.
#[derive(Clone, Copy)]
pub struct Kind {
    /// The page type in its field.
    pub bits: u32,
    /// Permissions of VMPL1 to VMPL3.
    pub perms: [u8; 3],
}

/// Measured with its content.
pub const NORMAL: Kind = Kind { bits: 1 << 1, perms: [0; 3] };
/// A VMSA.
pub const VMSA: Kind = Kind { bits: 2 << 1, perms: [0; 3] };
/// Zeroed by the processor.
pub const ZERO: Kind = Kind { bits: 3 << 1, perms: [0; 3] };
/// Not measured.
pub const UNMEASURED: Kind = Kind { bits: 4 << 1, perms: [0; 3] };
/// The secrets page.
pub const SECRETS: Kind = Kind { bits: 5 << 1, perms: [0; 3] };
/// The CPUID page.
pub const CPUID: Kind = Kind { bits: 6 << 1, perms: [0; 3] };

impl Rig {
    /// A context page, after SNP_GCTX_CREATE.
    pub fn gctx(&mut self) -> u64 {
        let gctx = self.machine.firmware_page();
        assert_eq!(self.run_address(command::SNP_GCTX_CREATE, gctx), Status::SUCCESS);
        gctx
    }

    /// SNP_LAUNCH_START.
    pub fn start(&mut self, gctx: u64, policy: u64) -> Status {
        let buffer = Buffer::default().u64(gctx).u64(policy).u64(0).u32(0).u32(0).bytes(&[0x60; 16]);
        self.run(command::SNP_LAUNCH_START, &buffer.0)
    }

    /// SNP_ACTIVATE.
    pub fn activate(&mut self, gctx: u64, asid: u32) -> Status {
        self.run(command::SNP_ACTIVATE, &Buffer::default().u64(gctx).u32(asid).0)
    }

    /// A guest ready for LAUNCH_UPDATE.
    pub fn launching(&mut self, asid: u32, policy: u64) -> Guest {
        let gctx = self.gctx();
        assert_eq!(self.start(gctx, policy), Status::SUCCESS);
        assert_eq!(self.activate(gctx, asid), Status::SUCCESS);
        Guest { gctx, asid }
    }

    /// SNP_LAUNCH_UPDATE of a page.
    pub fn update(&mut self, guest: Guest, spa: u64, kind: Kind) -> Status {
        let [vmpl1, vmpl2, vmpl3] = kind.perms;
        let buffer = Buffer::default()
            .u64(guest.gctx)
            .u32(kind.bits)
            .u32(0)
            .u64(spa)
            .bytes(&[0, vmpl1, vmpl2, vmpl3])
            .u64(0);
        self.run(command::SNP_LAUNCH_UPDATE, &buffer.0)
    }

    /// Launches a page; its system address.
    pub fn launch_page(&mut self, guest: Guest, gpa: u64, content: &[u8], kind: Kind) -> u64 {
        let spa = self.machine.pre_guest(guest.asid, gpa, content);
        assert_eq!(self.update(guest, spa, kind), Status::SUCCESS, "{}", self.psp.trace());
        spa
    }

    /// SNP_LAUNCH_FINISH, with an ID block and its authentication.
    pub fn finish(
        &mut self,
        guest: Guest,
        id: Option<(&[u8], &[u8])>,
        flags: u64,
        host_data: [u8; 32],
    ) -> Status {
        let (mut block_at, mut auth_at) = (0, 0);
        if let Some((block, auth)) = id {
            (block_at, auth_at) = (0x3000, 0x4000);
            self.machine.write(block_at, block).unwrap();
            self.machine.write(auth_at, auth).unwrap();
        }
        let buffer =
            Buffer::default().u64(guest.gctx).u64(block_at).u64(auth_at).u64(flags).bytes(&host_data);
        self.run(command::SNP_LAUNCH_FINISH, &buffer.0)
    }

    /// A running guest with a secrets page, and its VMPCKs.
    pub fn running(&mut self, asid: u32, policy: u64) -> (Guest, [[u8; 32]; 4]) {
        let guest = self.launching(asid, policy);
        let vmpck = self.launch_secrets(guest);
        assert_eq!(self.finish(guest, None, 0, [0xD0; 32]), Status::SUCCESS);
        (guest, vmpck)
    }

    /// Launches a secrets page; its VMPCKs.
    pub fn launch_secrets(&mut self, guest: Guest) -> [[u8; 32]; 4] {
        let spa = self.launch_page(guest, 0x80_D000, &[], SECRETS);
        [0x20, 0x40, 0x60, 0x80].map(|at| self.machine.bytes(spa + at))
    }

    /// The launch digest that the processor last put in its trace, in hexadecimal.
    pub fn digest(&mut self) -> String {
        self.psp.trace().split("digest ").nth(1).map_or("", |rest| &rest[..96]).to_owned()
    }

    /// A report that the host asks for (SNP_HV_REPORT_REQ).
    pub fn host_report(&mut self, guest: Guest) -> Vec<u8> {
        const LEN: usize = 1184;
        let page = self.machine.firmware_page();
        let buffer = Buffer::default().u32(24).u32(0).u64(guest.gctx).u64(page);
        assert_eq!(self.run(command::SNP_HV_REPORT_REQ, &buffer.0), Status::SUCCESS);
        self.machine.bytes::<{ 32 + LEN }>(page)[32..].to_vec()
    }
}
