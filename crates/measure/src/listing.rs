// SPDX-License-Identifier: Apache-2.0
//! A measured plan as data: what is shown, saved and compared.
//!
//! The JSON form is documented in docs/reference/measure.md and read back strictly: a plan with an unknown
//! field would be compared wrongly without a word. Addresses, register values and hashes are text in
//! hexadecimal, counts are numbers.

use std::collections::{BTreeMap, BTreeSet};

use cvmm_launch::digest::Observer;
use cvmm_launch::firmware::Firmware;
use cvmm_launch::hashes::{KernelHashes, TABLE_LEN};
use cvmm_launch::memory::MemoryLayout;
use cvmm_launch::plan::{LaunchPlan, PAGE_SIZE, PageImport, Source};
use cvmm_launch::vmsa::VcpuModel;
use cvmm_snp::digest::Digest;
use cvmm_snp::vmsa::Vmsa;
use serde::{Deserialize, Serialize};

/// A measured plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listing {
    /// Version of the JSON form.
    pub format: Format,
    /// The launch digest.
    #[serde(with = "text")]
    pub launch_digest: Digest,
    /// Boot profile.
    pub profile: String,
    /// Number of vCPUs.
    pub vcpus: usize,
    /// CPUID leaf 1, EAX.
    #[serde(with = "hex")]
    pub vcpu_signature: u64,
    /// SEV_FEATURES.
    #[serde(with = "hex")]
    pub guest_features: u64,
    /// RAM in bytes below and above 4 GiB; measured only in the `uki` profile.
    pub memory: [u64; 2],
    /// What the firmware says of itself; absent if the guest comes from an IGVM file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub firmware: Option<FirmwareFacts>,
    /// The entries of the kernel-hash table, if there is one: SHA-256.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub kernel_hashes: BTreeMap<String, String>,
    /// Page ranges in launch order.
    pub imports: Vec<Import>,
    /// Runs of vCPUs with the same VMSA, in order.
    pub vmsas: Vec<VmsaRun>,
    /// The ID block made for this launch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<Id>,
}

/// Version of the JSON form; there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Format {
    /// The first.
    #[default]
    #[serde(rename = "cvmm-launch-plan-1")]
    One,
}

/// What the firmware says of itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FirmwareFacts {
    /// SHA-256 of the image file, if it was read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Where the bootstrap processor starts.
    #[serde(with = "hex")]
    pub reset_vector: u64,
    /// Where the others start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ap_start: Option<String>,
    /// Page of the IGVM parameters, used by the `uki` profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub igvm_parameters: Option<String>,
    /// Page of the IGVM HOBs, used by the `uki` profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub igvm_hobs: Option<String>,
    /// Area of the kernel-hash table, used by the `hashes` profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernel_hashes: Option<String>,
}

/// A page range.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Import {
    /// First guest physical address.
    #[serde(with = "hex")]
    pub gpa: u64,
    /// Number of pages.
    pub pages: u64,
    /// Kind of the pages.
    pub kind: String,
    /// What they are.
    pub tag: String,
    /// File the content comes from; `None` for pages without.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<Origin>,
    /// Digest after the last page.
    #[serde(with = "text")]
    pub running_digest: Digest,
    /// SHA-384 of the hashes of the pages of content; `None` for pages without, and for firmware that was not
    /// read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contents_digest: Option<String>,
    /// Hashes of the pages of content in order, equal neighbours together. Only on request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contents: Vec<Contents>,
}

/// Where content comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Origin {
    /// File, or what cvmm has made it from.
    pub name: String,
    /// First byte used.
    pub offset: u64,
    /// Number of bytes used; the last page is filled up with zeros.
    pub len: u64,
}

/// Equal pages in a row.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Contents {
    /// How many.
    pub pages: u64,
    /// SHA-384 of each.
    #[serde(with = "text")]
    pub sha384: Digest,
}

/// vCPUs with the same VMSA.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct VmsaRun {
    /// The first one's number.
    pub first: usize,
    /// How many.
    pub count: usize,
    /// Digest after the last one.
    #[serde(with = "text")]
    pub running_digest: Digest,
    /// Fields that are not zero.
    pub fields: BTreeMap<String, String>,
    /// Where they are in the VMSA; for listings.
    #[serde(skip)]
    pub offsets: BTreeMap<String, usize>,
}

/// An ID block in short.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Id {
    /// Guest policy in the block.
    #[serde(with = "hex")]
    pub policy: u64,
    /// ID_KEY_DIGEST of the guest's reports.
    #[serde(with = "text")]
    pub id_key_digest: Digest,
    /// AUTHOR_KEY_DIGEST of the guest's reports.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author_key_digest: Option<String>,
}

impl Listing {
    /// Reads a saved plan.
    ///
    /// # Errors
    /// It is not one, has fields that are not known, or two page ranges at one address.
    pub fn from_json(text: &[u8]) -> Result<Self, serde_json::Error> {
        let listing: Self = serde_json::from_slice(text)?;
        let mut seen = BTreeSet::new();
        // Ranges are matched by address, so no two may have the same.
        match listing.imports.iter().find(|import| !seen.insert(import.gpa)) {
            Some(Import { gpa, .. }) => {
                Err(serde::de::Error::custom(format!("two page ranges start at {gpa:#x}")))
            }
            None => Ok(listing),
        }
    }
}

/// What a listing says of the guest as a whole.
pub(crate) struct Facts<'a> {
    pub(crate) firmware: Option<&'a Firmware>,
    /// Of the firmware's image, if it was read.
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) memory: &'a MemoryLayout,
    pub(crate) profile: &'static str,
    pub(crate) plan: &'a LaunchPlan,
    pub(crate) model: VcpuModel,
}

/// Makes a listing of what a measurement goes through.
pub(crate) struct Collector {
    pages: bool,
    contents: Vec<Contents>,
    imports: Vec<Import>,
    vmsas: Vec<VmsaRun>,
    last: Option<Vmsa>,
}

impl Collector {
    pub(crate) fn new(pages: bool) -> Self {
        Self { pages, contents: Vec::new(), imports: Vec::new(), vmsas: Vec::new(), last: None }
    }

    pub(crate) fn finish(self, facts: &Facts<'_>, launch_digest: Digest) -> Listing {
        let Facts { firmware, sha256, memory, profile, plan, model } = facts;
        Listing {
            format: Format::One,
            launch_digest,
            profile: (*profile).to_owned(),
            vcpus: plan.vcpus().len(),
            vcpu_signature: model.signature.0.into(),
            guest_features: model.features.0,
            memory: [memory.low, memory.high],
            firmware: firmware.map(|firmware| firmware_facts(firmware, *sha256)),
            kernel_hashes: firmware.and_then(|firmware| kernel_hashes(firmware, plan)).unwrap_or_default(),
            imports: self.imports,
            vmsas: self.vmsas,
            id: None,
        }
    }
}

impl Observer for Collector {
    fn page(&mut self, _: u64, sha384: Digest) {
        match self.contents.last_mut().filter(|last| last.sha384 == sha384) {
            _ if !self.pages => {}
            Some(last) => last.pages += 1,
            None => self.contents.push(Contents { pages: 1, sha384 }),
        }
    }

    fn import(&mut self, import: &PageImport, running_digest: Digest, contents: Option<Digest>) {
        let source = match &import.source {
            Source::None => None,
            Source::Blob { blob, offset, len } => {
                Some(Origin { name: blob.to_string(), offset: *offset, len: *len })
            }
        };
        self.imports.push(Import {
            gpa: import.gpa,
            pages: import.len / PAGE_SIZE,
            kind: import.kind.name().to_owned(),
            tag: import.tag.to_owned(),
            source,
            running_digest,
            contents_digest: contents.map(|digest| digest.to_string()),
            contents: std::mem::take(&mut self.contents),
        });
    }

    fn vmsa(&mut self, index: usize, vmsa: &Vmsa, running_digest: Digest) {
        let same = self.last.as_ref() == Some(vmsa);
        if let Some(run) = self.vmsas.last_mut().filter(|_| same) {
            run.count += 1;
            run.running_digest = running_digest;
            return;
        }
        let fields = vmsa.nonzero_fields();
        self.vmsas.push(VmsaRun {
            first: index,
            count: 1,
            running_digest,
            offsets: fields.iter().map(|field| (field.name.clone(), field.offset)).collect(),
            fields: fields.into_iter().map(|field| (field.name, field.value)).collect(),
        });
        self.last = Some(vmsa.clone());
    }
}

fn firmware_facts(firmware: &Firmware, sha256: Option<[u8; 32]>) -> FirmwareFacts {
    let igvm = firmware.igvm().unwrap_or_default();
    FirmwareFacts {
        sha256: sha256.map(::hex::encode),
        reset_vector: firmware.reset_vector().into(),
        ap_start: firmware.ap_start().map(|eip| format!("{eip:#x}")),
        igvm_parameters: igvm.parameters.map(|area| format!("{:#x}", area.gpa)),
        igvm_hobs: igvm.hobs.map(|area| format!("{:#x}", area.gpa)),
        kernel_hashes: firmware.kernel_hashes().map(|area| format!("{:#x}", area.gpa)),
    }
}

/// The table in the plan, read back from the page that is launched.
fn kernel_hashes(firmware: &Firmware, plan: &LaunchPlan) -> Option<BTreeMap<String, String>> {
    let area = firmware.kernel_hashes()?;
    let import = plan.imports().iter().find(|import| import.gpa == area.page())?;
    let Source::Blob { blob, offset, .. } = &import.source else { return None };
    let mut table = [0; TABLE_LEN];
    blob.read_exact_at(&mut table, offset + area.offset_in_page()).ok()?;
    let KernelHashes { cmdline, initrd, kernel } = KernelHashes::from_table(&table)?;
    Some(
        [("cmdline", cmdline), ("initrd", initrd), ("kernel", kernel)]
            .map(|(k, v)| (k.to_owned(), ::hex::encode(v)))
            .into(),
    )
}

/// Values that are their text.
mod text {
    use std::fmt::Display;
    use std::str::FromStr;

    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<T: Display, S: Serializer>(value: &T, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(value)
    }

    pub(super) fn deserialize<'de, T, D>(from: D) -> Result<T, D::Error>
    where
        T: FromStr<Err: Display>,
        D: Deserializer<'de>,
    {
        String::deserialize(from)?.parse().map_err(D::Error::custom)
    }
}

/// Numbers as `0x…`.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(value: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(&format_args!("{value:#x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let text = String::deserialize(from)?;
        text.strip_prefix("0x").and_then(|digits| u64::from_str_radix(digits, 16).ok()).ok_or_else(|| {
            D::Error::custom(format!("\"{text}\" is not a hexadecimal number such as \"0x1000\""))
        })
    }
}
