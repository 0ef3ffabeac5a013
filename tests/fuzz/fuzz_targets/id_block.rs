// SPDX-License-Identifier: Apache-2.0
//! ID block and ID authentication from a file or a socket, and private keys from a file. What is accepted is
//! accepted again from its own bytes; whatever the block says, a key can be found for it, and that pair is
//! accepted.
#![no_main]

use cvmm_fuzz::Input;
use cvmm_launch::id_block::{Identity, SigningKey};
use cvmm_snp::id::{IdAuth, IdBlock};
use cvmm_snp::policy::GuestPolicy;
use libfuzzer_sys::fuzz_target;
use zerocopy::{FromBytes, FromZeros, IntoBytes};

/// Half of a page of fuzz would be reserved bytes: only what has a meaning comes from the input, and some
/// zeros to change.
fn auth(input: &mut Input<'_>) -> IdAuth {
    let mut bytes = IdAuth::new_zeroed().as_bytes().to_vec();
    for (at, len) in [(0, 8), (64, 144), (576, 148), (1664, 144), (2176, 148)] {
        let part = input.bytes(len);
        bytes[at..at + part.len()].copy_from_slice(part);
    }
    if input.u8() == 1 {
        let at = usize::from(input.u16()) % bytes.len();
        bytes[at] = input.u8();
    }
    IdAuth::read_from_bytes(&bytes).expect("it has the length")
}

fuzz_target!(|data: &[u8]| {
    let mut input = Input::new(data);
    match input.u8() % 3 {
        0 => {
            let Ok(block) = IdBlock::read_from_bytes(&[input.bytes(96), &[0; 96]].concat()[..96]) else {
                return;
            };
            let auth = auth(&mut input);
            match Identity::from_bytes(block.as_bytes(), auth.as_bytes()) {
                Ok(identity) => {
                    let again = Identity::from_bytes(identity.block().as_bytes(), identity.auth().as_bytes());
                    assert_eq!(again.as_ref(), Ok(&identity));
                    assert_eq!(identity.author_key_digest().is_some(), auth.has_author_key());
                }
                Err(error) => assert!(!error.to_string().is_empty()),
            }
            let mut block = block;
            block.version = 1.into();
            let keyless =
                Identity::keyless(block).expect("a key can be recovered for every hash that can be found");
            keyless.verify().expect("the key was made for it");
            assert_eq!(keyless.check_launch(block.launch_digest, GuestPolicy(block.policy.get())), Ok(()));
        }
        1 => {
            let len = usize::from(input.u16());
            let block = input.bytes(len);
            assert!(Identity::from_bytes(block, input.rest()).is_err() || block.len() == 96);
        }
        _ => {
            if let Err(error) = SigningKey::parse(input.rest()) {
                assert!(error.to_string().starts_with("is ") || error.to_string().starts_with("has "));
            }
        }
    }
});
