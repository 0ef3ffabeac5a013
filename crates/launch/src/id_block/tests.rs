// SPDX-License-Identifier: Apache-2.0
use aws_lc_rs::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};
use cvmm_snp::id::CURVE_P384;
use proptest::prelude::*;
use zerocopy::little_endian::U64;

use super::*;

/// Made by `snp-create-id-block` of sev-snp-measure 0.0.13 with the two test keys, for the digest of the
/// AmdSev image with one EPYC-Milan vCPU. The first key is `openssl ecparam -name secp384r1 -genkey`, with
/// its parameters before it; the second `openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384`.
const GOLDEN_BLOCK: &[u8] = include_bytes!("golden/id-block.bin");
const GOLDEN_AUTH: &[u8] = include_bytes!("golden/id-auth.bin");
const ID_KEY: &[u8] = include_bytes!("golden/test-id-key.pem");
const AUTHOR_KEY: &[u8] = include_bytes!("golden/test-author-key.pem");
/// `id_key_hash` and `author_key` of that run.
const ID_KEY_DIGEST: &str =
    "7243d3fc6111e8d6e865a52d4ca602c736a9b23cdb59b926c7eadef50e7744c54f60b7a4b7000ae290afcfc4665ef805";
const AUTHOR_KEY_DIGEST: &str =
    "443fef029a7b6a9f4ff370369db473c58df85ed0b321074cea4310b6b018ca41ba5671df4639169758d8f9bf4b10c5b7";
const LAUNCH_DIGEST: &str =
    "4a7f0dc0ad7c8fc19a056d1f78c6ccc2dda5c69aef1b063650d94598084b89a89a5e295aceb08223b8ddd027620dbe66";

fn block() -> IdBlock {
    IdBlock::new(LAUNCH_DIGEST.parse().unwrap(), GuestPolicy::default())
}

fn keys() -> (SigningKey, SigningKey) {
    (SigningKey::parse(ID_KEY).unwrap(), SigningKey::parse(AUTHOR_KEY).unwrap())
}

#[test]
fn another_tools_id_block_is_accepted_and_equal() {
    let golden = Identity::from_bytes(GOLDEN_BLOCK, GOLDEN_AUTH).unwrap();
    assert_eq!(golden.block(), &block());
    assert_eq!(golden.id_key_digest().to_string(), ID_KEY_DIGEST);
    assert_eq!(golden.author_key_digest().unwrap().to_string(), AUTHOR_KEY_DIGEST);
    let (id, author) = keys();
    let own = Identity::signed(block(), &id, Some(&author)).unwrap();
    assert_eq!(own.verify(), Ok(()));
    // All but the signatures, which have a random part, is the same.
    let mut auth = *own.auth();
    auth.id_block_sig = golden.auth().id_block_sig;
    auth.id_key_sig = golden.auth().id_key_sig;
    assert_eq!(auth.as_bytes(), GOLDEN_AUTH);
}

#[test]
fn an_author_key_is_optional() {
    let (id, _) = keys();
    let identity = Identity::signed(block(), &id, None).unwrap();
    assert_eq!(identity.verify(), Ok(()));
    assert_eq!(identity.id_key_digest().to_string(), ID_KEY_DIGEST);
    assert_eq!(identity.author_key_digest(), None);
    assert_eq!(Identity::from_bytes(identity.block().as_bytes(), identity.auth().as_bytes()), Ok(identity));
}

#[test]
fn the_keyless_signature_is_a_hash_of_a_sentence() {
    for (letter, constant) in [("r", ecdsa::KEYLESS_R), ("s", ecdsa::KEYLESS_S)] {
        let sentence = format!("cvmm id block without a key: {letter} 0");
        assert_eq!(sha384(sentence.as_bytes()).0, constant);
    }
}

#[test]
fn without_a_key_the_key_digest_names_the_block() {
    let identity = Identity::keyless(block()).unwrap();
    // aws-lc knows nothing of how the key was found.
    assert_eq!(identity.verify(), Ok(()));
    assert_eq!(identity, Identity::keyless(block()).unwrap());
    // The same in Python: pow(), the addition formulas, hashlib.
    assert_eq!(
        identity.id_key_digest().to_string(),
        "32a98ef324a88814d858656d70ecc8b95548274cb1aff9268c20622581131957f631f52b1e80d031d854321f3348f0c3"
    );
    let mut seen = std::collections::HashSet::from([identity.id_key_digest()]);
    let mut svn = block();
    svn.guest_svn = U32::new(1);
    let mut image = block();
    image.image_id[15] = 1;
    let mut policy = block();
    policy.policy = U64::new(0x2_0000);
    let mut digest = block();
    digest.launch_digest.0[0] ^= 1;
    for other in [svn, image, policy, digest] {
        let other = Identity::keyless(other).unwrap();
        assert_eq!(other.verify(), Ok(()));
        assert!(seen.insert(other.id_key_digest()));
    }
}

#[test]
fn a_block_is_for_one_digest_and_one_policy() {
    let identity = Identity::keyless(block()).unwrap();
    let (digest, policy) = (block().launch_digest, GuestPolicy::default());
    assert_eq!(identity.check_launch(digest, policy), Ok(()));
    let error = identity.check_launch(Digest([1; 48]), policy).unwrap_err();
    assert!(error.to_string().contains(LAUNCH_DIGEST), "{error}");
    let error = identity.check_launch(digest, GuestPolicy(0xb_0000)).unwrap_err();
    assert!(error.to_string().contains("DEBUG ALLOWED"), "{error}");
}

#[test]
fn damage_is_named() {
    let check = |change: &dyn Fn(&mut IdBlock, &mut IdAuth)| {
        let golden = Identity::from_bytes(GOLDEN_BLOCK, GOLDEN_AUTH).unwrap();
        let (mut block, mut auth) = (*golden.block(), *golden.auth());
        change(&mut block, &mut auth);
        Identity { block, auth }.verify().unwrap_err().to_string()
    };
    assert_eq!(
        check(&|block, _| block.version = U32::new(2)),
        "field version of the ID block is 0x2 instead of 0x1"
    );
    assert!(check(&|_, auth| auth.id_key_algo = U32::ZERO).contains("id_key_algo"));
    assert!(check(&|_, auth| auth.author_key_algo = U32::new(3)).contains("author_key_algo"));
    assert!(check(&|_, auth| auth.reserved2[59] = 1).contains("reserved bytes of the ID authentication"));
    assert!(check(&|_, auth| auth.id_key.reserved[0] = 1).contains("reserved bytes of the key"));
    assert!(check(&|_, auth| auth.author_key_algo = U32::ZERO).contains("author key"));
    let over_block = "the signature of the ID key over the ID block is wrong";
    assert_eq!(check(&|block, _| block.guest_svn = U32::new(1)), over_block);
    assert_eq!(check(&|_, auth| auth.id_key.curve = U32::new(CURVE_P384 + 1)), over_block);
    assert_eq!(check(&|_, auth| auth.id_key = EcPublicKey::p384(&[1; 48], &[1; 48])), over_block);
    assert_eq!(check(&|_, auth| auth.id_block_sig = EcSignature::p384(&[0; 48], &[0; 48])), over_block);
    let over_key = "the signature of the author key over the ID key is wrong";
    assert_eq!(check(&|_, auth| auth.id_key_sig = auth.id_block_sig), over_key);
    assert!(matches!(
        Identity::from_bytes(&GOLDEN_BLOCK[1..], GOLDEN_AUTH),
        Err(IdError::Length { what: "ID block", len: 95, expected: 96 })
    ));
    assert!(matches!(
        Identity::from_bytes(GOLDEN_BLOCK, &[0; 4097]),
        Err(IdError::Length { what: "ID authentication", .. })
    ));
}

#[test]
fn keys_are_read_in_every_form_openssl_writes() {
    let pair = EcdsaKeyPair::generate(&ECDSA_P384_SHA384_FIXED_SIGNING).unwrap();
    let pkcs8 = pair.to_pkcs8v1().unwrap();
    let key = SigningKey::parse(pkcs8.as_ref()).unwrap();
    let identity = Identity::signed(block(), &key, None).unwrap();
    assert_eq!(identity.verify(), Ok(()));
    let text = format!("{key:?}");
    assert!(text.contains("public") && text.contains("..") && !text.contains("pair"), "{text}");

    let id_key = std::str::from_utf8(ID_KEY).unwrap();
    let both = [AUTHOR_KEY, ID_KEY].concat();
    assert_eq!(SigningKey::parse(&both).unwrap().public(), keys().1.public());
    for (file, expected) in [
        (include_bytes!("golden/test-p256-key.pem").to_vec(), KeyError::Curve),
        (Vec::new(), KeyError::Curve),
        (b"-----BEGIN PUBLIC KEY-----\n-----END PUBLIC KEY-----\n".to_vec(), KeyError::None),
        (b"-----BEGIN ENCRYPTED PRIVATE KEY-----".to_vec(), KeyError::Encrypted),
        (b"-----BEGIN PRIVATE KEY-----\nMIG2".to_vec(), KeyError::Pem),
        (id_key.replacen("MIGk", "M!Gk", 1).into_bytes(), KeyError::Pem),
        (id_key.replacen("MIGkAgEB", "MIGkAgEC", 1).into_bytes(), KeyError::Curve),
    ] {
        assert_eq!(SigningKey::parse(&file).unwrap_err(), expected, "{}", String::from_utf8_lossy(&file));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// No single changed byte is accepted, wherever it is.
    #[test]
    fn every_byte_counts(at in 0usize..4192, bit in 0u8..8) {
        let mut bytes = [GOLDEN_BLOCK, GOLDEN_AUTH].concat();
        bytes[at] ^= 1 << bit;
        prop_assert!(Identity::from_bytes(&bytes[..96], &bytes[96..]).is_err());
    }
}
