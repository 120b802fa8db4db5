//! Keys and entropy are not shown.

use cellos_bridge::{Entropy, HostMessage, SendError, SessionKey};
use zeroize::Zeroizing;

use crate::fixtures::{ENTROPY, KEY, Pair, config};

fn shows_secrets(text: &str) -> bool {
    let hex = |bytes: &[u8]| -> String { bytes.iter().map(|b| format!("{b:02x}")).collect() };
    [&KEY[..], &ENTROPY[..]].iter().any(|secret| {
        let part = &secret[..8];
        text.contains(std::str::from_utf8(part).unwrap())
            || text.contains(&hex(part))
            || text.contains(&format!("{part:?}")[1..20])
    })
}

#[test]
fn no_debug_shows_a_key_or_entropy() {
    let config = config();
    for text in [
        format!("{config:?}"),
        format!("{config:#?}"),
        format!("{:?}", HostMessage::Config(Box::new(config.clone()))),
        format!("{:?}", config.session_key),
        format!("{:?}", config.entropy),
    ] {
        assert!(!shows_secrets(&text), "{text}");
    }
    // The test sees them where they are.
    assert!(shows_secrets(&format!("{KEY:?}")));
}

#[test]
fn the_configuration_carries_them_all_the_same() {
    let mut pair = Pair::new();
    pair.carry_to_host().unwrap();
    pair.host.configure(&config(), pair.now).unwrap();
    let heard = pair.carry_to_guest().unwrap();
    let [HostMessage::Config(heard)] = &heard[..] else {
        panic!("{heard:?}")
    };
    assert_eq!(heard.session_key, SessionKey::new(KEY));
    assert_eq!(heard.entropy.as_bytes(), ENTROPY);
}

#[test]
fn entropy_has_its_bounds() {
    for (bytes, taken) in [(31, false), (32, true), (4096, true), (4097, false)] {
        let entropy = Entropy::new(Zeroizing::new(vec![1; bytes]));
        assert_eq!(entropy.is_some(), taken, "{bytes}");
    }
}

#[test]
fn a_configuration_out_of_bounds_is_not_sent() {
    type Change = fn(&mut cellos_bridge::Config);
    let cases: [(Change, &str); 5] = [
        (|c| c.run_id = "a b".into(), "runId"),
        (|c| c.cell_id = String::new(), "cellId"),
        (
            |c| c.heartbeat_interval = std::time::Duration::from_secs(61),
            "heartbeatIntervalMs",
        ),
        (
            |c| c.heartbeat_interval = std::time::Duration::from_micros(10_500),
            "heartbeatIntervalMs",
        ),
        (
            |c| c.stderr_credit_bytes = cellos_bridge::MAX_CREDIT_BYTES + 1,
            "stderrCreditBytes",
        ),
    ];
    for (change, field) in cases {
        let mut pair = Pair::new();
        pair.carry_to_host().unwrap();
        let mut config = config();
        change(&mut config);
        let sent = pair.host.configure(&config, pair.now);
        assert!(
            matches!(&sent, Err(SendError::Invalid { problem, .. })
                if problem.to_string().contains(field)),
            "{field}: {sent:?}"
        );
        assert_eq!(pair.host.outgoing(), None);
    }
    let mut pair = Pair::new();
    pair.carry_to_host().unwrap();
    let mut config = config();
    let run = config.document.spec.run.as_mut().unwrap();
    run.argv = vec!["x".repeat(cellos_bridge::MAX_CONFIG_BYTES)];
    assert!(matches!(
        pair.host.configure(&config, pair.now),
        Err(SendError::Oversized { .. })
    ));
}
