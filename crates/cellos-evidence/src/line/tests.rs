use cellos_core::signing::SoftwareSigner;

use super::*;

fn event(id: &str) -> CloudEventV1 {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0",
        "id": id,
        "source": "cellos-supervisor",
        "type": "dev.cellos.events.cell.lifecycle.v1.started",
        "data": {"runId": "r", "b": 1.0, "a": "\u{1F600}\n"},
        "time": "2026-01-02T03:04:05Z",
    }))
    .unwrap()
}

#[test]
fn a_signature_speaks_for_all_lines_written_together() {
    let signer = SoftwareSigner::from_seed("k1", [7; 32]);
    let mut tail = Tail::of_new_log("01J");
    let lines = encode(&mut tail, &[event("a"), event("b")], Some(&signer)).unwrap();
    let lines: Vec<_> = lines
        .strip_suffix(b"\n")
        .unwrap()
        .split(|b| *b == b'\n')
        .collect();
    let (first, second) = (parse(lines[0]).unwrap(), parse(lines[1]).unwrap());
    assert_eq!((first.seq, first.prev), (0, genesis("01J")));
    assert_eq!(first.signature, None);
    assert_eq!((second.seq, second.prev), (1, LineHash::of_line(lines[0])));
    let signature = second.signature.unwrap();
    assert_eq!((signature.kid, signature.signs), ("k1", 2));
    assert!(
        signer
            .verifying_key()
            .verifies(&signed_bytes(second.entry), &signature.bytes)
    );
    assert_eq!((tail.next_seq, tail.prev), (2, LineHash::of_line(lines[1])));
    let stored: CloudEventV1 = serde_json::from_str(second.event.get()).unwrap();
    assert_eq!(stored.id, "b");
}

#[test]
fn the_bytes_of_an_entry_are_canonical() {
    let mut tail = Tail::of_new_log("01J");
    let line = encode(&mut tail, &[event("a")], None).unwrap();
    let text = String::from_utf8(line).unwrap();
    let expected = concat!(
        r#"{"entry":{"event":{"data":{"a":"😀\n","b":1,"runId":"r"},"datacontenttype":null,"#,
        r#""id":"a","source":"cellos-supervisor","specversion":"1.0","#,
        r#""time":"2026-01-02T03:04:05Z","traceparent":null,"#,
        r#""type":"dev.cellos.events.cell.lifecycle.v1.started"},"log":"01J","prev":""#,
    );
    assert!(text.starts_with(expected), "{text}");
}

#[test]
fn entries_are_canonical_whoever_signs() {
    let signer = SoftwareSigner::from_seed("ops-2026.1", [7; 32]);
    let mut tail = Tail::of_new_log("01J");
    let lines = encode(&mut tail, &[event("a"), event("b")], Some(&signer)).unwrap();
    for line in lines
        .split(|byte| *byte == b'\n')
        .filter(|line| !line.is_empty())
    {
        let entry = parse(line).unwrap().entry;
        let value: Value = serde_json::from_slice(entry).unwrap();
        assert_eq!(serde_json_canonicalizer::to_vec(&value).unwrap(), entry);
    }
}

#[test]
fn a_line_that_readers_would_refuse_is_not_made() {
    let mut tail = Tail::of_new_log("0".repeat(MAX_LOG_ID_BYTES));
    tail.next_seq = MAX_SAFE_INTEGER;
    let signer = SoftwareSigner::from_seed("k".repeat(MAX_KID_BYTES), [7; 32]);
    let mut line = |length: usize| {
        let mut long = event("a");
        long.data = Some(Value::String("x".repeat(length)));
        encode(&mut tail, &[long], Some(&signer))
    };
    let frame = line(0).unwrap().len();
    let fits = line(MAX_LINE_BYTES - frame - 512).unwrap().len();
    assert!((MAX_LINE_BYTES - 1024..=MAX_LINE_BYTES).contains(&fits));
    for length in [MAX_LINE_BYTES - frame + 1, MAX_LINE_BYTES] {
        assert!(matches!(line(length), Err(EncodeError::TooLong { .. })));
    }
}

#[test]
fn an_integer_that_would_be_rounded_is_refused() {
    for (number, fits) in [
        (serde_json::json!(MAX_SAFE_INTEGER), true),
        (serde_json::json!(MAX_SAFE_INTEGER + 1), false),
        (serde_json::json!(i64::MIN), false),
    ] {
        let mut event = event("a");
        event.data = Some(serde_json::json!({"deep": [number]}));
        let mut tail = Tail::of_new_log("01J");
        assert_eq!(encode(&mut tail, &[event], None).is_ok(), fits);
        assert_eq!(tail.next_seq, u64::from(fits));
    }
}
