// SPDX-License-Identifier: Apache-2.0
//! Events of bounded size: long texts, lists and tables are cut, and marked as cut.
//!
//! Messages come from clients, and reasons quote them. A line that is too long for the reader would keep the
//! gate from starting, so the writer bounds every event.

use std::io;

use aws_lc_rs::digest::{Context, SHA384};
use serde_json::{Map, Value, json};

use super::hash;

/// Longest event in bytes of JSON, without the members that the log adds.
pub(super) const MAX_EVENT: usize = 32 << 10;
/// Nested arrays and objects; a JSON parser has a limit too.
const MAX_DEPTH: usize = 8;
/// Members that identify an event's subject, kept even if nothing else fits.
const NAMES: [&str; 8] = ["event", "client", "role", "vm", "session", "question", "protocol", "peer"];
/// Length of texts, and number of elements of lists and tables: the first pair with which the event fits is
/// used.
const LIMITS: [(usize, usize); 4] = [(16 << 10, 256), (1024, 64), (256, 16), (64, 8)];

/// `event`, cut to [`MAX_EVENT`] bytes.
pub(super) fn bounded(event: Map<String, Value>) -> Map<String, Value> {
    let fits = |event: &Map<String, Value>| len(event) <= MAX_EVENT;
    // Nearly every event is small, and is not copied.
    if fits(&event) && depth(&event) <= MAX_DEPTH {
        return event;
    }
    for (text, items) in LIMITS {
        let cut = table(&event, text, items, MAX_DEPTH);
        if fits(&cut) {
            return cut;
        }
    }
    let names =
        NAMES.iter().filter_map(|name| Some(((*name).to_owned(), value(event.get(*name)?, 64, 0, 0))));
    let mut cut: Map<_, _> = names.collect();
    let Sink { bytes, hash } = Sink::of(&event, Some(Context::new(&SHA384)));
    let hash = hash.map(|hash| hex::encode(hash.finish()));
    cut.insert("omitted".into(), json!({ "bytes": bytes, "sha384": hash }));
    cut
}

/// Counts bytes, and hashes them if it has a context.
struct Sink {
    bytes: usize,
    hash: Option<Context>,
}

impl io::Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len();
        if let Some(hash) = &mut self.hash {
            hash.update(bytes);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Sink {
    /// Writes all of `event` as JSON.
    fn of(event: &Map<String, Value>, hash: Option<Context>) -> Self {
        let mut sink = Self { bytes: 0, hash };
        if serde_json::to_writer(&mut sink, event).is_err() {
            // Names and values are always JSON; anything else would not fit.
            sink.bytes = usize::MAX;
        }
        sink
    }
}

fn len(event: &Map<String, Value>) -> usize {
    Sink::of(event, None).bytes
}

fn depth(event: &Map<String, Value>) -> usize {
    fn of(value: &Value) -> usize {
        match value {
            Value::Array(items) => 1 + items.iter().map(of).max().unwrap_or(0),
            Value::Object(members) => 1 + members.values().map(of).max().unwrap_or(0),
            _ => 0,
        }
    }
    1 + event.values().map(of).max().unwrap_or(0)
}

/// `text`, cut to about `limit` bytes: its start, its length, and its SHA-384, which identifies it.
pub(crate) fn text(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    let start = text.get(..end).unwrap_or_default();
    format!("{start}... ({} bytes, SHA-384 {})", text.len(), hash(text.as_bytes()))
}

fn value(whole: &Value, limit: usize, items: usize, levels: usize) -> Value {
    match whole {
        Value::String(long) => Value::String(text(long, limit)),
        Value::Array(_) | Value::Object(_) if levels == 0 => json!({ "omitted": "nested too deep" }),
        Value::Array(all) => {
            let mut list: Vec<_> =
                all.iter().take(items).map(|item| value(item, limit, items, levels - 1)).collect();
            if all.len() > items {
                list.push(json!({ "omitted": all.len() - items }));
            }
            Value::Array(list)
        }
        Value::Object(members) => Value::Object(table(members, limit, items, levels - 1)),
        other => other.clone(),
    }
}

fn table(members: &Map<String, Value>, limit: usize, items: usize, levels: usize) -> Map<String, Value> {
    let member = |(name, inner): (&String, &Value)| (text(name, 64), value(inner, limit, items, levels));
    let mut cut: Map<_, _> = members.iter().take(items).map(member).collect();
    if members.len() > items {
        cut.insert("omitted".into(), (members.len() - items).into());
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(event) => event,
            other => panic!("{other}"),
        }
    }

    #[test]
    fn an_event_that_fits_is_as_it_was() {
        let event = object(json!({ "event": "denied", "reasons": [{ "code": "x", "message": "y" }] }));
        assert_eq!(bounded(event.clone()), event);
    }

    #[test]
    fn long_values_are_cut_and_marked() {
        let long = "\u{1}".repeat(100 << 10);
        let mut deep = json!(1);
        for _ in 0..100 {
            deep = json!([deep]);
        }
        let many: Vec<_> = (0..10_000).map(|number| format!("policy {number}")).collect();
        let table: Map<_, _> = many.iter().map(|name| (name.clone(), json!(name))).collect();
        for extra in [
            json!(long),
            deep,
            json!(many),
            Value::Object(table),
            json!([vec![long.clone(); 9], vec![long.clone(); 9]]),
        ] {
            let event = json!({ "event": "denied", "vm": "a", "extra": extra, "z": "last" });
            let cut = bounded(object(event));
            let text = serde_json::to_string(&cut).unwrap();
            assert!(text.len() <= MAX_EVENT, "{}", text.len());
            assert_eq!((cut["event"].as_str(), cut["vm"].as_str()), (Some("denied"), Some("a")));
            assert!(text.contains("bytes, SHA-384") || text.contains("omitted"), "{text}");
        }
        // Names of members can be long too.
        let cut = bounded(object(json!({ long.clone(): 1, "event": long })));
        assert!(len(&cut) <= MAX_EVENT && cut.len() == 2);
    }
}
