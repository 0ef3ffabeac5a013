// SPDX-License-Identifier: Apache-2.0
//! Timeline files: what is read can be drawn, and the drawing is well-formed whatever the names are.
#![no_main]

use std::path::Path;

use cvmm_timeline::{Recording, draw, trace};
use libfuzzer_sys::fuzz_target;

/// Most bytes a picture of one recording may have: 64 phases and a few counters.
const MAX_SVG: usize = 256 << 10;

fuzz_target!(|data: &[u8]| {
    let Ok(recording) = Recording::parse(Path::new("t.json"), data) else { return };
    let one = draw(&[("a".into(), recording.clone())]);
    check(&one);
    assert!(trace(&[("a".into(), recording.clone())]).ends_with("}\n"));
    let vm = recording.vm.clone();
    check(&draw(&[(vm, recording.clone()), ("<&\">".into(), recording)]));
});

/// Tags balance, and no character of a name escapes into the markup.
fn check(svg: &str) {
    assert!(svg.len() <= MAX_SVG, "{} bytes", svg.len());
    assert!(svg.starts_with("<svg ") && svg.trim_end().ends_with("</svg>"));
    assert!(!svg.contains("=\"NaN\""), "a coordinate that is not a number");
    assert!(!svg.contains("=\"inf\""), "an infinite coordinate");
    let mut open: Vec<&str> = Vec::new();
    let mut rest = svg;
    while let Some(at) = rest.find('<') {
        assert!(!rest[..at].contains('>') || open.last() == Some(&"style"), "a stray bracket");
        let end = at + rest[at..].find('>').expect("a tag that ends");
        let tag = &rest[at + 1..end];
        rest = &rest[end + 1..];
        assert_eq!(tag.matches('"').count() % 2, 0, "quotes in <{tag}>");
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "</{name}>");
        } else if !tag.ends_with('/') {
            open.push(tag.split(' ').next().unwrap_or_default());
        }
    }
    assert!(open.is_empty(), "{open:?} are not closed");
    let control = |c: char| c != '\n' && c.is_control();
    assert!(!svg.contains(control), "a control character");
}
