//! QEMU's own protocol, QMP (`docs/interop/qmp-spec` of QEMU): JSON, one message a line.
//!
//! QEMU may have been taken over by its guest, so what it says is bounded in length and number,
//! and never decides anything about the cell.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::mpsc,
};

use super::{NAME, VmmError};

/// Longest message in bytes. The greeting and answers to the commands used here have some hundred.
const MESSAGE_BYTES: u64 = 64 << 10;

/// How long QEMU may take for an answer. An emulating one on a busy host was seen to need 0.1 s.
const ANSWER_BOUND: Duration = Duration::from_secs(20);

/// Most events that are kept; the first ones go.
const MAX_EVENTS: usize = 32;

/// Longest refusal that is kept, in characters.
const REFUSAL_CHARS: usize = 300;

/// A conversation with one QEMU.
#[derive(Debug)]
pub(crate) struct Control {
    conversation: tokio::sync::Mutex<Conversation>,
    /// What QEMU said unasked.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "read by tests; kept bounded by the reader")
    )]
    events: Arc<Mutex<VecDeque<Event>>>,
}

#[derive(Debug)]
struct Conversation {
    requests: OwnedWriteHalf,
    answers: mpsc::Receiver<Result<Message, String>>,
}

/// What QEMU said unasked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Event {
    /// `GUEST_PANICKED`: the guest's kernel said so.
    GuestPanicked,
    /// `SHUTDOWN`, with QEMU's word for the reason: `guest-reset`, `host-qmp-quit`.
    Shutdown(Option<String>),
    /// `RESET`.
    Reset,
    /// Anything else.
    Other,
}

#[derive(Debug, Deserialize)]
struct Message {
    #[serde(rename = "QMP")]
    greeting: Option<Greeting>,
    event: Option<String>,
    data: Option<Value>,
    #[serde(rename = "return")]
    answer: Option<Value>,
    error: Option<Refusal>,
}

#[derive(Debug, Deserialize)]
struct Greeting {}

#[derive(Debug, Deserialize)]
struct Refusal {
    desc: String,
}

impl Control {
    /// Waits for the greeting and agrees on no capability.
    ///
    /// # Errors
    /// [`VmmError`]; the caller finds out whether QEMU has ended.
    pub(crate) async fn negotiate(stream: UnixStream) -> Result<Self, VmmError> {
        let (reader, requests) = stream.into_split();
        // One answer at a time is asked for.
        let (sender, mut answers) = mpsc::channel(1);
        let events = Arc::new(Mutex::new(VecDeque::new()));
        tokio::spawn(listen(reader, sender, Arc::clone(&events)));
        let greeting = next(&mut answers, "its greeting").await?;
        if greeting.greeting.is_none() {
            return Err(unreadable("its greeting", "another message came first"));
        }
        let control = Self {
            conversation: tokio::sync::Mutex::new(Conversation { requests, answers }),
            events,
        };
        control.execute("qmp_capabilities").await?;
        Ok(control)
    }

    /// Has QEMU execute a command without arguments.
    ///
    /// # Errors
    /// [`VmmError::Refused`], [`VmmError::Unreadable`], [`VmmError::Timeout`].
    pub(crate) async fn execute(&self, command: &'static str) -> Result<Value, VmmError> {
        let mut conversation = self.conversation.lock().await;
        let request = format!("{{\"execute\":\"{command}\"}}\n");
        conversation
            .requests
            .write_all(request.as_bytes())
            .await
            .map_err(|error| unreadable(command, &error.to_string()))?;
        let message = next(&mut conversation.answers, command).await?;
        match (message.answer, message.error) {
            (Some(answer), None) => Ok(answer),
            (_, Some(refusal)) => Err(VmmError::Refused {
                monitor: NAME,
                request: command.to_owned(),
                answer: refusal.desc.chars().take(REFUSAL_CHARS).collect(),
            }),
            (None, None) => Err(unreadable(command, "neither return nor error")),
        }
    }

    /// Whether the machine's processors run.
    ///
    /// # Errors
    /// As [`Control::execute`].
    pub(crate) async fn is_running(&self) -> Result<bool, VmmError> {
        let status = self.execute("query-status").await?;
        let running = status.get("running").and_then(Value::as_bool);
        running.ok_or_else(|| unreadable("query-status", "it does not say whether it runs"))
    }

    /// What QEMU said unasked, in its order; at most the last 32.
    #[cfg(test)]
    pub(crate) fn events(&self) -> Vec<Event> {
        let events = self.events.lock().unwrap_or_else(PoisonError::into_inner);
        events.iter().cloned().collect()
    }
}

async fn next(
    answers: &mut mpsc::Receiver<Result<Message, String>>,
    request: &str,
) -> Result<Message, VmmError> {
    match tokio::time::timeout(ANSWER_BOUND, answers.recv()).await {
        Ok(Some(Ok(message))) => Ok(message),
        Ok(Some(Err(why))) => Err(unreadable(request, &why)),
        Ok(None) => Err(unreadable(request, "the connection ended")),
        Err(_) => Err(VmmError::Timeout {
            monitor: NAME,
            request: request.to_owned(),
            bound: ANSWER_BOUND,
        }),
    }
}

/// Reads until the end of the connection: events are noted, the rest are answers. An answer that
/// nobody asked for ends the conversation.
async fn listen(
    reader: OwnedReadHalf,
    answers: mpsc::Sender<Result<Message, String>>,
    events: Arc<Mutex<VecDeque<Event>>>,
) {
    let mut reader = BufReader::new(reader);
    loop {
        let mut line = Vec::new();
        let message = match (&mut reader)
            .take(MESSAGE_BYTES)
            .read_until(b'\n', &mut line)
            .await
        {
            Ok(0) => return,
            Ok(_) if line.last() != Some(&b'\n') => {
                Err("a message is longer than 65536 bytes, or cut off".to_owned())
            }
            Ok(_) => serde_json::from_slice::<Message>(&line).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let last = message.is_err();
        match message {
            Ok(Message {
                event: Some(event),
                data,
                ..
            }) => note(&events, &event, data.as_ref()),
            answer => {
                if answers.try_send(answer).is_err() {
                    return;
                }
            }
        }
        if last {
            return;
        }
    }
}

fn note(events: &Mutex<VecDeque<Event>>, name: &str, data: Option<&Value>) {
    let event = match name {
        "GUEST_PANICKED" => Event::GuestPanicked,
        "SHUTDOWN" => Event::Shutdown(
            data.and_then(|data| data.get("reason"))
                .and_then(Value::as_str)
                .map(|reason| reason.chars().take(REFUSAL_CHARS).collect()),
        ),
        "RESET" => Event::Reset,
        _ => Event::Other,
    };
    let mut events = events.lock().unwrap_or_else(PoisonError::into_inner);
    if events.len() == MAX_EVENTS {
        events.pop_front();
    }
    events.push_back(event);
}

fn unreadable(request: &str, why: &str) -> VmmError {
    VmmError::Unreadable {
        monitor: NAME,
        request: request.to_owned(),
        why: why.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GREETING: &[u8] = b"{\"QMP\": {\"version\": {}, \"capabilities\": [\"oob\"]}}\r\n";

    /// A QEMU that greets, agrees, and then gives these bytes for each further command.
    async fn qemu(greeting: &'static [u8], rest: &'static [u8]) -> UnixStream {
        let (ours, theirs) = UnixStream::pair().unwrap();
        tokio::spawn(async move {
            let (reader, mut writer) = theirs.into_split();
            let mut lines = BufReader::new(reader).lines();
            if writer.write_all(greeting).await.is_err() {
                return;
            }
            let mut first = true;
            while let Ok(Some(line)) = lines.next_line().await {
                let agreed = first && line.contains("qmp_capabilities");
                first = false;
                let answer = if agreed {
                    b"{\"return\": {}}\r\n"
                } else {
                    rest
                };
                if writer.write_all(answer).await.is_err() {
                    return;
                }
            }
        });
        ours
    }

    #[tokio::test]
    async fn events_between_answers_are_kept_in_their_order() {
        let stream = qemu(
            GREETING,
            b"{\"event\": \"RESET\", \"data\": {}, \"timestamp\": {}}\n\
              {\"event\": \"SHUTDOWN\", \"data\": {\"guest\": true, \"reason\": \"guest-reset\"}}\n\
              {\"return\": {\"running\": true, \"status\": \"running\"}}\n",
        )
        .await;
        let control = Control::negotiate(stream).await.unwrap();
        assert!(control.is_running().await.unwrap());
        let shutdown = Event::Shutdown(Some("guest-reset".to_owned()));
        assert_eq!(control.events(), [Event::Reset, shutdown]);
    }

    #[tokio::test]
    async fn a_refusal_is_given_in_qemus_words_and_bounded() {
        let stream = qemu(
            GREETING,
            b"{\"error\": {\"class\": \"X\", \"desc\": \"no\"}}\n",
        )
        .await;
        let control = Control::negotiate(stream).await.unwrap();
        let refused = control.execute("quit").await.unwrap_err();
        assert_eq!(refused.to_string(), "qemu refused quit: no");
    }

    #[tokio::test]
    async fn what_is_not_the_protocol_is_an_error_and_not_a_hang() {
        let long: &'static [u8] = Box::leak(vec![b'x'; 100_000].into_boxed_slice());
        for greeting in [&b"hello\n"[..], b"{\"return\": {}}\n", b"[1]\n", long] {
            let stream = qemu(greeting, b"").await;
            let error = Control::negotiate(stream).await.unwrap_err();
            assert!(matches!(error, VmmError::Unreadable { .. }), "{error}");
        }
        for answer in [
            &b"{}\n"[..],
            b"{\"return\": {}\n",
            b"{\"return\": {\"running\": 3}}\n",
        ] {
            let control = Control::negotiate(qemu(GREETING, answer).await)
                .await
                .unwrap();
            let error = control.is_running().await.unwrap_err();
            assert!(matches!(error, VmmError::Unreadable { .. }), "{error}");
        }
    }

    #[tokio::test]
    async fn a_flood_of_events_keeps_the_last_few() {
        let flood: String = "{\"event\": \"RTC_CHANGE\"}\n".repeat(500) + "{\"return\": {}}\n";
        let stream = qemu(GREETING, Box::leak(flood.into_boxed_str()).as_bytes()).await;
        let control = Control::negotiate(stream).await.unwrap();
        control.execute("stop").await.unwrap();
        assert_eq!(control.events().len(), MAX_EVENTS);
    }
}
