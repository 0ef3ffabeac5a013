// SPDX-License-Identifier: Apache-2.0

#[cfg(feature = "rego")]
use std::time::{Duration, Instant};

use cvmm_attest::document::{CLAIMS, Shape};
use serde_json::Value;

use super::CODES;
#[cfg(feature = "rego")]
use super::Rego;
use super::input::{ALWAYS, DOCUMENT, Facts, RENAMED, Stage, document, fits};

fn nothing(stage: Stage) -> Value {
    document(&Facts { stage, now: 1, policy: ("p", 3), launch: None, platform: None, report: None })
}

#[test]
fn the_document_is_always_complete() {
    let document = nothing(Stage::Launch);
    assert!(fits(&document, &DOCUMENT));
    assert_eq!(document["stage"], "launch");
    assert_eq!(document["policy"]["version"], 3);
    // There, and null.
    assert!(document["report"]["reported_tcb"].as_object().unwrap()["fmc"].is_null());
    let mut short = document.clone();
    short["report"].as_object_mut().unwrap().remove("vmpl");
    assert!(!fits(&short, &DOCUMENT));
    let mut text = document.clone();
    text["report"]["vmpl"] = "0".into();
    assert!(!fits(&text, &DOCUMENT));
    let mut more = document;
    more["report"]["vmlp"] = 0.into();
    assert!(!fits(&more, &DOCUMENT));
}

/// Rego reads the document that `cvmm attest --json` prints.
#[test]
fn the_report_is_the_document_of_claims() {
    let mut claims = crate::tests::claims();
    for absent in [false, true] {
        if absent {
            (claims.cpuid, claims.chip_id) = (None, None);
        }
        let facts = Facts {
            stage: Stage::Guest,
            now: 1,
            policy: ("p", 3),
            launch: None,
            platform: None,
            report: Some(&claims),
        };
        let document = document(&facts);
        assert!(fits(&document, &DOCUMENT));
        let json = serde_json::to_value(&claims).unwrap();
        let (report, json) = (document["report"].as_object().unwrap(), json.as_object().unwrap());
        assert!(report.keys().eq(json.keys()));
        for (key, value) in json {
            let known = &report[key];
            // A table of which nothing is known is a table, so that paths in it exist.
            let blank =
                |table: &Value| table.as_object().is_some_and(|table| table.values().all(Value::is_null));
            assert!(known == value || value.is_null() && blank(known), "{key}: {known} {value}");
        }
    }
}

fn shape_at(path: &str) -> Option<Shape> {
    path.split('.').try_fold(DOCUMENT, |shape, key| match shape {
        Shape::Table(keys) => keys.iter().find(|(known, _)| *known == key).map(|(_, shape)| *shape),
        _ => None,
    })
}

#[test]
fn names_of_earlier_versions_are_no_values_any_more() {
    let manual = include_str!("../../../../docs/guide/policy.md");
    for (old, now) in RENAMED {
        assert!(matches!(shape_at(old), None | Some(Shape::Table(_))), "{old} is a value");
        assert!(
            matches!(shape_at(now), Some(Shape::Number | Shape::Text | Shape::Flag)),
            "{now} is not a value"
        );
        let row = format!("| `{old}` | `{now}` |");
        assert!(manual.contains(&row), "docs/guide/policy.md lacks {row}");
    }
    assert!(ALWAYS.iter().all(|path| shape_at(path).is_some()));
}

#[cfg(feature = "rego")]
#[test]
fn names_of_earlier_versions_are_refused_with_the_new_name() {
    for (old, now) in RENAMED {
        let body = format!(
            "deny contains \"x\" if input.{old}\nverdict := {{\"allow\": count(deny) == 0, \"reasons\": deny}}"
        );
        let error = load(&body).err().unwrap_or_else(|| panic!("loaded: {body}"));
        assert!(error.contains(&format!("is now input.{now}")), "{old}: {error}");
        let body = body.replace(&format!("input.{old}"), &format!("input.{now} != null"));
        assert!(load(&body).is_ok(), "{now}");
    }
}

/// Every name of the document, and every code, is in the manual. The claims are in the one about attestation.
#[test]
fn all_of_it_is_in_the_manual() {
    fn names(shape: &Shape, out: &mut Vec<&'static str>) {
        if let Shape::Table(keys) = shape {
            for (key, inner) in *keys {
                out.push(key);
                names(inner, out);
            }
        }
    }
    let manual = include_str!("../../../../docs/guide/policy.md");
    let mut all = Vec::new();
    let Shape::Table(tables) = DOCUMENT else { panic!("the document is a table") };
    for (key, shape) in tables.iter().filter(|(key, _)| *key != "report") {
        all.push(*key);
        names(shape, &mut all);
    }
    for name in all.iter().chain(CODES) {
        assert!(manual.contains(name), "docs/guide/policy.md lacks {name}");
    }
    // That `cvmm_attest::document` sees to.
    assert!(
        matches!((shape_at("report"), CLAIMS), (Some(Shape::Table(report)), Shape::Table(claims)) if report.len() == claims.len())
    );
}

/// For a machine that runs many tests at once.
#[cfg(feature = "rego")]
const BUSY: Duration = Duration::from_millis(2500);

#[cfg(feature = "rego")]
fn load(body: &str) -> Result<Rego, String> {
    Rego::load_with("t.rego", &format!("package cvmm\nimport rego.v1\n{body}\n"), BUSY)
}

/// The code of the only reason, or "" for none.
#[cfg(feature = "rego")]
fn ask(body: &str) -> String {
    let reasons = load(body).unwrap_or_else(|error| panic!("{error}")).ask(&nothing(Stage::Guest));
    match reasons.as_slice() {
        [] => String::new(),
        [reason] => {
            assert!(CODES.contains(&&*reason.code), "{reason}");
            reason.code.to_string()
        }
        more => panic!("{more:?}"),
    }
}

#[cfg(feature = "rego")]
#[test]
fn only_a_verdict_of_the_right_form_is_one() {
    for (verdict, code) in [
        (r#"{"allow": true, "reasons": []}"#, ""),
        (r#"{"allow": true, "reasons": set()}"#, ""),
        (r#"{"allow": false, "reasons": []}"#, "rego.denied"),
        (r#"{"allow": false, "reasons": ["no"]}"#, "rego.denied"),
        // Everything else denies.
        (r#"{"allow": true, "reasons": ["but"]}"#, "rego.result"),
        (r#"{"allow": "true", "reasons": []}"#, "rego.result"),
        (r#"{"allow": 1, "reasons": []}"#, "rego.result"),
        (r#"{"allow": null, "reasons": []}"#, "rego.result"),
        (r#"{"allow": true}"#, "rego.result"),
        (r#"{"allow": true, "reasons": [], "more": 1}"#, "rego.result"),
        (r#"{"allow": true, "reasons": "none"}"#, "rego.result"),
        (r#"{"allow": false, "reasons": [1]}"#, "rego.result"),
        ("true", "rego.result"),
        ("[]", "rego.result"),
        ("null", "rego.result"),
    ] {
        assert_eq!(ask(&format!("verdict := {verdict}")), code, "{verdict}");
    }
    // No rule holds.
    assert_eq!(
        ask("verdict := {\"allow\": true, \"reasons\": []} if input.stage == \"launch\""),
        "rego.undefined"
    );
    // Two that do not agree.
    assert_eq!(
        ask(
            "verdict := {\"allow\": true, \"reasons\": []} if input.now > 0\nverdict := {\"allow\": false, \"reasons\": []} if input.now > 0"
        ),
        "rego.error"
    );
    // A function that is given what it is not for is an error, not undefined.
    assert_eq!(
        ask("verdict := {\"allow\": true, \"reasons\": []} if not startswith(input.report.csp_id, \"x\")"),
        "rego.error"
    );
}

#[cfg(feature = "rego")]
#[test]
fn an_answer_is_to_the_question_asked() {
    let rego = load(
        "default verdict := {\"allow\": false, \"reasons\": [\"no launch\"]}\n\
         verdict := {\"allow\": true, \"reasons\": []} if input.stage == \"launch\"",
    )
    .unwrap();
    for _ in 0..3 {
        assert!(rego.ask(&nothing(Stage::Launch)).is_empty());
        let reasons = rego.ask(&nothing(Stage::Guest));
        assert_eq!((&*reasons[0].code, reasons[0].message.as_str()), ("rego.denied", "no launch"));
    }
    let mut short = nothing(Stage::Launch);
    short.as_object_mut().unwrap().remove("report");
    assert_eq!(rego.ask(&short)[0].code, "rego.input");
}

#[cfg(feature = "rego")]
#[test]
fn what_would_fail_open_is_not_loaded() {
    let good = "verdict := {\"allow\": count(deny) == 0, \"reasons\": deny}";
    for (body, problem) in [
        // A field that does not exist is undefined, and not of it is true.
        ("deny contains \"x\" if input.report.policy.debugg", "input.report.policy has no \"debugg\""),
        ("deny contains \"x\" if not input[\"reprot\"].debug", "input has no \"reprot\""),
        ("deny contains \"x\" if input.report.vmpl.x", "input.report.vmpl is not a table"),
        ("deny contains \"x\" if { some k; input[k] }", "followed by a name"),
        ("deny contains \"x\" if { r := input.report; r.debugg }", "is a table"),
        ("deny contains \"x\" if { some k, v in input; v == k }", "is a table"),
        ("deny contains \"x\" if { d := data.cvmm; d.y }", "there is no data"),
        // Another type: a string is greater than every number, null less.
        ("deny contains \"x\" if input.report.guest_svn < \"5\"", "never of the type"),
        ("deny contains \"x\" if input.report.measurement == 5", "never of the type"),
        ("deny contains \"x\" if input.report.policy.debug == \"true\"", "never of the type"),
        ("deny contains \"x\" if not input.report.vmpl <= 1", "can be null"),
        ("ok := input.report.vmpl <= 1\ndeny contains \"x\" if not ok", "can be null"),
        // What is not for a policy.
        ("deny contains \"x\" if http.send({\"url\": \"x\"})", "http.send cannot be used"),
        ("deny contains \"x\" if time.now_ns() > 5", "time.now_ns cannot be used"),
        ("deny contains \"x\" if rand.intn(\"x\", 5) > 2", "rand.intn cannot be used"),
        ("deny contains \"x\" if count(numbers.range(1, 1000000000)) > 2", "numbers.range cannot be used"),
        ("deny contains \"x\" if object.get(input, \"x\", true)", "object.get cannot be used"),
        ("deny contains \"x\" if print(\"x\")", "print cannot be used"),
        ("deny contains \"x\" if nothing(1)", "nothing cannot be used"),
        ("deny contains \"x\" if ok with input as {}\nok := true", "with is not allowed in policies"),
        ("f(x) := f(x)\ndeny contains \"x\" if f(1)", "needs itself"),
        ("a if b\nb if a\ndeny contains \"x\" if a", "needs itself"),
        ("f(input) := input.x\ndeny contains \"x\" if f({\"x\": true})", "not allowed as names of arguments"),
        ("deny contains \"x\" if { some input in [1]; input == 1 }", "input"),
        ("deny contains \"x\" if { input := {\"x\": 1}; input.x == 1 }", "input"),
        (
            "deny contains \"x\" if { every input in [{}] { not input.report.policy.debug } }",
            "not allowed as names of variables",
        ),
        ("bits.and(x, y) := bits.and(x, y)\ndeny contains \"x\" if bits.and(1, 1)", "bits is taken"),
        ("count(x) := 0", "count is taken"),
        ("a.f(x) := a.f(x)\ndeny contains \"x\" if a.f(1)", "one word"),
        ("default f(x) := true\nf(x) if f(x)\ndeny contains \"x\" if f(1)", "needs itself"),
        ("deny contains \"x\" if x == 1", "x"),
    ] {
        let error = load(&format!("{body}\n{good}")).err().unwrap_or_else(|| panic!("loaded: {body}"));
        assert!(error.starts_with("t.rego") && error.contains(problem), "{body}: {error}");
    }
    for text in [
        "package other\nverdict := 1",
        "package cvmm\nx := 1",
        "package cvmm\nimport data.x\nverdict := 1",
        "package cvmm\nimport input.report as r\nverdict := 1",
        "package cvmm\nverdict := ",
        "",
    ] {
        assert!(Rego::load("t.rego", text).is_err(), "{text}");
    }
    assert!(Rego::load("t.rego", &"#".repeat(super::MAX_FILE + 1)).unwrap_err().contains("at most"));
    for body in [
        "deny contains \"x\" if { input.report.guest_svn != null; input.report.guest_svn < 5 }",
        "deny contains sprintf(\"svn %d\", [input.report.guest_svn]) if { is_number(input.report.guest_svn); input.report.guest_svn < 5 }",
        "deny contains \"x\" if { input.stage == \"launch\"; some serial in input.launch.disks; not serial in allowed }\nallowed := {\"root\"}",
        "deny contains \"x\" if { input.report.policy.debug == true }",
        "deny contains \"x\" if input.report.chip_id in {\"aa\", \"bb\"}",
        "deny contains \"x\" if bits.and(5, 1) == 0",
        "bad(x) if x == \"b\"\ndeny contains \"x\" if bad(input.report.csp_id)",
        "deny contains \"x\" if { every d in input.launch.debug { startswith(d, \"x\") }; input.stage == \"launch\" }",
        "deny := set()",
    ] {
        assert_eq!(ask(&format!("{body}\n{good}")), "", "{body}");
    }
}

#[cfg(feature = "rego")]
#[test]
fn numbers_are_numbers_up_to_64_bits() {
    let rego = load(
        "deny contains \"other\" if input.launch.policy != 18446744073709551615\n\
         verdict := {\"allow\": count(deny) == 0, \"reasons\": deny}",
    )
    .unwrap();
    let mut document = nothing(Stage::Launch);
    document["launch"]["policy"] = u64::MAX.into();
    assert!(rego.ask(&document).is_empty());
    document["launch"]["policy"] = (u64::MAX - 1).into();
    assert_eq!(rego.ask(&document)[0].code, "rego.denied");
}

/// A list of `count` numbers, written out.
#[cfg(feature = "rego")]
fn list(count: u32) -> String {
    (0..count).map(|number| number.to_string()).collect::<Vec<_>>().join(",\n")
}

#[cfg(feature = "rego")]
#[test]
fn code_that_does_not_end_is_a_denial() {
    let began = Instant::now();
    let endless = format!(
        "n := [{}]\ndeny contains \"x\" if {{ some a in n; some b in n; some c in n; some d in n; some e in n; a + b + c + d + e < 0 }}\n\
         verdict := {{\"allow\": count(deny) == 0, \"reasons\": deny}}",
        list(400)
    );
    assert_eq!(ask(&endless), "rego.time");
    assert!(began.elapsed().as_secs() < 10);
    // In a single step, which no timer sees: two structures of 2^40 parts are compared.
    let mut body = String::from("a0 := 1\nb0 := 1\n");
    for n in 1..40 {
        let m = n - 1;
        body += &format!("a{n} := [a{m}, a{m}]\nb{n} := [b{m}, b{m}]\n");
    }
    body += "verdict := {\"allow\": a39 == b39, \"reasons\": []}";
    let began = Instant::now();
    let rego = load(&body).unwrap();
    let reasons = rego.ask(&nothing(Stage::Guest));
    assert_eq!(reasons[0].code, "rego.time");
    // The next ones do not wait indefinitely either.
    assert_eq!(rego.ask(&nothing(Stage::Guest))[0].code, "rego.time");
    assert!(began.elapsed().as_secs() < 10);
}

#[cfg(feature = "rego")]
#[test]
fn nothing_in_it_grows_without_bound() {
    let mut body = String::from("s0 := \"0123456789\"\n");
    for n in 1..40 {
        let m = n - 1;
        body += &format!("s{n} := concat(\"\", [s{m}, s{m}, s{m}, s{m}])\n");
    }
    assert_eq!(ask(&format!("{body}verdict := {{\"allow\": false, \"reasons\": [s39]}}")), "rego.error");
    let body = body.replace("concat(\"\", [", "sprintf(\"%s%s%s%v\", [");
    assert_eq!(ask(&format!("{body}verdict := {{\"allow\": false, \"reasons\": [s39]}}")), "rego.error");
    // Widths, nested values.
    for call in [
        "sprintf(\"%999999999d\", [1])",
        "sprintf(\"%v\", [[1]])",
        "sprintf(\"%d\", [])",
        "sprintf(\"x\", [1])",
    ] {
        assert_eq!(
            ask(&format!("verdict := {{\"allow\": false, \"reasons\": [{call}]}}")),
            "rego.error",
            "{call}"
        );
    }
    // Many reasons, and long ones.
    let many = format!(
        "verdict := {{\"allow\": false, \"reasons\": [x | some n in [{}]; x := sprintf(\"%d\", [n])]}}",
        list(17)
    );
    assert_eq!(ask(&many), "rego.result");
    let rego = load("s := concat(\"\", [x | some n in [1,2,3,4,5,6,7,8,9]; x := concat(\"\", [\"0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789\", sprintf(\"\\n%d\", [n])])])\nverdict := {\"allow\": false, \"reasons\": [s]}").unwrap();
    let reasons = rego.ask(&nothing(Stage::Guest));
    assert_eq!(reasons[0].message.chars().count(), 512);
    assert!(!reasons[0].message.contains('\n'));
}
