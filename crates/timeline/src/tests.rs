// SPDX-License-Identifier: Apache-2.0
//! Recording, the file and the drawing.

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::*;

fn recording(marks: &[(&str, u64)]) -> Recording {
    let phases = marks.iter().map(|(name, ns)| Mark { name: (*name).to_owned(), ns: *ns }).collect();
    Recording {
        version: 1,
        vm: "vm".to_owned(),
        start_unix_ns: 1,
        phases,
        exits: None,
        ended_in: None,
        exit_code: None,
    }
}

fn boot(kernel: u64) -> Recording {
    let ms = 1_000_000;
    recording(&[
        ("process_start", 0),
        ("config", 2 * ms),
        ("plan", 5 * ms),
        ("vm_created", 9 * ms),
        ("memory", 14 * ms),
        ("first_run", 15 * ms),
        ("firmware", 17 * ms),
        ("kernel", kernel * ms),
        ("user_space", (kernel + 900) * ms),
        ("power_off", (kernel + 1200) * ms),
        ("exit", (kernel + 1210) * ms),
    ])
}

#[test]
fn the_first_mark_of_a_phase_counts_from_any_thread() {
    let timeline = Timeline::start();
    assert_eq!(timeline.reached(Phase::Config), None);
    let firsts: usize = std::thread::scope(|scope| {
        let threads: Vec<_> =
            (0..8).map(|_| scope.spawn(|| usize::from(timeline.mark(Phase::Config)))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert_eq!(firsts, 1);
    let first = timeline.reached(Phase::Config).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(2));
    assert!(!timeline.mark(Phase::Config));
    assert_eq!(timeline.reached(Phase::Config), Some(first));
    assert!(timeline.mark(Phase::Exit));
    assert!(timeline.reached(Phase::Exit).unwrap() >= first + 2_000_000);
    assert!(!timeline.mark(Phase::ProcessStart));
    let recording = timeline.recording("vm", None);
    let names: Vec<_> = recording.phases.iter().map(|mark| mark.name.as_str()).collect();
    assert_eq!(names, ["process_start", "config", "exit"]);
}

#[test]
fn a_file_reads_back_as_written() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.json");
    let timeline = Timeline::start();
    timeline.mark(Phase::FirstRun);
    let written = timeline.recording("web", Some(BTreeMap::from([("io.0x3f8".to_owned(), 7)])));
    written.write(&path).unwrap();
    assert_eq!(Recording::read(&path).unwrap(), written);
    assert!(matches!(written.write(folder.path()), Err(TimelineError::Write { .. })));
    assert!(matches!(Recording::read(folder.path()), Err(TimelineError::Read { .. })));
    assert!(matches!(Recording::read(&folder.path().join("absent")), Err(TimelineError::Read { .. })));
}

#[test]
fn a_bad_file_is_refused_for_its_reason() {
    let parse = |text: &str| Recording::parse(Path::new("t.json"), text.as_bytes()).unwrap_err();
    let good = serde_json::to_string(&boot(500)).unwrap();
    for bad in [
        "",
        "{}",
        "[]",
        "null",
        &good[1..],
        &good.replace("\"vm\"", "\"colour\""),
        &good.replace(":0}", ":-1}"),
    ] {
        assert!(matches!(parse(bad), TimelineError::Format { .. }), "{bad}");
    }
    assert!(matches!(
        parse(&good.replace("\"version\":1", "\"version\":2")),
        TimelineError::Version { version: 2, .. }
    ));
    let content = |text: &str| matches!(parse(text), TimelineError::Content { .. });
    assert!(content(r#"{"version":1,"vm":"v","start_unix_ns":1,"phases":[]}"#));
    assert!(content(&serde_json::to_string(&recording(&[("a", 2), ("b", 1)])).unwrap()));
    assert!(content(&serde_json::to_string(&recording(&[("a", 0), ("b", u64::MAX)])).unwrap()));
    assert!(content(&serde_json::to_string(&recording(&[(&"n".repeat(129), 0)])).unwrap()));
    assert!(content(&serde_json::to_string(&recording(&[("a", 0); 65])).unwrap()));
    assert!(matches!(parse(&" ".repeat((1 << 20) + 1)), TimelineError::TooLarge { .. }));
}

#[test]
fn one_recording_is_a_waterfall_with_every_activity() {
    let svg = draw(&[("a.json".to_owned(), boot(500))]);
    for activity in [
        "configuration",
        "launch plan",
        "guest memory",
        "KVM and devices",
        "firmware",
        "kernel",
        "user space",
    ] {
        assert!(svg.contains(&format!(">{activity}</text>")), "{activity}");
    }
    assert!(svg.contains(">900 ms</text>") && svg.contains(">483 ms</text>"), "{svg}");
    assert_eq!(svg.matches("<rect x=").count(), 10);
}

#[test]
fn missing_marks_are_named_in_the_activity_that_spans_them() {
    let svg = draw(&[(
        "a".to_owned(),
        recording(&[("process_start", 0), ("kernel", 5), ("power_off", 9), ("new", 10)]),
    )]);
    assert!(svg.contains("kernel + user space: "));
    assert!(svg.contains(">new</text>"));
    // Out of order, as a guest could make it by printing the marker early.
    let svg = draw(&[("a".to_owned(), recording(&[("user_space", 0), ("kernel", 5)]))]);
    assert!(svg.contains(">firmware</text>"));
}

#[test]
fn several_recordings_share_a_scale_and_a_table() {
    let svg = draw(&[("cvmm".to_owned(), boot(500)), ("qemu".to_owned(), boot(1500))]);
    assert!(svg.contains(">1483 ms</text>") && svg.contains(">483 ms</text>"));
    assert!(svg.contains(">1710 ms</text>") && svg.contains(">2710 ms</text>"), "totals");
    assert_eq!(svg.matches("<rect x=").count(), 2 * 10 + 10);
}

/// Checks a trace by the rules of the Trace Event Format; the names of its complete events by process.
fn check_trace(text: &str) -> BTreeMap<u64, Vec<String>> {
    let trace: serde_json::Value = serde_json::from_str(text).unwrap();
    assert!(["ms", "ns"].contains(&trace["displayTimeUnit"].as_str().unwrap()));
    let mut complete = BTreeMap::<u64, Vec<String>>::new();
    let mut ends = BTreeMap::<(u64, u64), f64>::new();
    for event in trace["traceEvents"].as_array().unwrap() {
        let name = event["name"].as_str().unwrap();
        let thread = (event["pid"].as_u64().unwrap(), event["tid"].as_u64().unwrap());
        let ts = event["ts"].as_f64();
        assert!(ts.is_none_or(|ts| ts.is_finite() && ts >= 0.0), "{event}");
        match event["ph"].as_str().unwrap() {
            "X" => {
                let (ts, dur) = (ts.unwrap(), event["dur"].as_f64().unwrap());
                assert!(dur >= 0.0 && event["cat"].is_string(), "{event}");
                // Complete events of one thread must nest; these follow each other. A double has 15 digits.
                let end = ends.entry(thread).or_default();
                assert!(ts >= *end - 1e-3 - *end * 1e-14, "{event} starts before {end}");
                *end = ts + dur;
                complete.entry(thread.0).or_default().push(name.to_owned());
            }
            "i" => {
                assert!(ts.is_some() && ["g", "p", "t"].contains(&event["s"].as_str().unwrap()), "{event}")
            }
            "M" => {
                let argument = &event["args"];
                match name {
                    "process_name" | "thread_name" => assert!(argument["name"].is_string(), "{event}"),
                    "process_labels" => assert!(argument["labels"].is_string(), "{event}"),
                    "process_sort_index" => assert!(argument["sort_index"].is_u64(), "{event}"),
                    _ => panic!("unknown metadata: {event}"),
                }
            }
            _ => panic!("unknown phase: {event}"),
        }
    }
    complete
}

#[test]
fn a_trace_has_the_events_of_its_format() {
    let mut ended = boot(500);
    ended.exits = Some(BTreeMap::from([("io.0x3f8".to_owned(), 7)]));
    (ended.ended_in, ended.exit_code) = (Some("kernel".to_owned()), Some(10));
    let text = trace(&[("cvmm".to_owned(), ended), ("qemu".to_owned(), boot(1500))]);
    let complete = check_trace(&text);
    assert_eq!(complete.keys().copied().collect::<Vec<_>>(), [1, 2]);
    assert_eq!(complete[&1].len(), 10);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let events = json["traceEvents"].as_array().unwrap();
    let find = |pid: u64, name: &str| {
        events.iter().find(|event| event["pid"] == pid && event["name"] == name).unwrap().clone()
    };
    // 17 ms to 500 ms, in microseconds.
    let firmware = events.iter().find(|event| event["ph"] == "X" && event["name"] == "firmware").unwrap();
    assert_eq!((firmware["ts"].as_f64(), firmware["dur"].as_f64()), (Some(17e3), Some(483e3)));
    assert_eq!(find(2, "process_name")["args"]["name"], "qemu");
    assert_eq!(find(1, "process_labels")["args"]["labels"], "ended in: kernel, exit code 10");
    assert_eq!(find(1, "exits")["args"]["io.0x3f8"], 7);
    assert!(is_trace(text.as_bytes()) && !is_trace(b"{\"traceEvents\": []}") && !is_trace(b""));
    // A single recording has its VM's name. Times keep their nanoseconds.
    let one = trace(&[("file".to_owned(), recording(&[("process_start", 0), ("config", 1_234_567)]))]);
    assert!(one.contains("\"name\": \"vm\"") && one.contains("\"dur\": 1234.567"), "{one}");
    check_trace(&one);
}

proptest! {
    #[test]
    fn a_trace_is_valid_whatever_the_file_holds(name in any::<String>(), a in 0..u64::MAX, b in 0..u64::MAX) {
        let mut odd = recording(&[("process_start", 0), (&name, a.min(b)), ("exit", a.max(b))]);
        odd.vm.clone_from(&name);
        odd.ended_in = Some(name.clone());
        odd.exits = Some(BTreeMap::from([(name.clone(), u64::MAX)]));
        prop_assert_eq!(check_trace(&trace(&[(name.clone(), odd.clone()), (name, odd)])).len(), 2);
    }

    #[test]
    fn no_text_leaves_its_element(name in "\\PC{0,40}|[<>&\"'\\x00-\\x1f]{1,20}", label in "[<>&\"'a-z\\x00-\\x1f]{1,40}") {
        let mut bad = boot(1);
        bad.vm.clone_from(&name);
        bad.phases[3].name = name;
        bad.exits = Some(BTreeMap::from([(label.clone(), u64::MAX), ("io".to_owned(), 1)]));
        let plain = draw(&[("a".to_owned(), boot(1))]);
        for svg in [draw(&[(label.clone(), bad.clone())]), draw(&[(label, bad), ("b".to_owned(), boot(2))])] {
            // The same elements as without it: the text is not markup.
            for piece in svg.replace("<!-- cvmm timeline -->", "").split('<').skip(1) {
                let element: String = piece.chars().take_while(|c| c.is_ascii_alphabetic() || *c == '/').collect();
                prop_assert!(
                    ["svg", "/svg", "style", "/style", "rect", "/rect", "text", "/text", "title", "/title", "line"]
                        .contains(&element.as_str()),
                    "{element}"
                );
            }
            prop_assert!(!svg.chars().any(|c| c.is_control() && c != '\n'));
            prop_assert!(svg.len() < 10 * plain.len());
        }
    }

    #[test]
    fn no_bytes_panic(text in proptest::collection::vec(any::<u8>(), 0..200), a in any::<u64>(), b in any::<u64>()) {
        let _ = Recording::parse(Path::new("t"), &text);
        let svg = draw(&[("x".to_owned(), recording(&[("a", a.min(b)), ("b", a.max(b))]))]);
        prop_assert!(!svg.contains("NaN") && svg.len() < 10_000, "{}", svg.len());
    }
}

#[test]
fn the_table_has_a_row_for_each_activity() {
    let text = table(&boot(4000));
    let row = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap().to_owned();
    assert!(row("firmware").contains("3983 ms"), "{text}");
    assert!(row("kernel").contains("900 ms"), "{text}");
    assert!(row("total").contains("5210 ms"), "{text}");
    let bar = |name: &str| row(name).matches('█').count();
    assert!(bar("firmware") > 3 * bar("kernel") && bar("configuration") == 1, "{text}");
}
