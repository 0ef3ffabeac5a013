// SPDX-License-Identifier: Apache-2.0
//! Launch plans, launched page by page by the software security processor.

use std::collections::BTreeMap;
use std::io;

use cvmm_launch::plan::{LaunchPlan, PageSink, place};
use cvmm_launch::start;
use cvmm_launch::vmsa::VcpuModel;
use cvmm_psp::PAGE;
use cvmm_snp::page_info::{PageType, VMSA_GPA};
use zerocopy::IntoBytes as _;

use crate::psp::{Guest, Kind, Rig};

/// What [`place`] has written, by page.
#[derive(Default)]
struct Pages(BTreeMap<u64, Vec<u8>>);

impl PageSink for Pages {
    fn write(&mut self, gpa: u64, bytes: &[u8]) -> io::Result<()> {
        let mut at = 0;
        while at < bytes.len() {
            let address = gpa + at as u64;
            let start = (address % PAGE) as usize;
            let len = (PAGE as usize - start).min(bytes.len() - at);
            let page = self.0.entry(address - start as u64).or_insert_with(|| vec![0; PAGE as usize]);
            page[start..start + len].copy_from_slice(&bytes[at..at + len]);
            at += len;
        }
        Ok(())
    }
}

fn kind(kind: PageType) -> Kind {
    Kind { bits: (kind as u32) << 1, perms: [0; 3] }
}

impl Rig {
    /// Launches the pages and vCPUs of a plan. The system addresses of its pages, by guest address.
    pub fn launch_plan(&mut self, guest: Guest, plan: &LaunchPlan, model: VcpuModel) -> BTreeMap<u64, u64> {
        let mut pages = Pages::default();
        place(plan, &mut pages).unwrap();
        let mut launched = BTreeMap::new();
        for import in plan.imports() {
            for gpa in (import.gpa..import.gpa + import.len).step_by(PAGE as usize) {
                let content = pages.0.get(&gpa).map_or(&[][..], Vec::as_slice);
                launched.insert(gpa, self.launch_page(guest, gpa, content, kind(import.kind.into())));
            }
        }
        for start in plan.vcpus() {
            let content = start::initial(start, model);
            self.launch_page(guest, VMSA_GPA, content.as_bytes(), kind(PageType::Vmsa));
        }
        launched
    }
}
