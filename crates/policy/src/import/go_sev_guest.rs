// SPDX-License-Identifier: Apache-2.0
//! `check.Policy` of go-sev-guest. Source: its `proto/check.proto` for the fields, `validate/validate.go` for
//! what they mean.

use cvmm_attest::claims::{FirmwareVersion, Product};
use cvmm_snp::digest::Digest;
use cvmm_snp::policy::GuestPolicy;
use cvmm_snp::tcb::{TcbParts, TcbVersion};

use super::textproto::{self, Field, Value};
use super::{Draft, ImportError, Imported, Options, exact, product};
use crate::guest::GuestBit;
use crate::platform::PlatformBit;

/// Fields that may stand more than once.
const REPEATED: [&str; 4] =
    ["trusted_author_keys", "trusted_author_key_hashes", "trusted_id_keys", "trusted_id_key_hashes"];
/// Bits of a guest policy that are known: those above are refused.
const KNOWN_BITS: u64 = (1 << 25) - 1;
/// SMT_EN and TSME_EN, the bits of PLATFORM_INFO that are compared there.
const PLATFORM_BITS: u64 = 3;

/// What the fields said.
#[derive(Default)]
struct FieldValues {
    product: Option<Product>,
    svn: u32,
    policy: Option<u64>,
    family_id: Option<[u8; 16]>,
    image_id: Option<[u8; 16]>,
    max_vmpl: Option<u8>,
    tcb: u64,
    launch_tcb: u64,
    tcb_turin: u64,
    launch_tcb_turin: u64,
    platform_info: Option<u64>,
    require_author: bool,
    require_id_block: bool,
    measurement: Option<Digest>,
    host_data: Option<[u8; 32]>,
    chip_id: Option<[u8; 64]>,
    build: u64,
    version: Option<(u8, u8)>,
    provisional: bool,
    author_keys: Vec<Digest>,
    id_keys: Vec<Digest>,
}

pub(super) fn import(text: &str, options: &Options) -> Result<Imported, ImportError> {
    let fields = textproto::parse(text).map_err(|problem| ImportError::one("file", problem))?;
    let mut draft = Draft::new(options);
    let mut found = FieldValues::default();
    let mut seen: Vec<&str> = Vec::new();
    for field in &fields {
        if !REPEATED.contains(&field.name.as_str()) && seen.contains(&field.name.as_str()) {
            draft.refuse(&field.name, format!("line {}: appears twice", field.line));
            continue;
        }
        seen.push(&field.name);
        if let Err(problem) = take(&mut draft, &mut found, field)
            && !draft.left_out(&field.name)
        {
            draft.refuse(&field.name, format!("line {}: {problem}", field.line));
        }
    }
    finish(draft, found)
}

fn take(draft: &mut Draft<'_>, found: &mut FieldValues, field: &Field) -> Result<(), String> {
    let value = &field.value;
    match field.name.as_str() {
        "minimum_guest_svn" => found.svn = small(value)?,
        "policy" => found.policy = Some(number(value)?),
        "family_id" => found.family_id = bytes(value)?,
        "image_id" => found.image_id = bytes(value)?,
        "vmpl" => match wrapped(value)? {
            0 => found.max_vmpl = Some(0),
            vmpl @ 1..=3 => {
                if draft.limit("vmpl", &format!("at most {vmpl}")) {
                    found.max_vmpl = Some(vmpl as u8);
                }
            }
            _ => return Err("is not 0 to 3".to_owned()),
        },
        "minimum_tcb" => found.tcb = number(value)?,
        "minimum_launch_tcb" => found.launch_tcb = number(value)?,
        "minimum_tcb_turin" => found.tcb_turin = number(value)?,
        "minimum_launch_tcb_turin" => found.launch_tcb_turin = number(value)?,
        "platform_info" => found.platform_info = Some(wrapped(value)?),
        "require_author_key" => found.require_author = flag(value)?,
        "require_id_block" => found.require_id_block = flag(value)?,
        "measurement" => found.measurement = bytes(value)?.map(Digest),
        "host_data" => found.host_data = bytes(value)?,
        "chip_id" => found.chip_id = chip(value)?,
        "minimum_build" => found.build = number(value)?,
        "minimum_version" => found.version = version(value)?,
        "permit_provisional_firmware" => found.provisional = flag(value)?,
        "trusted_author_key_hashes" => found.author_keys.extend(bytes(value)?.map(Digest)),
        "trusted_id_key_hashes" => found.id_keys.extend(bytes(value)?.map(Digest)),
        "product" => found.product = sev_product(draft, value)?,
        name @ ("report_data" | "report_id" | "report_id_ma") => {
            if *value != Value::Bytes(Vec::new()) {
                draft.cannot(
                    name,
                    "changes with every report or run; the gate compares REPORT_DATA with its own challenge",
                );
            }
        }
        name @ ("trusted_author_keys" | "trusted_id_keys") => {
            draft.cannot(
                name,
                "certificates are not imported; write the key's SHA-384 into the field with _hashes",
            );
        }
        _ => return Err("is not a known field of check.Policy".to_owned()),
    }
    Ok(())
}

fn finish(mut draft: Draft<'_>, found: FieldValues) -> Result<Imported, ImportError> {
    let product = found.product.or(draft.options.product);
    if let (Some(named), Some(given)) = (found.product, draft.options.product)
        && named != given
    {
        draft.refuse("product", format!("is {named}, --product is {given}"));
    }
    let turin = product == Some(Product::Turin);
    let (used, unused) = (
        [("minimum_tcb", found.tcb), ("minimum_launch_tcb", found.launch_tcb)],
        [("minimum_tcb_turin", found.tcb_turin), ("minimum_launch_tcb_turin", found.launch_tcb_turin)],
    );
    let (used, unused) = if turin { (unused, used) } else { (used, unused) };
    for (name, value) in unused {
        if value != 0 {
            draft.cannot(name, "belongs to a different product");
        }
    }
    let [tcb, launch_tcb] = used.map(|(name, value)| {
        let parts = product.map(|product| TcbVersion(value.to_le_bytes()).parts(product.layout()));
        if parts == Some(None) {
            draft.refuse(name, format!("{value:#x} has bits that are reserved on this product"));
        }
        parts.flatten()
    });
    // 0 is what is not there: every TCB is at least that.
    let tcb = tcb.filter(|_| used[0].1 != 0).or(draft.options.tcb).or(tcb);
    let launch_tcb = launch_tcb.filter(|_| used[1].1 != 0);

    let mut policy = found.policy.unwrap_or_default();
    if policy & GuestPolicy::RESERVED_ONE == 0 {
        draft.refuse("policy", "is missing, or bit 17 is not set: go-sev-guest does not accept that either");
    }
    if policy & 0xffff != 0 {
        draft.cannot("policy.abi", "policies here have no minimum ABI version of the guest policy");
    }
    if policy & !KNOWN_BITS != 0 {
        draft.refuse("policy", format!("{policy:#x} has unknown bits"));
    }
    for (bit, name, key) in [
        (GuestPolicy::DEBUG, "DEBUG", "unsafe_allow_debug"),
        (GuestPolicy::MIGRATE_MA, "MIGRATE_MA", "unsafe_allow_migration_agent"),
    ] {
        if policy & bit != 0 {
            draft.note(format!("policy: {name} was allowed; here it is not unless {key} = true is added"));
        }
    }
    policy &= KNOWN_BITS;

    if found.build != 0 {
        draft.cannot("minimum_build", "policies here have no minimum build for every version; platform.min_firmware compares major, minor, build in turn");
    }
    let mut forbidden = Vec::new();
    if let Some(info) = found.platform_info {
        if info & !PLATFORM_BITS != 0 {
            draft.cannot("platform_info", "the original compares bits 0 (SMT) and 1 (TSME) only");
        }
        draft.note("platform_info: unknown bits are refused, as in the original; real Turin chips set one");
        let unset = |bit: &PlatformBit| info & bit.mask() == 0;
        forbidden.extend([PlatformBit::Smt, PlatformBit::Tsme].into_iter().filter(unset));
    }

    // The original accepts either key; here every clause has to hold.
    let (mut id_keys, mut author_keys) = (found.id_keys, found.author_keys);
    if found.require_author {
        if author_keys.is_empty() {
            draft.refuse("require_author_key", "admits no guest without trusted_author_key_hashes");
        }
        if !id_keys.is_empty() {
            draft.note(
                "trusted_id_key_hashes: has no effect with require_author_key, in the original and here",
            );
            id_keys.clear();
        }
    } else if found.require_id_block {
        match (id_keys.is_empty(), author_keys.is_empty()) {
            (true, true) => draft.refuse("require_id_block", "admits no guest without trusted keys"),
            (false, false) => draft.cannot(
                "trusted_author_key_hashes",
                "with trusted_id_key_hashes means \"one of the two\"; here both have to hold",
            ),
            _ => {}
        }
        if draft.options.leave_out.iter().any(|name| name == "trusted_author_key_hashes") {
            author_keys.clear();
        }
    } else if !id_keys.is_empty() || !author_keys.is_empty() {
        draft.note(
            "trusted keys: were ignored without require_id_block or require_author_key; here they are checked",
        );
    }

    draft.finish(product, tcb, |out| {
        let (guest, platform) = (&mut out.guest, &mut out.platform);
        guest.min_svn = found.svn;
        guest.family_id = found.family_id;
        guest.image_id = found.image_id;
        guest.max_vmpl = found.max_vmpl.unwrap_or(3);
        guest.measurements = found.measurement.into_iter().collect();
        guest.host_data = found.host_data.into_iter().collect();
        guest.profiles = ["uki", "hashes", "disk"].map(str::to_owned).to_vec();
        guest.id_keys = id_keys;
        guest.author_keys = author_keys;
        platform.chip_ids = found.chip_id.into_iter().collect();
        platform.min_firmware =
            found.version.map(|(major, minor)| FirmwareVersion { major, minor, build: 0 });
        platform.allow_provisional = found.provisional;
        platform.forbid = forbidden;
        platform.refuse_unknown_bits = found.platform_info.is_some();
        if let Some((product, min)) = product.zip(launch_tcb.or_else(|| zero(product))) {
            platform.min_launch_tcb.insert(product, min);
        }
        for (bit, allows) in [
            (GuestBit::Smt, true),
            (GuestBit::CxlAllowed, true),
            (GuestBit::SingleSocket, false),
            (GuestBit::Aes256Xts, false),
            (GuestBit::RaplDisabled, false),
            (GuestBit::CiphertextHiding, false),
        ] {
            let set = policy & bit.mask() != 0;
            match (allows, set) {
                (true, false) => guest.forbid.push(bit),
                (false, true) => guest.require.push(bit),
                _ => {}
            }
        }
    })
}

/// No minimum for the TCB at launch. Left out, it would be the minimum of the report.
fn zero(product: Option<Product>) -> Option<TcbParts> {
    let fmc = (product? == Product::Turin).then_some(0);
    Some(TcbParts { fmc, bootloader: 0, tee: 0, snp: 0, microcode: 0 })
}

fn number(value: &Value) -> Result<u64, String> {
    match value {
        Value::Number(number) => Ok(*number),
        _ => Err("is not a number".to_owned()),
    }
}

fn small(value: &Value) -> Result<u32, String> {
    u32::try_from(number(value)?).map_err(|_| "does not fit into 32 bits".to_owned())
}

fn flag(value: &Value) -> Result<bool, String> {
    match value {
        Value::Word(word) if word == "true" => Ok(true),
        Value::Word(word) if word == "false" => Ok(false),
        _ => Err("is neither true nor false".to_owned()),
    }
}

/// A number in a message of its own, so that 0 is not "unset".
fn wrapped(value: &Value) -> Result<u64, String> {
    match value {
        Value::Message(fields) => match fields.as_slice() {
            [] => Ok(0),
            [Field { name, value, .. }] if name == "value" => number(value),
            _ => Err("is not { value: NUMBER }".to_owned()),
        },
        _ => Err("is not { value: NUMBER }".to_owned()),
    }
}

/// Bytes of this length; none are none.
fn bytes<const N: usize>(value: &Value) -> Result<Option<[u8; N]>, String> {
    match value {
        Value::Bytes(bytes) if bytes.is_empty() => Ok(None),
        Value::Bytes(bytes) => exact(bytes).map(Some),
        _ => Err("is not a string of bytes".to_owned()),
    }
}

fn chip(value: &Value) -> Result<Option<[u8; 64]>, String> {
    match value {
        Value::Bytes(bytes) if bytes.len() == 8 => {
            let mut id = [0; 64];
            id[..8].copy_from_slice(bytes);
            Ok(Some(id))
        }
        _ => bytes(value),
    }
}

fn version(value: &Value) -> Result<Option<(u8, u8)>, String> {
    let Value::Bytes(text) = value else { return Err("is not a string".to_owned()) };
    let wrong = || "is not a version such as \"1.55\"".to_owned();
    if text.is_empty() {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| wrong())?;
    let (major, minor) = text.split_once('.').ok_or_else(wrong)?;
    let parts = (major.parse().map_err(|_| wrong())?, minor.parse().map_err(|_| wrong())?);
    Ok(Some(parts).filter(|parts| *parts != (0, 0)))
}

fn sev_product(draft: &mut Draft<'_>, value: &Value) -> Result<Option<Product>, String> {
    let Value::Message(fields) = value else { return Err("is not { name: SEV_PRODUCT_... }".to_owned()) };
    let mut named = None;
    for Field { name, value, .. } in fields {
        match (name.as_str(), value) {
            ("name", Value::Word(word)) => {
                let found = word.strip_prefix("SEV_PRODUCT_").and_then(product);
                named = Some(found.ok_or_else(|| format!("{word} is not one of milan, genoa and turin"))?);
            }
            ("machine_stepping" | "stepping", _) => {
                draft.cannot("product.machine_stepping", "policies here have no clause for the stepping");
            }
            _ => return Err(format!("{name} is unknown")),
        }
    }
    Ok(named)
}
