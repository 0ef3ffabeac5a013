// SPDX-License-Identifier: Apache-2.0
//! The file `cvmm run --timeline` writes.

use std::path::Path;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// A parsed timeline.
#[derive(Debug)]
pub struct Timeline {
    phases: Vec<(String, u64)>,
    /// As written.
    pub json: Value,
}

impl Timeline {
    /// Reads `path`.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("no timeline {}", path.display()))?;
        let json: Value = serde_json::from_str(&text).context("the timeline is not JSON")?;
        let phases = json.get("phases").and_then(Value::as_array).context("the timeline has no phases")?;
        let phases = phases
            .iter()
            .map(|phase| {
                let name = phase.get("name").and_then(Value::as_str).context("a phase without a name")?;
                let at = phase.get("ns").and_then(Value::as_u64).context("a phase without a time")?;
                Ok((name.to_owned(), at))
            })
            .collect::<Result<_>>()?;
        Ok(Self { phases, json })
    }

    /// Nanoseconds from cvmm's start to the phase, if it was reached.
    pub fn at(&self, phase: &str) -> Option<u64> {
        self.phases.iter().find(|(name, _)| name == phase).map(|(_, at)| *at)
    }

    /// Checks that all `phases` were reached, in this order.
    pub fn in_order(&self, phases: &[&str]) -> Result<()> {
        let mut last = 0;
        for phase in phases {
            let Some(at) = self.at(phase) else {
                bail!("no phase {phase:?} in the timeline: {:?}", self.phases)
            };
            ensure!(at >= last, "phase {phase:?} is too early: {:?}", self.phases);
            last = at;
        }
        Ok(())
    }
}
