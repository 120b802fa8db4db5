//! The forwarder over a real log and a receiver that fails as told.

use std::{
    path::PathBuf,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use cellos_core::CloudEventV1;
use cellos_evidence::{
    line::{self, Tail},
    log::{EventLog, LogConfig},
};

use super::*;

#[derive(Default)]
struct Receiver(Mutex<State>);

#[derive(Default)]
struct State {
    received: Vec<u64>,
    batches: Vec<usize>,
    /// How many more events are taken, and what happens then.
    room: Option<(usize, Option<Retry>)>,
}

#[async_trait]
impl RemoteSink for Receiver {
    fn kind(&self) -> &'static str {
        "test"
    }

    async fn deliver(&self, events: &[StoredEvent]) -> Result<(), DeliveryError> {
        let mut state = self.0.lock().unwrap();
        state.batches.push(events.len());
        let (taken, retry) = match state.room {
            Some((room, retry)) if room < events.len() => (room, Some(retry)),
            _ => (events.len(), None),
        };
        let seqs = events[..taken].iter().map(|event| event.seq);
        state.received.extend(seqs);
        if let Some((room, _)) = &mut state.room {
            *room -= taken;
        }
        match retry {
            None => Ok(()),
            Some(retry) => Err(DeliveryError {
                acknowledged: taken,
                retry: retry.unwrap_or(Retry::Later),
                reason: "told to".to_owned(),
            }),
        }
    }
}

struct Place {
    _folder: tempfile::TempDir,
    log: PathBuf,
    receiver: Arc<Receiver>,
}

impl Place {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        Self {
            log: folder.path().join("events.jsonl"),
            _folder: folder,
            receiver: Arc::default(),
        }
    }

    fn append(&self, count: usize, text: &str) {
        let log = EventLog::open(LogConfig::new(&self.log)).unwrap();
        for _ in 0..count {
            log.append(&[event(text)]).unwrap();
        }
    }

    fn forwarder(&self) -> Result<Forwarder, ForwardError> {
        let sink = Arc::clone(&self.receiver) as Arc<dyn RemoteSink>;
        Forwarder::open(&self.log, "x", sink)
    }

    fn room(&self, room: usize, retry: Retry) {
        self.receiver.0.lock().unwrap().room = Some((room, Some(retry)));
    }

    fn received(&self) -> Vec<u64> {
        self.receiver.0.lock().unwrap().received.clone()
    }
}

fn event(text: &str) -> CloudEventV1 {
    serde_json::from_value(serde_json::json!({
        "specversion": "1.0", "id": "i", "source": "s", "type": "t", "data": {"text": text},
    }))
    .unwrap()
}

async fn drain(forwarder: &mut Forwarder) -> End {
    let (_told, mut until) = watch::channel(Until::Empty);
    forwarder.forward(&mut until).await
}

#[tokio::test(start_paused = true)]
async fn everything_arrives_once_and_in_order_over_restarts() {
    let place = Place::new();
    place.append(600, "");
    let mut forwarder = place.forwarder().unwrap();
    assert_eq!(forwarder.lag().unwrap(), 600);
    assert!(matches!(drain(&mut forwarder).await, End::Empty));
    assert_eq!((forwarder.lag().unwrap(), forwarder.delivered()), (0, 600));
    drop(forwarder);
    place.append(3, "");
    assert_eq!(lag(&place.log, "x").unwrap(), 3);
    assert!(matches!(
        drain(&mut place.forwarder().unwrap()).await,
        End::Empty
    ));
    assert_eq!(place.received(), (0..603).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn only_what_was_acknowledged_moves_the_cursor() {
    let place = Place::new();
    place.append(10, "");
    place.room(4, Retry::Useless);
    let mut forwarder = place.forwarder().unwrap();
    assert!(matches!(drain(&mut forwarder).await, End::Refused(_)));
    assert_eq!((forwarder.lag().unwrap(), forwarder.delivered()), (6, 4));
    drop(forwarder);
    place.receiver.0.lock().unwrap().room = None;
    drain(&mut place.forwarder().unwrap()).await;
    assert_eq!(place.received(), (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_receiver_that_stays_away_is_tried_a_bounded_number_of_times() {
    let place = Place::new();
    place.append(1, "");
    place.room(0, Retry::Later);
    let mut forwarder = place.forwarder().unwrap();
    assert!(matches!(drain(&mut forwarder).await, End::Away(_)));
    let tries = place.receiver.0.lock().unwrap().batches.len();
    assert_eq!(tries, TRIES as usize);
}

#[tokio::test(start_paused = true)]
async fn a_follower_takes_what_comes_and_ends_when_told() {
    let place = Place::new();
    let (told, mut until) = watch::channel(Until::Told);
    let mut forwarder = place.forwarder().unwrap();
    let following = forwarder.forward(&mut until);
    let writing = async {
        for _ in 0..3 {
            place.append(2, "");
            time::sleep(POLL_INTERVAL * 2).await;
        }
        assert_eq!(place.received().len(), 6, "delivered while it follows");
        place.append(1, "");
        told.send(Until::Empty).unwrap();
    };
    let (end, ()) = tokio::join!(following, writing);
    assert!(matches!(end, End::Empty), "{end:?}");
    assert_eq!(place.received(), (0..7).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn batches_are_bounded_in_events_and_in_bytes() {
    let place = Place::new();
    place.append(MAX_BATCH_EVENTS + 1, "");
    place.append(7, &"x".repeat(MAX_BATCH_BYTES / 3));
    drain(&mut place.forwarder().unwrap()).await;
    let batches = place.receiver.0.lock().unwrap().batches.clone();
    // Three thirds and their envelopes are more than a whole.
    assert_eq!(batches, [256, 3, 2, 2, 1]);
    assert_eq!(place.received(), (0..264).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_none_stops_it_after_what_stands_before() {
    let place = Place::new();
    place.append(2, "");
    let lines = std::fs::read_to_string(&place.log).unwrap();
    std::fs::write(&place.log, format!("{lines}{{\"no\":1}}\n{lines}")).unwrap();
    // The last line belongs to the log, so the cursor fits.
    let mut forwarder = place.forwarder().unwrap();
    for _ in 0..2 {
        let end = drain(&mut forwarder).await;
        let End::Failed(error) = end else {
            panic!("{end:?}");
        };
        assert!(error.to_string().contains("line 3"), "{error}");
    }
    assert_eq!(place.received(), [0, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_line_that_does_not_follow_stops_it() {
    let place = Place::new();
    place.append(4, "");
    let text = std::fs::read_to_string(&place.log).unwrap();
    let lines: Vec<&str> = text.lines().collect();
    std::fs::write(
        &place.log,
        format!("{}\n{}\n{}\n", lines[0], lines[2], lines[3]),
    )
    .unwrap();
    let end = drain(&mut place.forwarder().unwrap()).await;
    assert!(
        matches!(
            end,
            End::Failed(ForwardError::Source(SourceError::Chain { number: 2, .. }))
        ),
        "{end:?}"
    );
    assert_eq!(place.received(), [0]);
}

#[tokio::test(start_paused = true)]
async fn another_log_or_a_shorter_one_is_refused() {
    let place = Place::new();
    place.append(3, "");
    drain(&mut place.forwarder().unwrap()).await;
    let lines = std::fs::read_to_string(&place.log).unwrap();
    let first = lines.lines().next().unwrap();
    std::fs::write(&place.log, format!("{first}\n")).unwrap();
    assert!(matches!(
        place.forwarder(),
        Err(ForwardError::Cursor(CursorError::Ahead { .. }))
    ));
    std::fs::remove_file(&place.log).unwrap();
    assert!(matches!(
        lag(&place.log, "x"),
        Err(ForwardError::Cursor(CursorError::Ahead { .. }))
    ));
    place.append(3, "");
    assert!(matches!(
        lag(&place.log, "x"),
        Err(ForwardError::Cursor(CursorError::OtherLog { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn one_process_at_a_time_forwards_to_a_sink() {
    let place = Place::new();
    let _first = place.forwarder().unwrap();
    assert!(matches!(
        place.forwarder(),
        Err(ForwardError::Cursor(CursorError::Busy { .. }))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_rotation_is_followed_and_an_empty_live_file_lacks_nothing() {
    let place = Place::new();
    let mut tail = Tail::of_new_log("01J");
    let mut lines = |count: usize| -> Vec<u8> {
        (0..count)
            .flat_map(|_| line::encode(&mut tail, &[event("")], None).unwrap())
            .collect()
    };
    let first = lines(3);
    std::fs::write(&place.log, &first).unwrap();
    let mut forwarder = place.forwarder().unwrap();
    assert!(matches!(drain(&mut forwarder).await, End::Empty));
    // Lines that came just before the rotation, and one behind it.
    std::fs::write(&place.log, [first, lines(2)].concat()).unwrap();
    let sealed = |range: &str| place.log.with_file_name(format!("events.{range}.jsonl"));
    std::fs::rename(&place.log, sealed("000000000000-000000000004")).unwrap();
    std::fs::write(&place.log, lines(1)).unwrap();
    assert_eq!(forwarder.lag().unwrap(), 3);
    assert!(matches!(drain(&mut forwarder).await, End::Empty));
    drop(forwarder);
    std::fs::rename(&place.log, sealed("000000000005-000000000005")).unwrap();
    std::fs::write(&place.log, "").unwrap();
    assert_eq!(lag(&place.log, "x").unwrap(), 0);
    std::fs::write(&place.log, lines(1)).unwrap();
    assert!(matches!(
        drain(&mut place.forwarder().unwrap()).await,
        End::Empty
    ));
    assert_eq!(place.received(), (0..7).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_line_that_is_being_written_is_waited_for() {
    let place = Place::new();
    place.append(2, "");
    let whole = std::fs::read(&place.log).unwrap();
    let torn = whole.len() - 20;
    std::fs::write(&place.log, &whole[..torn]).unwrap();
    let mut forwarder = place.forwarder().unwrap();
    assert!(matches!(drain(&mut forwarder).await, End::Empty));
    assert_eq!((place.received(), forwarder.lag().unwrap()), (vec![0], 0));
    std::fs::write(&place.log, &whole).unwrap();
    assert!(matches!(drain(&mut forwarder).await, End::Empty));
    assert_eq!(place.received(), [0, 1]);
}
