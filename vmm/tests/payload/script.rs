// SPDX-License-Identifier: Apache-2.0
//! What the guest does: a script for the interpreter in `guest.s`, and the firmware image both are in.

// The interpreter, assembled into this program's read-only data.
std::arch::global_asm!(include_str!("guest.s"), options(att_syntax, raw));

unsafe extern "C" {
    static guest_start: u8;
    static guest_end: u8;
}

/// The interpreter lies in the last 64 KiB of the image.
const CODE: usize = 64 << 10;
const RESET_VECTOR: usize = CODE - 16;
/// Where the interpreter finds the address of its first record.
const PARAMETERS: usize = CODE - 256;
/// The end of the firmware's GUID table.
const TABLE_END: usize = CODE - 32;
/// Footer GUID of that table, 96b582de-1fb2-45f7-baea-a366c55a082d, in the byte order of the file.
const FOOTER: [u8; 16] =
    [0xde, 0x82, 0xb5, 0x96, 0xb2, 0x1f, 0xf7, 0x45, 0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d];
const RECORD: usize = 16;

/// In the order of the table in `guest.s`.
#[derive(Clone, Copy)]
#[repr(u32)]
enum Operation {
    Off,
    Out8,
    Out16,
    Out32,
    In8,
    In16,
    In32,
    Write8,
    Write16,
    Write32,
    Read8,
    Read16,
    Read32,
    Print,
    Text,
    Wait8,
    Wait32,
    Halt,
    Spin,
    TripleFault,
    Echo,
    Processors,
    SweepPorts,
    SweepMemory,
    FuzzPci,
    Button,
    Delay,
    Copy,
    Flood,
    Hammer,
}

/// A guest program: operations one after the other, then power-off.
#[derive(Clone, Default)]
pub struct Script {
    records: Vec<(Operation, u32, Word, u32)>,
    data: Vec<u8>,
}

/// A record's second word; addresses of data are known when the script is complete.
#[derive(Clone, Copy)]
enum Word {
    Value(u32),
    /// Offset in `data`.
    Data(u32),
}

impl Script {
    pub fn new() -> Self {
        Self::default()
    }

    fn op(mut self, operation: Operation, a: u32, b: u32, c: u32) -> Self {
        self.records.push((operation, a, Word::Value(b), c));
        self
    }

    fn store(&mut self, bytes: &[u8]) -> Word {
        // Aligned, so that tables of words can be read as such.
        self.data.resize(self.data.len().next_multiple_of(16), 0);
        let at = self.data.len() as u32;
        self.data.extend_from_slice(bytes);
        Word::Data(at)
    }

    pub fn out8(self, port: u16, value: u8) -> Self {
        self.op(Operation::Out8, port.into(), value.into(), 0)
    }
    pub fn out16(self, port: u16, value: u16) -> Self {
        self.op(Operation::Out16, port.into(), value.into(), 0)
    }
    pub fn out32(self, port: u16, value: u32) -> Self {
        self.op(Operation::Out32, port.into(), value, 0)
    }
    pub fn in8(self, port: u16) -> Self {
        self.op(Operation::In8, port.into(), 0, 0)
    }
    pub fn in16(self, port: u16) -> Self {
        self.op(Operation::In16, port.into(), 0, 0)
    }
    pub fn in32(self, port: u16) -> Self {
        self.op(Operation::In32, port.into(), 0, 0)
    }
    pub fn write8(self, address: u32, value: u8) -> Self {
        self.op(Operation::Write8, address, value.into(), 0)
    }
    pub fn write16(self, address: u32, value: u16) -> Self {
        self.op(Operation::Write16, address, value.into(), 0)
    }
    pub fn write32(self, address: u32, value: u32) -> Self {
        self.op(Operation::Write32, address, value, 0)
    }
    pub fn read8(self, address: u32) -> Self {
        self.op(Operation::Read8, address, 0, 0)
    }
    pub fn read16(self, address: u32) -> Self {
        self.op(Operation::Read16, address, 0, 0)
    }
    pub fn read32(self, address: u32) -> Self {
        self.op(Operation::Read32, address, 0, 0)
    }

    /// Prints what was last read, as eight hexadecimal digits and a newline.
    pub fn print(self) -> Self {
        self.op(Operation::Print, 0, 0, 0)
    }

    /// Prints `text`, one exit for each character.
    pub fn text(mut self, text: &str) -> Self {
        // The text goes to RAM first: `Text` takes its address in `a`, and only `b` can be an address of
        // data.
        const BUFFER: u32 = 0xa000;
        assert!(text.len() <= 0x1000);
        self = self.copy(BUFFER, text.as_bytes());
        self.op(Operation::Text, BUFFER, text.len() as u32, 0)
    }

    /// Puts `bytes` into RAM at `address`.
    pub fn copy(mut self, address: u32, bytes: &[u8]) -> Self {
        let from = self.store(bytes);
        self.records.push((Operation::Copy, address, from, bytes.len() as u32));
        self
    }

    /// Prints `len` bytes of RAM at `address`, `times` times, by string instructions.
    pub fn flood(self, address: u32, len: u32, times: u32) -> Self {
        self.op(Operation::Flood, address, len, times)
    }

    /// Waits for a limited time until the byte at `address` is `value` in the bits of `mask`.
    pub fn wait8(self, address: u32, mask: u8, value: u8) -> Self {
        self.op(Operation::Wait8, address, mask.into(), value.into())
    }

    /// Waits for a limited time until the word at `address` is `value` in the bits of `mask`.
    pub fn wait32(self, address: u32, mask: u32, value: u32) -> Self {
        self.op(Operation::Wait32, address, mask, value)
    }

    /// Halts for good, deaf to interrupts.
    pub fn halt(self) -> Self {
        self.op(Operation::Halt, 0, 0, 0)
    }

    /// Runs in a circle for good.
    pub fn spin(self) -> Self {
        self.op(Operation::Spin, 0, 0, 0)
    }

    pub fn triple_fault(self) -> Self {
        self.op(Operation::TripleFault, 0, 0, 0)
    }

    /// Reads `count` bytes from the serial port and sends each back.
    pub fn echo(self, count: u32) -> Self {
        self.op(Operation::Echo, count, 0, 0)
    }

    /// Starts the other processors, waits until `count` run, prints their APIC ids in order.
    pub fn processors(self, count: u32) -> Self {
        self.op(Operation::Processors, count, 0, 0)
    }

    /// Writes `value` to every port and reads it, `width` bytes at a time, but for the writes that end the
    /// VM.
    pub fn sweep_ports(self, width: u32, value: u32) -> Self {
        self.op(Operation::SweepPorts, width, value, 0)
    }

    /// Reads and writes in all widths around `count` addresses from `start`, `stride` bytes apart.
    pub fn sweep_memory(self, start: u32, stride: u32, count: u32) -> Self {
        self.op(Operation::SweepMemory, start, stride, count)
    }

    /// `rounds` random configuration accesses; BARs go to the addresses at `table` (eight words in RAM).
    pub fn fuzz_pci(self, rounds: u32, seed: u32, table: u32) -> Self {
        self.op(Operation::FuzzPci, rounds, seed, table)
    }

    /// Waits for an edge on a pin of the I/O APIC.
    pub fn button(self, pin: u32) -> Self {
        self.op(Operation::Button, pin, 0, 0)
    }

    /// Counts down from `count`.
    pub fn delay(self, count: u32) -> Self {
        self.op(Operation::Delay, count, 0, 0)
    }

    /// Lets the other processors write to `len` bytes at `address` without end, each byte by itself.
    pub fn hammer(self, address: u32, len: u32) -> Self {
        self.op(Operation::Hammer, address, len, 0)
    }

    /// The firmware image: records, data, interpreter.
    pub fn image(&self) -> Vec<u8> {
        let data_at = (self.records.len() + 1) * RECORD;
        let front = (data_at + self.data.len()).next_multiple_of(4096);
        let mut image = vec![0_u8; front + CODE];
        let base = (1_u64 << 32) as usize - image.len();
        let mut put = |at: usize, bytes: &[u8]| image[at..at + bytes.len()].copy_from_slice(bytes);

        for (index, (operation, a, b, c)) in self.records.iter().enumerate() {
            let b = match b {
                Word::Value(value) => *value,
                Word::Data(offset) => (base + data_at) as u32 + offset,
            };
            for (word, value) in [*operation as u32, *a, b, *c].into_iter().enumerate() {
                put(index * RECORD + word * 4, &value.to_le_bytes());
            }
        }
        put(self.records.len() * RECORD, &(Operation::Off as u32).to_le_bytes());
        put(data_at, &self.data);

        put(front, interpreter());
        put(front + PARAMETERS, &(base as u32).to_le_bytes());
        let table_len = 18_u16;
        put(front + TABLE_END - 18, &table_len.to_le_bytes());
        put(front + TABLE_END - 16, &FOOTER);
        // A near jump from the reset vector to the start of the segment: e9, distance from the next
        // instruction.
        let distance = (CODE - (RESET_VECTOR + 3)) as u16;
        put(front + RESET_VECTOR, &[0xe9]);
        put(front + RESET_VECTOR + 1, &distance.to_le_bytes());
        image
    }
}

fn interpreter() -> &'static [u8] {
    let start = &raw const guest_start;
    let end = &raw const guest_end;
    let len = end as usize - start as usize;
    assert!((256..PARAMETERS).contains(&len), "the interpreter has {len} bytes");
    // SAFETY: both symbols are in one read-only section, assembled above, with the interpreter between them.
    unsafe { std::slice::from_raw_parts(start, len) }
}

pub fn image_is_what_a_processor_starts_from() {
    let image = Script::new().text("x").image();
    assert_eq!(image.len() % 4096, 0);
    let vector = image.len() - 16;
    assert_eq!(image[vector], 0xe9);
    let distance = u16::from_le_bytes([image[vector + 1], image[vector + 2]]);
    assert_eq!((0xfff0_u16 + 3).wrapping_add(distance), 0);
    assert_eq!(&image[image.len() - 48..image.len() - 32], &FOOTER);
}
