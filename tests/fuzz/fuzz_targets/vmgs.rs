// SPDX-License-Identifier: Apache-2.0
//! A state file by an attacker who may even have its key: headers, tables and bodies are made to fit as far
//! as the input says, so that what lies behind checksums and encryption is reached. Nothing panics, and what
//! is accepted can be read, changed and opened again.
#![no_main]

use std::sync::OnceLock;

use cvmm_fuzz::Input;
use cvmm_guest_state::container::Container;
use cvmm_guest_state::format::{BLOCK, COPIES, FOOTER, Header, MIN_CAPACITY, VhdFooter};
use cvmm_guest_state::info::Info;
use cvmm_guest_state::{CODES, Expected, Kind, StateKey, VmId};
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromBytes, IntoBytes};

const SIZE: usize = MIN_CAPACITY as usize;

fn key() -> StateKey {
    StateKey::from_bytes(&[7; 32])
}

/// A good file. Its keys and nonces differ from run to run, its layout does not.
fn sample() -> &'static Vec<u8> {
    static SAMPLE: OnceLock<Vec<u8>> = OnceLock::new();
    SAMPLE.get_or_init(|| {
        let vm_id = VmId::new("vm").expect("it is a name");
        let mut made = Container::format(vec![0; SIZE + FOOTER], &key(), &vm_id, 3).expect("it fits");
        made.store(Kind::TpmPermanent, 1, &[5; 5000]).expect("it fits");
        made.store(Kind::TpmDevice, 1, b"device").expect("it fits");
        made.into_medium()
    })
}

fn put(image: &mut [u8], at: usize, bytes: &[u8]) {
    let end = (at + bytes.len()).min(image.len());
    if let Some(to) = image.get_mut(at..end) {
        to.copy_from_slice(&bytes[..end - at]);
    }
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    let from_sample = input.u8() & 1 == 0;
    let mut image = if from_sample { sample().clone() } else { vec![0; SIZE + FOOTER] };
    let mut untouched = from_sample;
    while input.more() {
        match input.u8() % 5 {
            // Anything anywhere.
            0 | 1 => {
                let at = input.u16() as usize * 2;
                let len = usize::from(input.u8());
                let bytes = input.bytes(len).to_vec();
                put(&mut image, at, &bytes);
                untouched &= bytes.is_empty();
            }
            // A header whose checksum is right, in both copies.
            2 => {
                let slot = usize::from(input.u8() & 1);
                let (from, at, len) =
                    (COPIES[slot][0] as usize, usize::from(input.u8()) % 168, usize::from(input.u8() % 16));
                let bytes = input.bytes(len).to_vec();
                put(&mut image, from + at, &bytes[..len.min(bytes.len()).min(168 - at)]);
                if let Ok((mut header, _)) = Header::read_from_prefix(&image[from..]) {
                    header.checksum = 0.into();
                    header.checksum = header.crc().into();
                    for copy in COPIES[slot] {
                        put(&mut image, copy as usize, header.as_bytes());
                    }
                }
                untouched = false;
            }
            // A block over another.
            3 => {
                let (from, to) = (usize::from(input.u8() % 16) * BLOCK, usize::from(input.u8() % 16) * BLOCK);
                // The file may be shorter by now.
                if from.max(to) + BLOCK <= image.len() {
                    image.copy_within(from..from + BLOCK, to);
                }
                untouched = false;
            }
            // Another length, with or without a footer that fits.
            _ => {
                let blocks = usize::from(input.u8() % 24);
                let footer = input.u8() & 1 == 0;
                image.resize(blocks * BLOCK + FOOTER, 0);
                if footer {
                    let size = blocks * BLOCK;
                    put(&mut image, size, VhdFooter::new(size as u64, [1; 16]).as_bytes());
                }
                untouched = false;
            }
        }
    }

    if let Err(error) = Info::read(&image) {
        assert!(CODES.contains(&error.code()) && !error.to_string().is_empty());
    }
    let mut container = match Container::open(image, &[key()], true) {
        Ok(container) => container,
        Err(error) => {
            assert!(!untouched, "a good file is refused: {error}");
            assert!(CODES.contains(&error.code()) && !error.to_string().is_empty());
            return;
        }
    };
    // Forgery is not possible without the key: an accepted file is a state that the sample went through.
    assert!(
        from_sample
            && container.vm_id().as_str() == "vm"
            && container.epoch() == 3
            && container.counter() <= 3
    );
    let expected = Expected { vm_id: container.vm_id().clone(), epochs: 3..=3, least_counter: 0 };
    container.check(&expected).expect("it is this VM's");
    match container.load(Kind::TpmPermanent).expect("it was verified") {
        Some(blob) => assert_eq!(*blob.content, [5; 5000]),
        None => assert_eq!(container.counter(), 1),
    }
    container.store(Kind::TpmPermanent, 2, b"changed").expect("it fits");
    let counter = container.counter();
    let again = Container::open(container.into_medium(), &[key()], false).expect("it was just written");
    let blob = again.load(Kind::TpmPermanent).expect("it was verified").expect("it was just written");
    assert_eq!((blob.content.as_slice(), again.counter()), (&b"changed"[..], counter));
});
