// SPDX-License-Identifier: Apache-2.0
//! Text from files, reports and guests, made safe to show.
//!
//! Such a text may hold sequences that move a terminal's cursor, change what was printed before, or reverse
//! the direction of writing. Every program of cvmm passes what it prints through these functions.

#![forbid(unsafe_code)]

use std::borrow::Cow;

/// Whether a terminal would do something other than show this character.
fn steers(character: char) -> bool {
    character.is_control()
        || matches!(character, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

fn escaped(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    let bad = |character: char| steers(character) && !keep(character);
    if !text.contains(bad) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        if bad(character) {
            // All of them are in the basic plane: the form is also that of JSON and TOML.
            out.push_str(&format!("\\u{:04x}", u32::from(character)));
        } else {
            out.push(character);
        }
    }
    Cow::Owned(out)
}

/// `text` on one line: each control character is shown as `\uXXXX`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    escaped(text, |_| false)
}

/// `text` with its line breaks and tabs: each other control character is shown as `\uXXXX`. What is a JSON
/// document stays one with the same meaning.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    escaped(text, |character| matches!(character, '\n' | '\t'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_steers_a_terminal_is_shown_instead() {
        assert_eq!(line("plain \u{e9}\u{4e2d} text"), "plain \u{e9}\u{4e2d} text");
        assert!(matches!(line("plain"), Cow::Borrowed(_)));
        assert_eq!(line("a\x1b[2Jb\r\nc\x07"), "a\\u001b[2Jb\\u000d\\u000ac\\u0007");
        assert_eq!(lines("a\tb\n\x1b[1mc\x7f"), "a\tb\n\\u001b[1mc\\u007f");
        // A control sequence in one character, and text that runs backwards.
        assert_eq!(lines("\u{9b}31m\u{202e}gpj.exe"), "\\u009b31m\\u202egpj.exe");
        let json = serde_json::json!({ "x": "\u{9b}2J\x1b\u{7f}" });
        let text = json.to_string();
        let shown = lines(&text);
        assert!(shown.is_ascii(), "{shown}");
        assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).unwrap(), json);
    }
}
