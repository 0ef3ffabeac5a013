// SPDX-License-Identifier: Apache-2.0
//! A prediction as text.

use std::fmt::{self, Display};

use super::{PcrSignature, Prediction};

/// One line for each value, then why the others are missing.
pub fn show(prediction: &Prediction) -> impl Display + '_ {
    Text(prediction)
}

struct Text<'a>(&'a Prediction);

impl Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Prediction { bank, pcrs, unpredicted, signatures } = self.0;
        writeln!(f, "bank {bank}")?;
        for state in pcrs {
            write!(f, "{:>3}  {}", state.pcr, state.value)?;
            match state.phase.as_deref() {
                None => writeln!(f)?,
                Some(phase) => writeln!(f, "  {}", name(phase))?,
            }
        }
        writeln!(f, "not predicted")?;
        for left in unpredicted {
            let pcrs: Vec<String> = left.pcrs.iter().map(u8::to_string).collect();
            writeln!(f, "{:>3}  {}", pcrs.join(", "), left.reason)?;
        }
        if !signatures.is_empty() {
            writeln!(f, "signed policies")?;
        }
        for PcrSignature { key, pcrs, policy, phase } in signatures {
            let what = match phase {
                Some(phase) => name(phase).to_owned(),
                None => format!("not a predicted value of PCRs {pcrs:?}"),
            };
            writeln!(f, "     key {} policy {}  {what}", short(key), short(policy))?;
        }
        Ok(())
    }
}

/// A phase in words.
fn name(phase: &str) -> &str {
    if phase.is_empty() { "after the stub" } else { phase }
}

fn short(digest: &str) -> &str {
    digest.get(..16).unwrap_or(digest)
}
