// SPDX-License-Identifier: Apache-2.0
//! The launch digest of a plan.
//!
//! The security processor hashes every launched page into a chain ([`cvmm_snp::page_info`]), first the
//! imports of the plan, then one VMSA per vCPU. [`measure`] does the same from the plan, so the digest is
//! known before there is a guest; an [`Observer`] sees each step. The digest depends on firmware, kernel or
//! UKI, vCPU count, processor signature and SEV_FEATURES; not on the policy, the CPUID page, the secrets or
//! host data, and on the memory layout only in the `uki` profile, which measures a memory map.
//!
//! The chain is serial but cheap (two compressions a page); the pages are what takes time. They are read and
//! hashed in windows, by several threads where there are many, and a page of one repeated byte is hashed
//! once: four fifths of an OVMF image are 0xff. Memory does not grow with the size of the images.

mod pages;

use aws_lc_rs::digest::{Context, SHA384};
use cvmm_snp::digest::Digest;
use cvmm_snp::page_info::{PageInfo, PageType, VMSA_GPA};
use cvmm_snp::vmsa::Vmsa;
use zerocopy::IntoBytes;

use crate::blob::{Blob, ReadError};
use crate::firmware::{Firmware, SnpError};
use crate::hash::{sha384, sha384_value};
use crate::memory::MemoryLayout;
use crate::page::PAGE_SIZE;
use crate::plan::{LaunchPlan, PageImport, PageKind, PlanError, Profile, Source};
use crate::start;
use crate::vmsa::VcpuModel;

/// A plan that could not be measured.
#[derive(Debug, thiserror::Error)]
pub enum MeasureError {
    /// Content could not be read.
    #[error("cannot measure the {tag} pages: {error}")]
    Read {
        /// What the pages are.
        tag: &'static str,
        /// Why their content could not be read, with file and offset.
        error: ReadError,
    },
    /// The plan cannot launch an SNP guest, so it has no launch digest.
    #[error(transparent)]
    Snp(#[from] SnpError),
}

/// Observes the steps of a measurement, in order.
pub trait Observer {
    /// Measured content of one page of the import that comes next.
    fn page(&mut self, _gpa: u64, _contents: Digest) {}

    /// An import is done; `running` is the digest after its last page. `contents` is the SHA-384 of the
    /// hashes of its pages, so that content can be compared independently of its address; `None` for pages
    /// without content, and for an image that was not read.
    fn import(&mut self, _import: &PageImport, _running: Digest, _contents: Option<Digest>) {}

    /// The VMSA of vCPU `index` is done.
    fn vmsa(&mut self, _index: usize, _vmsa: &Vmsa, _running: Digest) {}
}

/// Observes nothing.
impl Observer for () {}

/// The running digest.
#[derive(Clone, Copy, Debug)]
struct Chain(Digest);

impl Chain {
    fn extend(&mut self, kind: PageType, gpa: u64, contents: Digest) {
        self.0 = sha384(PageInfo::new(self.0, kind, gpa, contents).as_bytes());
    }
}

/// The digest after the firmware image, which is always launched first: the same for every guest with this
/// firmware, so it can be computed once, or beside other work, or be known (`sev-snp-measure --mode
/// snp:ovmf-hash` prints it).
#[derive(Clone, Debug)]
pub struct FirmwareDigest {
    image: Blob,
    gpa: u64,
    running: Digest,
}

impl FirmwareDigest {
    /// Reads and hashes the image.
    pub fn compute(firmware: &Firmware) -> Result<Self, MeasureError> {
        let (image, gpa) = (firmware.image().clone(), firmware.gpa());
        let mut chain = Chain(Digest::ZERO);
        let source = Source::Blob { blob: image.clone(), offset: 0, len: image.len() };
        extend(&mut chain, gpa, image.len(), PageKind::Normal, &source, &mut ())
            .map_err(|error| MeasureError::Read { tag: "firmware", error })?;
        Ok(Self { image, gpa, running: chain.0 })
    }

    /// Uses `running` as the digest of `firmware` without reading its content. The tables of the image are
    /// still used.
    pub fn known(firmware: &Firmware, running: Digest) -> Self {
        Self { image: firmware.image().clone(), gpa: firmware.gpa(), running }
    }

    /// The digest after the image.
    pub fn running(&self) -> Digest {
        self.running
    }

    fn covers(&self, import: &PageImport) -> bool {
        let whole = |blob: &Blob, offset, len| {
            blob.is_clone_of(&self.image) && offset == 0 && len == self.image.len() && len == import.len
        };
        import.gpa == self.gpa
            && import.kind == PageKind::Normal
            && matches!(&import.source, Source::Blob { blob, offset, len } if whole(blob, *offset, *len))
    }
}

/// The launch digest of `plan` with vCPUs of `model`.
///
/// With a `firmware` digest the image is not read again (and [`Observer::page`] not called for it), provided
/// it is that of the plan's first import.
pub fn measure(
    plan: &LaunchPlan,
    model: VcpuModel,
    firmware: Option<&FirmwareDigest>,
    observer: &mut impl Observer,
) -> Result<Digest, MeasureError> {
    plan.check_snp()?;
    let mut chain = Chain(Digest::ZERO);
    for (index, import) in plan.imports().iter().enumerate() {
        let contents = match firmware.filter(|known| index == 0 && known.covers(import)) {
            Some(known) => {
                chain.0 = known.running;
                None
            }
            None => extend(&mut chain, import.gpa, import.len, import.kind, &import.source, observer)
                .map_err(|error| MeasureError::Read { tag: import.tag, error })?,
        };
        observer.import(import, chain.0, contents);
    }
    let mut last = None;
    for (index, start) in plan.vcpus().iter().enumerate() {
        // All application processors start in the same state.
        let (_, vmsa, contents) = match last.take() {
            Some(same @ (of, _, _)) if of == start => same,
            _ => {
                let vmsa = start::initial(start, model);
                let contents = sha384(vmsa.as_bytes());
                (start, vmsa, contents)
            }
        };
        chain.extend(PageType::Vmsa, VMSA_GPA, contents);
        observer.vmsa(index, &vmsa, chain.0);
        last = Some((start, vmsa, contents));
    }
    Ok(chain.0)
}

fn extend(
    chain: &mut Chain,
    gpa: u64,
    len: u64,
    kind: PageKind,
    source: &Source,
    observer: &mut impl Observer,
) -> Result<Option<Digest>, ReadError> {
    let kind = PageType::from(kind);
    if !kind.has_content() {
        (gpa..gpa + len).step_by(PAGE_SIZE as usize).for_each(|gpa| chain.extend(kind, gpa, Digest::ZERO));
        return Ok(None);
    }
    let mut at = gpa;
    let mut all = Context::new(&SHA384);
    let mut page = |contents: Digest| {
        chain.extend(kind, at, contents);
        all.update(&contents.0);
        observer.page(at, contents);
        at += PAGE_SIZE;
    };
    match source {
        Source::Blob { blob, offset, len: used } => pages::hash(blob, *offset, *used, &mut page)?,
        // No plan has normal pages without content; if one had, they would be zero.
        Source::None => {
            let zero = sha384(&[0; PAGE_SIZE as usize]);
            (0..len / PAGE_SIZE).for_each(|_| page(zero));
        }
    }
    Ok(Some(sha384_value(all.finish())))
}

/// [`LaunchPlan::build`] with the digest of the firmware computed at the same time: for the `hashes` profile
/// both take about as long.
pub fn build(
    firmware: &Firmware,
    profile: &Profile,
    memory: &MemoryLayout,
    vcpus: u32,
) -> Result<(LaunchPlan, Option<FirmwareDigest>), PlanError> {
    std::thread::scope(|scope| {
        // Without a second thread, or if it fails, `measure` reads the image and reports the error.
        let beside = matches!(profile, Profile::Hashes { .. }).then(|| {
            std::thread::Builder::new().spawn_scoped(scope, || FirmwareDigest::compute(firmware)).ok()
        });
        let plan = LaunchPlan::build(firmware, profile, memory, vcpus)?;
        let digest = beside.flatten().and_then(|thread| thread.join().ok()).and_then(Result::ok);
        Ok((plan, digest))
    })
}
