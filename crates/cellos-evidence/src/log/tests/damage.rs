//! Logs that are torn, cut, replaced, or somebody else's.

use super::*;

#[test]
fn a_torn_end_is_set_aside_and_noted() {
    for garbage in [&b"{\"entry\":{\"ev"[..], b"\0\0\0", b"x"] {
        let (folder, path) = folder();
        let log = EventLog::open(signed(&path)).unwrap();
        log.append(&[event("a")]).unwrap();
        let whole = fs::read(&path).unwrap();
        let torn = |bytes: &[u8]| {
            use std::io::Write;
            let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
            file.write_all(bytes).unwrap();
        };
        torn(garbage);
        // By whoever is open, and by whoever opens.
        log.append(&[event("b")]).unwrap();
        torn(garbage);
        EventLog::open(signed(&path)).unwrap();
        assert_eq!(on_disk(&path), ["a", "recovered", "b", "recovered"]);
        let kept = folder
            .path()
            .join(format!("events.jsonl.torn-{}", whole.len()));
        assert_eq!(fs::read(kept).unwrap(), garbage);
        let text = fs::read_to_string(&path).unwrap();
        let parsed = line::parse(text.lines().nth(1).unwrap().as_bytes()).unwrap();
        let noted: CloudEventV1 = serde_json::from_str(parsed.event.get()).unwrap();
        assert_eq!(noted.ty, RECOVERED);
        let hash: [u8; 32] = <sha2::Sha256 as sha2::Digest>::digest(garbage).into();
        assert_eq!(
            noted.data.unwrap(),
            json!({
                "log": parsed.log_id, "offset": whole.len(), "droppedBytes": garbage.len(),
                "fragmentSha256": LineHash(hash).to_hex(),
                "keptAs": format!("events.jsonl.torn-{}", whole.len()),
            })
        );
    }
}

#[test]
fn a_group_is_kept_whole_or_set_aside_whole_wherever_it_was_torn() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    log.append(&[event("a")]).unwrap();
    let before = fs::metadata(&path).unwrap().len();
    log.append(&[event("b"), event("c"), event("d")]).unwrap();
    drop(log);
    let whole = fs::read(&path).unwrap();
    for length in usize::try_from(before).unwrap()..whole.len() {
        fs::write(&path, &whole[..length]).unwrap();
        let log = EventLog::open(signed(&path)).unwrap();
        log.append(&[event("e")]).unwrap();
        let expected: &[&str] = match length as u64 == before {
            true => &["a", "e"],
            false => &["a", "recovered", "e"],
        };
        assert_eq!(on_disk(&path), expected, "{length} bytes");
        fs::remove_file(head::path_of(&path)).unwrap_or_default();
    }
}

#[test]
fn a_file_of_somebody_else_is_left_as_it_is() {
    for contents in ["hello", "hello\n", "{}\n", "\n", "{\"entry\":{}}\n"] {
        let (_folder, path) = folder();
        fs::write(&path, contents).unwrap();
        let error = EventLog::open(signed(&path)).err().unwrap().to_string();
        assert!(
            error.contains("choose another file"),
            "{contents:?}: {error}"
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), contents);
    }
    let (folder, path) = folder();
    std::os::unix::fs::symlink("/dev/null", &path).unwrap();
    assert!(matches!(
        EventLog::open(signed(&path)),
        Err(LogError::SymbolicLink { .. })
    ));
    fs::remove_file(&path).unwrap();
    fs::create_dir(&path).unwrap();
    assert!(matches!(
        EventLog::open(signed(&path)),
        Err(LogError::NotAFile { .. })
    ));
    let nowhere = folder.path().join("no/events.jsonl");
    assert!(matches!(
        EventLog::open(signed(nowhere)),
        Err(LogError::NoFolder { .. })
    ));
}

#[test]
fn a_log_that_was_cut_or_replaced_is_refused_and_left_as_it_is() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    for id in ["a", "b", "c", "d"] {
        log.append(&[event(id)]).unwrap();
    }
    log.sync().unwrap();
    log.append(&[event("e")]).unwrap();
    drop(log);
    let whole = fs::read_to_string(&path).unwrap();
    let lines: Vec<_> = whole.split_inclusive('\n').collect();
    // What came after the head may be missing: the machine may have crashed.
    fs::write(&path, lines[..4].concat()).unwrap();
    EventLog::open(signed(&path)).unwrap();
    for keep in 0..4 {
        let cut = lines[..keep].concat();
        for torn in ["", "{\"entry\":{\"event\":"] {
            let text = format!("{cut}{torn}");
            fs::write(&path, &text).unwrap();
            let error = EventLog::open(signed(&path)).err().unwrap();
            assert!(
                matches!(&error, LogError::CutOff { missing, .. } if *missing == keep as u64),
                "{error}"
            );
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
    fs::remove_file(&path).unwrap();
    assert!(matches!(
        EventLog::open(signed(&path)),
        Err(LogError::CutOff { .. })
    ));

    // Other lines, by whoever has the key.
    let (_other, elsewhere) = self::folder();
    let log = EventLog::open(signed(&elsewhere)).unwrap();
    (0..6).for_each(|_| drop(log.append(&[event("x")]).unwrap()));
    fs::copy(&elsewhere, &path).unwrap();
    assert!(matches!(
        EventLog::open(signed(&path)),
        Err(LogError::Replaced { .. })
    ));
    let mut tail = line::Tail::of_new_log(line::parse(lines[0].trim().as_bytes()).unwrap().log_id);
    let rewritten: Vec<u8> = (0..6)
        .flat_map(|_| line::encode(&mut tail, &[event("x")], Some(&*signer())).unwrap())
        .collect();
    fs::write(&path, &rewritten).unwrap();
    let error = EventLog::open(signed(&path)).err().unwrap();
    assert!(
        matches!(error, LogError::Replaced { seq: 3, .. }),
        "{error}"
    );

    // A head that somebody else wrote.
    fs::write(&path, &whole).unwrap();
    let head_path = head::path_of(&path);
    let forged = fs::read_to_string(&head_path)
        .unwrap()
        .replace("\"nextSeq\":4", "\"nextSeq\":3");
    fs::write(&head_path, forged).unwrap();
    assert!(matches!(
        EventLog::open(signed(&path)),
        Err(LogError::HeadForged { .. })
    ));
}

#[test]
fn lines_that_somebody_added_to_a_signed_log_are_never_signed_for() {
    let (_folder, path) = folder();
    let log = EventLog::open(signed(&path)).unwrap();
    let appended = log.append(&[event("a")]).unwrap();
    let add = |count: usize| {
        use std::io::Write;
        let mut tail = appended.tail.clone();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        for _ in 0..count {
            let line = line::encode(&mut tail, &[event("forged")], None).unwrap();
            file.write_all(&line).unwrap();
        }
    };
    add(3);
    log.append(&[event("b")]).unwrap();
    assert_eq!(on_disk(&path), ["a", "recovered", "b"]);
}
