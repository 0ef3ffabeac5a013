// SPDX-License-Identifier: Apache-2.0
//! Timelines as Trace Event JSON, which Perfetto and chrome://tracing open.
//!
//! Each recording is a process of the trace, with one thread for its activities (complete events) and one for
//! its marks (instant events). All recordings start at 0, so that boots can be compared. Source: "Trace Event
//! Format", JSON object format; times are in microseconds, with a fraction for the nanoseconds.

use serde_json::{Value, json};

use crate::activity::activities;
use crate::record::Recording;

/// Thread of the activities.
const ACTIVITIES: u32 = 1;
/// Thread of the marks.
const MARKS: u32 = 2;
/// `otherData.writer`, by which a file is recognised.
const WRITER: &str = "cvmm timeline";

/// Converts the recordings, which [`Recording::read`] has checked; `label` names each if there are several.
#[must_use]
pub fn trace(recordings: &[(String, Recording)]) -> String {
    let mut events = Vec::new();
    for (pid, (label, recording)) in (1_u32..).zip(recordings) {
        let name = if recordings.len() > 1 { label } else { &recording.vm };
        add(&mut events, pid, name, recording);
    }
    let trace = json!({
        "traceEvents": events,
        "displayTimeUnit": "ms",
        "otherData": { "writer": WRITER, "version": env!("CARGO_PKG_VERSION") },
    });
    format!("{trace:#}\n")
}

fn add(events: &mut Vec<Value>, pid: u32, name: &str, recording: &Recording) {
    let metadata = |tid: u32, what: &str, key: &str, value: Value| json!({ "ph": "M", "pid": pid, "tid": tid, "name": what, "args": { (key): value } });
    events.push(metadata(ACTIVITIES, "process_name", "name", name.into()));
    events.push(metadata(ACTIVITIES, "process_sort_index", "sort_index", pid.into()));
    if let Some(end) = recording.end() {
        events.push(metadata(ACTIVITIES, "process_labels", "labels", end.into()));
    }
    events.push(metadata(ACTIVITIES, "thread_name", "name", "activities".into()));
    events.push(metadata(MARKS, "thread_name", "name", "marks".into()));
    for activity in activities(recording) {
        events.push(json!({
            "ph": "X", "pid": pid, "tid": ACTIVITIES, "cat": "boot", "name": activity.name,
            "ts": microseconds(activity.start), "dur": microseconds(activity.length()),
        }));
    }
    for mark in &recording.phases {
        events.push(json!({
            "ph": "i", "pid": pid, "tid": MARKS, "cat": "boot", "name": mark.name,
            "ts": microseconds(mark.ns), "s": "t",
        }));
    }
    // Not events in time: how often the guest left KVM_RUN, by reason.
    if let Some(exits) = &recording.exits {
        let last = recording.phases.last().map_or(0, |mark| mark.ns);
        events.push(json!({
            "ph": "i", "pid": pid, "tid": MARKS, "cat": "boot", "name": "exits",
            "ts": microseconds(last), "s": "t", "args": exits,
        }));
    }
}

fn microseconds(ns: u64) -> f64 {
    ns as f64 / 1e3
}

/// Whether this is a trace made by [`trace`].
#[must_use]
pub fn is_trace(content: &[u8]) -> bool {
    let trace = serde_json::from_slice::<Value>(content);
    trace.is_ok_and(|trace| trace.pointer("/otherData/writer").is_some_and(|writer| writer == WRITER))
}
