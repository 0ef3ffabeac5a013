// SPDX-License-Identifier: Apache-2.0
//! The checklist as a table: a line per item with its fix below it, and the conclusion at the end.

use std::fmt::Write;

use super::{Report, Status};

/// Column at which evidence is wrapped; longer words are not broken.
const WIDTH: usize = 110;

impl Status {
    /// The word in the table. Capitals, not colours, mark what needs attention.
    fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Fatal => "FATAL",
            Self::Policy => "POLICY",
            Self::Warning => "WARNING",
            Self::Unknown => "UNKNOWN",
        }
    }
}

impl Report {
    /// A line for a machine without a suitable processor, since most other items follow from that.
    fn wrong_machine(&self) -> Option<String> {
        let fatal = |id| self.item(id).filter(|item| item.status == Status::Fatal);
        let item = fatal("cpu.vendor").or_else(|| fatal("cpu.model"))?;
        let evidence = item.evidence.replace(|c: char| c.is_control(), " ");
        Some(format!(
            "SNP guests need an AMD EPYC processor of the third generation or later; this machine has none: \
             {evidence}."
        ))
    }

    /// The table.
    #[must_use]
    pub fn table(&self) -> String {
        let id_width = self.items.iter().map(|item| item.id.len()).max().unwrap_or(0);
        let mut table = self.wrong_machine().map_or_else(String::new, |line| line + "\n\n");
        for item in &self.items {
            let head = format!("{:<7}  {:<id_width$}  ", item.status.word(), item.id);
            wrap(&mut table, &head, &item.evidence);
            if let Some(fix) = &item.fix {
                wrap(&mut table, &format!("{:indent$}fix: ", "", indent = head.len()), fix);
            }
        }
        let count = |status| self.items.iter().filter(|item| item.status == status).count();
        let conclusion = match self.fatal {
            0 => "this host can launch SNP guests".to_owned(),
            1 => "this host cannot launch SNP guests: 1 fatal item".to_owned(),
            fatal => format!("this host cannot launch SNP guests: {fatal} fatal items"),
        };
        let emulated = if self.emulated { "; EMULATED: SNP protects nothing" } else { "" };
        // Writing to a String does not fail.
        let _ = writeln!(
            table,
            "\n{conclusion} (warnings: {}, subject to policy: {}, unknown: {}){emulated}",
            count(Status::Warning),
            count(Status::Policy),
            count(Status::Unknown),
        );
        table
    }
}

/// Writes a head and text after it, wrapped so that all lines of the text are aligned.
fn wrap(table: &mut String, head: &str, text: &str) {
    let (mut column, mut fresh) = (head.len(), true);
    table.push_str(head);
    // Evidence quotes foreign text, which must not control the terminal.
    let text = cvmm_reason::printable::lines(text);
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if !fresh && column + 1 + length > WIDTH {
            let _ = write!(table, "\n{:indent$}", "", indent = head.len());
            (column, fresh) = (head.len(), true);
        }
        if !fresh {
            table.push(' ');
            column += 1;
        }
        table.push_str(word);
        column += length;
        fresh = false;
    }
    table.push('\n');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_and_hostile_text_stays_in_its_column() {
        let mut table = String::new();
        wrap(&mut table, "ok  id  ", &format!("a\x1b[31m{}", " word".repeat(40)));
        assert!(table.lines().count() > 1 && table.lines().all(|line| line.len() <= WIDTH));
        assert!(!table.contains('\x1b'));
        assert!(table.lines().skip(1).all(|line| line.starts_with("        word")));
        let mut table = String::new();
        wrap(&mut table, "", &"x".repeat(300));
        assert_eq!(table.len(), 301);
    }
}
