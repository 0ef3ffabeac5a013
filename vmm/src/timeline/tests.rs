// SPDX-License-Identifier: Apache-2.0
//! Recording, the file and the drawing.

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

proptest! {
    #[test]
    fn no_text_leaves_its_element(name in "\\PC{0,40}|[<>&\"'\\x00-\\x1f]{1,20}", label in "[<>&\"'a-z\\x00-\\x1f]{1,40}") {
        let mut bad = boot(1);
        bad.vm.clone_from(&name);
        bad.phases[3].name = name;
        bad.exits = Some(BTreeMap::from([(label.clone(), u64::MAX), ("io".to_owned(), 1)]));
        let plain = draw(&[("a".to_owned(), boot(1))]);
        for svg in [draw(&[(label.clone(), bad.clone())]), draw(&[(label, bad), ("b".to_owned(), boot(2))])] {
            // The same elements as ever: what the text holds is no markup.
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
