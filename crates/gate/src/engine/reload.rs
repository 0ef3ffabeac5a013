// SPDX-License-Identifier: Apache-2.0
//! Putting policies in force.

use std::sync::{Arc, PoisonError};

use cvmm_gate_protocol::messages::PolicyId;
use serde_json::{Value, json};

use super::core::{Engine, EngineError, load_policies};
use crate::policies::{self, ActivePolicy, Policies};

/// Policies in one line of the log.
const POLICIES_PER_LINE: usize = 64;

impl Engine {
    /// Reads the policies again. If one is invalid, all stay as they were.
    pub fn reload(&self) -> Result<usize, EngineError> {
        let result = self.read_policies();
        self.metrics.reloaded(result.is_ok());
        result
    }

    /// Reads the policies and puts them in force, all or none.
    fn read_policies(&self) -> Result<usize, EngineError> {
        let now = self.clock.now().map_err(EngineError::Clock)?;
        let loaded = load_policies(&self.config)?;
        let count = loaded.len();
        let mut in_force = self.policies.write().unwrap_or_else(PoisonError::into_inner);
        let mut lines = vec![summary(&loaded)];
        // The list itself, so that its digest can be resolved, unless it was in force before.
        let digest = policies::list_digest(&loaded);
        if in_force.is_empty() || policies::list_digest(&in_force) != digest {
            let all: Vec<&PolicyId> = loaded.values().map(|policy: &Arc<ActivePolicy>| &policy.id).collect();
            let parts = all.chunks(POLICIES_PER_LINE);
            lines.extend(parts.map(
                |part| json!({ "event": "policy-list", "list_sha384": digest.to_string(), "policies": part }),
            ));
        }
        self.audit.append_all(now, &lines)?;
        if let Err(error) = policies::remember(&loaded, &self.config.state.join("versions")) {
            // The log has to say what is in force, which is what was before.
            self.audit.append(now, &summary(&in_force))?;
            return Err(error.into());
        }
        *in_force = Arc::new(loaded);
        Ok(count)
    }
}

fn summary(policies: &Policies) -> Value {
    let digest = policies::list_digest(policies);
    json!({ "event": "policies", "count": policies.len(), "list_sha384": digest.to_string() })
}
