// SPDX-License-Identifier: Apache-2.0
//! A security processor in its host, and command buffers.

use cvmm_psp::{Config, Host as _, Psp, Status, command};

use super::Machine;

/// Where command buffers lie.
pub const BUFFER: u64 = 0x1000;

/// A security processor in its host.
pub struct Rig {
    /// The processor.
    pub psp: Psp,
    /// Its host.
    pub machine: Machine,
}

impl Rig {
    /// With this configuration of the processor.
    pub fn new(toml: &str) -> Self {
        let config = Config::from_toml(toml).unwrap();
        Self { psp: Psp::new(config).unwrap(), machine: Machine::default() }
    }

    /// The same, after SNP_INIT_EX.
    pub fn initialised(toml: &str) -> Self {
        let mut rig = Self::new(toml);
        assert_eq!(rig.init(), Status::SUCCESS);
        rig
    }

    /// SNP_INIT_EX.
    pub fn init(&mut self) -> Status {
        let mut buffer = [0; 64];
        buffer[0] = 1;
        self.run(command::SNP_INIT_EX, &buffer)
    }

    /// A command with a buffer.
    pub fn run(&mut self, id: u32, buffer: &[u8]) -> Status {
        self.machine.write(BUFFER, buffer).unwrap();
        self.psp.execute(&mut self.machine, id, BUFFER)
    }

    /// SNP_VLEK_LOAD of a hashstick.
    pub fn load_vlek(&mut self, stick: &[u8]) -> Status {
        self.machine.write(0x6000, stick).unwrap();
        self.run(command::SNP_VLEK_LOAD, &Buffer::default().u32(16).u32(0).u64(0x6000).0)
    }

    /// SNP_CONFIG.
    pub fn set_config(&mut self, tcb: [u8; 8], flags: u32) -> Status {
        self.run(command::SNP_CONFIG, &Buffer::default().bytes(&tcb).u32(flags).bytes(&[0; 52]).0)
    }

    /// A command whose buffer is an address.
    pub fn run_address(&mut self, id: u32, address: u64) -> Status {
        self.run(id, &address.to_le_bytes())
    }
}

/// The bytes of a command buffer, field by field.
#[derive(Default)]
pub struct Buffer(pub Vec<u8>);

impl Buffer {
    /// Adds a number.
    pub fn u64(mut self, value: u64) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds a number.
    pub fn u32(mut self, value: u32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    /// Adds bytes.
    pub fn bytes(mut self, bytes: &[u8]) -> Self {
        self.0.extend(bytes);
        self
    }
}
