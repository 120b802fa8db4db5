use super::*;

#[test]
fn a_value_of_another_type_costs_itself_alone() {
    let facts = Facts::of(
        br#"{"id":7,"type":"t","time":null,"unknown":[{"a":[1]}],
            "data":{"cellId":"c","runId":{"x":[1,{"y":2}]},"exitCode":-1,"ttlSeconds":-1,
            "declared":{"secretRefs":["A",3,"B"],"egressRules":null}}}"#,
    )
    .unwrap();
    assert_eq!(
        (&*facts.id, &*facts.ty, &*facts.wrong),
        ("", "t", &["id", "data"][..])
    );
    let data = facts.data.unwrap();
    assert_eq!(data.cell_id.as_deref(), Some("c"));
    assert_eq!(data.run_id, None);
    assert_eq!((data.exit_code, data.ttl_seconds), (Some(-1), None));
    assert_eq!(data.wrong, ["runId", "ttlSeconds", "declared"]);
    let declared = data.declared.unwrap();
    assert_eq!(declared.secret_refs.unwrap().items, ["A", "B"]);
    assert_eq!(declared.wrong, ["secretRefs"]);
}

#[test]
fn a_field_that_stands_there_twice_is_named_and_the_last_one_counts() {
    let facts =
        Facts::of(br#"{"id":"a","type":"t","id":"b","data":{"cellId":"x","cellId":"y"}}"#).unwrap();
    assert_eq!((&*facts.id, &*facts.wrong), ("b", &["id", "data"][..]));
    assert_eq!(facts.data.unwrap().cell_id.as_deref(), Some("y"));
}

#[test]
fn a_long_list_is_cut_and_says_so() {
    let items = vec!["\"x\""; MAX_LIST_ITEMS + 1].join(",");
    let event = format!(r#"{{"id":"a","type":"t","data":{{"argv":[{items}]}}}}"#);
    let facts = Facts::of(event.as_bytes()).unwrap();
    let argv = facts.data.unwrap().argv.unwrap();
    assert_eq!((argv.items.len(), argv.complete), (MAX_LIST_ITEMS, false));
}

#[test]
fn what_is_no_object_is_an_error() {
    for event in ["[]", "7", "null", "\"x\"", "{", ""] {
        assert!(Facts::of(event.as_bytes()).is_err(), "{event}");
    }
}
