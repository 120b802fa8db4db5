use std::sync::Arc;

use cellos_core::ports::EventSink;
use cellos_testkit::MemorySink;

use super::*;
use crate::{composite::tests::event, transform::Transformed};

fn names(list: &str) -> Option<Vec<String>> {
    Redaction::from_list(list).map(|redaction| redaction.names().map(str::to_owned).collect())
}

#[test]
fn lists_are_read_as_exact_names() {
    assert_eq!(names(""), None);
    assert_eq!(names(" , "), None);
    assert_eq!(names("b, a"), Some(vec!["a".into(), "b".into()]));
    assert_eq!(
        names("defaults"),
        Some(DEFAULT_FIELDS.map(str::to_owned).into())
    );
}

#[test]
fn defaults_in_a_list_redact_the_default_fields_too() {
    let listed = names("token,defaults").unwrap();
    for name in ["argv", "path", "reason", "token"] {
        assert!(listed.contains(&name.into()), "{name}");
    }
}

#[test]
fn values_are_replaced_by_kind_at_any_depth() {
    let redaction = Redaction::from_list("argv,path,reason").unwrap();
    let mut before = event("t");
    before.data = Some(json!({
        "argv": ["a", "b"],
        "reason": null,
        "nested": [{"path": 7, "keep": 1}, {"reason": {"code": 1}, "deeper": {"argv": true}}],
        "Path": "exact names only",
        "reasonCode": "kept",
    }));
    let after = redaction.transform(&before).unwrap();
    assert_eq!(
        after.data,
        Some(json!({
            "argv": ["[redacted]"],
            "reason": "[redacted]",
            "nested": [
                {"path": "[redacted]", "keep": 1},
                {"reason": {}, "deeper": {"argv": "[redacted]"}},
            ],
            "Path": "exact names only",
            "reasonCode": "kept",
        }))
    );
}

#[test]
fn the_envelope_stays_and_so_does_an_event_without_named_fields() {
    let redaction = Redaction::from_list("type,id,source,time").unwrap();
    let untouched = event("t");
    assert!(matches!(
        redaction.transform(&untouched).unwrap(),
        Cow::Borrowed(same) if *same == untouched
    ));
    let mut touched = event("t");
    touched.data = Some(json!({"id": "x"}));
    let after = redaction.transform(&touched).unwrap();
    assert_eq!((after.id.as_str(), after.ty.as_str()), ("1", "t"));
    assert_eq!(after.data, Some(json!({"id": "[redacted]"})));
}

#[tokio::test]
async fn redacts_on_the_way_into_a_sink() {
    let memory = Arc::new(MemorySink::new());
    let sink = Transformed::new(Redaction::from_list("n").unwrap(), memory.clone());
    sink.emit(&event("t")).await.unwrap();
    assert_eq!(memory.events()[0].data, Some(json!({"n": "[redacted]"})));
}

#[test]
fn evidence_keeps_codes_and_what_it_is_checked_with() {
    let redaction = Redaction::of_evidence("defaults").unwrap().unwrap();
    let mut before = event("t");
    before.data = Some(json!({
        "endedBy": "limit", "reason": "oom", "reasonDetail": "/bin/x --password=1",
        "laterErrors": ["x"], "spawnError": "x", "program": "/bin/x", "sourcePath": "/work/x",
        "problems": ["spec.run.argv[0]: x"],
        "declared": {"mounts": [{"source": "/srv/x", "target": "/x", "access": "ro"}]},
        "nested": [{"reason": "admitted_for_backend"}, {"reason": "pool_not_allowed"},
            {"reason": "command exited with status 3"}],
    }));
    let after = redaction.transform(&before).unwrap();
    assert_eq!(
        after.data,
        Some(json!({
            "endedBy": "limit", "reason": "oom", "reasonDetail": REDACTED,
            "laterErrors": [REDACTED], "spawnError": REDACTED, "program": REDACTED,
            "sourcePath": REDACTED, "problems": [REDACTED],
            "declared": {"mounts": [{"source": REDACTED, "target": REDACTED, "access": "ro"}]},
            "nested": [{"reason": "admitted_for_backend"}, {"reason": "pool_not_allowed"},
                {"reason": REDACTED}],
        }))
    );
    assert_eq!(Redaction::of_evidence(" "), Ok(None));
    for needed in NEEDED_FIELDS {
        let error = Redaction::of_evidence(&format!("argv,{needed}")).unwrap_err();
        assert!(error.to_string().contains(needed), "{error}");
        assert!(!EVIDENCE_DEFAULT_FIELDS.contains(&needed), "{needed}");
    }
}
