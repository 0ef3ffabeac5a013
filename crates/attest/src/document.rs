// SPDX-License-Identifier: Apache-2.0
//! The document of claims: what `cvmm attest --json` prints and what Rego code reads as `input.report`.
//!
//! It is complete: what a report does not have is `null`, so that a rule about it cannot pass because nothing
//! is found. Numbers are numbers, bits are booleans, bytes are lower-case hexadecimal. Names are AMD's, in
//! lower case (docs/reference/attestation.md).
//!
//! This is the one place that takes [`Claims`] apart for a document. `shaped_table!` makes a table's
//! [`Shape`] from the same definition that serde writes it by, so names and types of both cannot differ.

use cvmm_snp::platform_info;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::TcbParts;
use serde::{Serialize, Serializer};

use crate::claims::{Claims, FirmwareVersion, Product, Requester, Revocation, SigningKey};

/// What stands at a place of a document.
#[derive(Clone, Copy, Debug)]
pub enum Shape {
    /// A string or `null`.
    Text,
    /// A number or `null`.
    Number,
    /// A boolean or `null`.
    Flag,
    /// A list of strings, or `null`.
    Texts,
    /// An object with all of these keys, or `null`.
    Table(&'static [(&'static str, Shape)]),
}

/// A type with a fixed place in a document.
pub trait Shaped {
    /// How it is serialized.
    const SHAPE: Shape;
}

macro_rules! shaped {
    ($($type:ty => $shape:ident),* $(,)?) => {
        $(impl Shaped for $type { const SHAPE: Shape = Shape::$shape; })*
    };
}

shaped! {
    u8 => Number, u32 => Number, u64 => Number, i64 => Number,
    bool => Flag,
    str => Text, String => Text, Product => Text, SigningKey => Text,
    Vec<&str> => Texts, [String] => Texts,
}

impl<T: Shaped + ?Sized> Shaped for &T {
    const SHAPE: Shape = T::SHAPE;
}

impl<T: Shaped> Shaped for Option<T> {
    const SHAPE: Shape = T::SHAPE;
}

/// A struct that is serialized as a table, with the table's [`Shape`].
#[macro_export]
macro_rules! shaped_table {
    ($(#[$meta:meta])* $vis:vis struct $name:ident $(<$life:lifetime>)? {
        $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty,)*
    }) => {
        $(#[$meta])*
        #[derive(serde::Serialize)]
        $vis struct $name $(<$life>)? { $($(#[$field_meta])* $field_vis $field: $type,)* }

        impl $(<$life>)? $crate::document::Shaped for $name $(<$life>)? {
            const SHAPE: $crate::document::Shape = $crate::document::Shape::Table(&[
                $((stringify!($field), <$type as $crate::document::Shaped>::SHAPE),)*
            ]);
        }
    };
}

/// The document of claims.
pub const CLAIMS: Shape = Document::SHAPE;

impl Shaped for Claims {
    const SHAPE: Shape = CLAIMS;
}

shaped_table! {
    struct Document<'a> {
        report_version: u32,
        product: Product,
        cpuid: Option<Cpuid>,
        signing_key: SigningKey,
        requested_by: &'static str,
        vmpl: Option<u8>,
        policy: Policy,
        guest_svn: u32,
        family_id: String,
        image_id: String,
        measurement: String,
        host_data: String,
        report_data: String,
        id_key_digest: String,
        author_key_digest: Option<String>,
        report_id: String,
        platform_info: PlatformInfo,
        chip_id: Option<String>,
        csp_id: Option<&'a str>,
        reported_tcb: Tcb,
        current_tcb: Tcb,
        committed_tcb: Tcb,
        launch_tcb: Tcb,
        current_firmware: Firmware,
        committed_firmware: Firmware,
        launch_mit_vector: Option<u64>,
        current_mit_vector: Option<u64>,
        crl: Option<Crl>,
    }
}

shaped_table! {
    struct Cpuid {
        family: u8,
        model: u8,
        stepping: u8,
    }
}

shaped_table! {
    struct Policy {
        value: u64,
        abi_major: u8,
        abi_minor: u8,
        smt: bool,
        migrate_ma: bool,
        debug: bool,
        single_socket: bool,
        cxl_allow: bool,
        mem_aes_256_xts: bool,
        rapl_dis: bool,
        ciphertext_hiding: bool,
        page_swap_disable: bool,
    }
}

shaped_table! {
    struct PlatformInfo {
        value: u64,
        smt: bool,
        tsme: bool,
        ecc: bool,
        rapl_dis: bool,
        ciphertext_hiding_dram: bool,
        alias_check_complete: bool,
        tio: bool,
    }
}

shaped_table! {
    /// A TCB version by its product's layout.
    #[derive(Clone, Copy, Debug)]
    pub struct Tcb {
        fmc: Option<u8>,
        bootloader: u8,
        tee: u8,
        snp: u8,
        microcode: u8,
    }
}

shaped_table! {
    /// A version of the firmware.
    #[derive(Clone, Copy, Debug)]
    pub struct Firmware {
        major: u8,
        minor: u8,
        build: u8,
    }
}

shaped_table! {
    struct Crl {
        this_update: i64,
        next_update: Option<i64>,
    }
}

impl From<TcbParts> for Tcb {
    fn from(TcbParts { fmc, bootloader, tee, snp, microcode }: TcbParts) -> Self {
        Self { fmc, bootloader, tee, snp, microcode }
    }
}

impl From<FirmwareVersion> for Firmware {
    fn from(FirmwareVersion { major, minor, build }: FirmwareVersion) -> Self {
        Self { major, minor, build }
    }
}

impl From<GuestPolicy> for Policy {
    fn from(policy: GuestPolicy) -> Self {
        let (abi_major, abi_minor) = policy.min_abi();
        Self {
            value: policy.0,
            abi_major,
            abi_minor,
            smt: policy.has(GuestPolicy::SMT),
            migrate_ma: policy.has(GuestPolicy::MIGRATE_MA),
            debug: policy.has(GuestPolicy::DEBUG),
            single_socket: policy.has(GuestPolicy::SINGLE_SOCKET),
            cxl_allow: policy.has(GuestPolicy::CXL_ALLOWED),
            mem_aes_256_xts: policy.has(GuestPolicy::AES_256_XTS),
            rapl_dis: policy.has(GuestPolicy::RAPL_DISABLED),
            ciphertext_hiding: policy.has(GuestPolicy::CIPHERTEXT_HIDING),
            page_swap_disable: policy.has(GuestPolicy::PAGE_SWAP_DISABLED),
        }
    }
}

impl From<platform_info::PlatformInfo> for PlatformInfo {
    fn from(info: platform_info::PlatformInfo) -> Self {
        use platform_info::PlatformInfo as Bits;
        Self {
            value: info.0,
            smt: info.has(Bits::SMT),
            tsme: info.has(Bits::TSME),
            ecc: info.has(Bits::ECC),
            rapl_dis: info.has(Bits::RAPL_DISABLED),
            ciphertext_hiding_dram: info.has(Bits::CIPHERTEXT_HIDING),
            alias_check_complete: info.has(Bits::ALIAS_CHECK_COMPLETE),
            tio: info.has(Bits::TIO),
        }
    }
}

impl Serialize for Claims {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // A new claim does not compile until it is in the document.
        let Self {
            report_version,
            product,
            cpuid,
            signing_key,
            requester,
            policy,
            guest_svn,
            family_id,
            image_id,
            measurement,
            host_data,
            report_data,
            id_key_digest,
            author_key_digest,
            report_id,
            platform_info,
            chip_id,
            csp_id,
            reported_tcb,
            current_tcb,
            committed_tcb,
            launch_tcb,
            current_firmware,
            committed_firmware,
            launch_mit_vector,
            current_mit_vector,
            revocation,
        } = self;
        let (requested_by, vmpl) = match requester {
            Requester::Guest(vmpl) => ("guest", Some(*vmpl)),
            Requester::Host => ("host", None),
        };
        let document = Document {
            report_version: *report_version,
            product: *product,
            cpuid: cpuid.map(|(family, model, stepping)| Cpuid { family, model, stepping }),
            signing_key: *signing_key,
            requested_by,
            vmpl,
            policy: (*policy).into(),
            guest_svn: *guest_svn,
            family_id: hex::encode(family_id),
            image_id: hex::encode(image_id),
            measurement: measurement.to_string(),
            host_data: hex::encode(host_data),
            report_data: hex::encode(report_data),
            id_key_digest: id_key_digest.to_string(),
            author_key_digest: author_key_digest.map(|digest| digest.to_string()),
            report_id: hex::encode(report_id),
            platform_info: platform_info::PlatformInfo(*platform_info).into(),
            chip_id: chip_id.map(hex::encode),
            csp_id: csp_id.as_deref(),
            reported_tcb: (*reported_tcb).into(),
            current_tcb: (*current_tcb).into(),
            committed_tcb: (*committed_tcb).into(),
            launch_tcb: (*launch_tcb).into(),
            current_firmware: (*current_firmware).into(),
            committed_firmware: (*committed_firmware).into(),
            launch_mit_vector: *launch_mit_vector,
            current_mit_vector: *current_mit_vector,
            crl: match revocation {
                Revocation::NoList => None,
                Revocation::List { this_update, next_update } => {
                    Some(Crl { this_update: *this_update, next_update: *next_update })
                }
            },
        };
        document.serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use cvmm_snp::digest::Digest;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn what_is_absent_is_null_and_numbers_are_numbers() {
        let tcb = TcbParts { fmc: None, bootloader: 4, tee: 0, snp: 22, microcode: 213 };
        let firmware = FirmwareVersion { major: 1, minor: 55, build: 21 };
        let claims = Claims {
            report_version: 2,
            product: Product::Milan,
            cpuid: None,
            signing_key: SigningKey::Vlek,
            requester: Requester::Host,
            policy: GuestPolicy(0xb_0105),
            guest_svn: 7,
            family_id: [1; 16],
            image_id: [2; 16],
            measurement: Digest([0xaa; 48]),
            host_data: [3; 32],
            report_data: [4; 64],
            id_key_digest: Digest([5; 48]),
            author_key_digest: None,
            report_id: [6; 32],
            platform_info: 0x61,
            chip_id: None,
            csp_id: Some("CN=cloud".to_owned()),
            reported_tcb: tcb,
            current_tcb: tcb,
            committed_tcb: tcb,
            launch_tcb: TcbParts { fmc: Some(1), ..tcb },
            current_firmware: firmware,
            committed_firmware: firmware,
            launch_mit_vector: None,
            current_mit_vector: Some(u64::MAX),
            revocation: Revocation::List { this_update: 1, next_update: None },
        };
        let plain = serde_json::to_value(&claims).unwrap();
        for absent in ["cpuid", "vmpl", "author_key_digest", "chip_id", "launch_mit_vector"] {
            assert_eq!(plain.get(absent), Some(&Value::Null), "{absent}");
        }
        let tcb = |fmc| json!({ "fmc": fmc, "bootloader": 4, "tee": 0, "snp": 22, "microcode": 213 });
        assert_eq!(plain["reported_tcb"], tcb(None::<u8>));
        assert_eq!(plain["launch_tcb"], tcb(Some(1)));
        assert_eq!(plain["product"], "milan");
        assert_eq!(plain["signing_key"], "vlek");
        assert_eq!(plain["requested_by"], "host");
        assert_eq!(plain["measurement"], "aa".repeat(48));
        assert_eq!(plain["current_mit_vector"], u64::MAX);
        assert_eq!(plain["csp_id"], "CN=cloud");
        assert_eq!(plain["crl"], json!({ "this_update": 1, "next_update": null }));
        let policy = &plain["policy"];
        assert_eq!(
            (&policy["value"], &policy["abi_major"], &policy["abi_minor"]),
            (&json!(0xb_0105), &json!(1), &json!(5))
        );
        assert_eq!(
            (&policy["debug"], &policy["smt"], &policy["migrate_ma"]),
            (&json!(true), &json!(true), &json!(false))
        );
        let info = &plain["platform_info"];
        assert_eq!(
            (&info["smt"], &info["alias_check_complete"], &info["tio"]),
            (&json!(true), &json!(true), &json!(false))
        );
        assert!(fits(&plain, &CLAIMS));
    }

    /// Whether `value` has every key of the shape, no others, and each with a value of its type or `null`.
    fn fits(value: &Value, shape: &Shape) -> bool {
        match (shape, value) {
            (_, Value::Null) => true,
            (Shape::Table(keys), Value::Object(found)) => {
                found.len() == keys.len()
                    && keys.iter().all(|(key, shape)| found.get(*key).is_some_and(|value| fits(value, shape)))
            }
            (Shape::Texts, Value::Array(items)) => items.iter().all(Value::is_string),
            (Shape::Text, Value::String(_))
            | (Shape::Number, Value::Number(_))
            | (Shape::Flag, Value::Bool(_)) => true,
            _ => false,
        }
    }

    /// Every claim has a row in the manual, under its table's name.
    #[test]
    fn every_claim_is_in_the_manual() {
        let manual = include_str!("../../../docs/reference/attestation.md");
        let Some((_, claims)) = manual.split_once("\n## Claims\n") else { panic!("no section about claims") };
        let claims = claims.split("\n## ").next().unwrap();
        let Shape::Table(keys) = CLAIMS else { panic!("claims are a table") };
        for (key, shape) in keys {
            let row = claims.lines().find(|line| line.contains(&format!("`{key}")));
            let row = row.unwrap_or_else(|| panic!("docs/reference/attestation.md lacks the claim {key}"));
            if let Shape::Table(inner) = shape {
                for (inner, _) in *inner {
                    assert!(row.contains(inner), "docs/reference/attestation.md lacks {key}.{inner}");
                }
            }
        }
    }
}
