use std::{future::Future, net::Ipv4Addr};

use tokio::net::TcpListener;

use super::*;
use crate::dial::Upstream;

const LOCAL: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const JUDGED: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));
const JUDGED_V6: &str = "2001:db8::7";

/// A proxy that treats each connection like this; `HOST:PORT` of the text becomes its own.
async fn proxy<F, Answer>(text: &str, serve: F) -> Upstream
where
    F: Fn(TcpStream) -> Answer + Send + 'static,
    Answer: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind((LOCAL, 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    Upstream::parse(&text.replace("HOST:PORT", &address)).unwrap()
}

/// Reads a request's head and answers like this, with what the destination says first.
async fn answer_head(mut stream: TcpStream, wanted: &str, answer: &str) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap();
    let answer = if head == wanted {
        answer
    } else {
        "HTTP/1.1 599 test failed\r\n\r\n"
    };
    stream.write_all(answer.as_bytes()).await.unwrap();
    let _ = stream.read(&mut [0]).await;
}

async fn says(stream: &mut TcpStream, length: usize) -> String {
    let mut said = vec![0; length];
    stream.read_exact(&mut said).await.unwrap();
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn connect_is_given_the_judged_address_and_takes_no_byte_of_the_destination() {
    let upstream = proxy("http://u:p%40ss@HOST:PORT", |stream| {
        let wanted = "CONNECT 192.0.2.7:5432 HTTP/1.1\r\nHost: 192.0.2.7:5432\r\n\
                      Proxy-Authorization: Basic dTpwQHNz\r\n\r\n";
        let answer = "HTTP/1.1 200 Connection established\r\nVia: x\r\n\r\nhello\r\n\r\n";
        answer_head(stream, wanted, answer)
    })
    .await;
    let mut dialled = upstream
        .dial(Target::Addresses(&[JUDGED]), 5432)
        .await
        .unwrap();
    assert_eq!(dialled.address, Some((JUDGED, 5432).into()));
    assert_eq!(says(&mut dialled.stream, 9).await, "hello\r\n\r\n");
    let name = upstream.dial(Target::Name("a.example"), 5432).await;
    assert!(matches!(name, Err(DialError::NotResolved)));
}

#[tokio::test]
async fn connect_with_names_is_given_the_name() {
    let upstream = proxy("http+names://HOST:PORT", |stream| {
        let wanted = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
        answer_head(stream, wanted, "HTTP/1.0 200\r\n\r\n!")
    })
    .await;
    assert!(upstream.resolves_names());
    let mut dialled = upstream.dial(Target::Name("a.example"), 443).await.unwrap();
    assert_eq!(dialled.address, None);
    assert_eq!(says(&mut dialled.stream, 1).await, "!");
}

#[tokio::test]
async fn refusals_of_connect_are_told_and_the_next_address_is_tried() {
    let tried = std::sync::Arc::new(std::sync::Mutex::new(Vec::new()));
    let seen = std::sync::Arc::clone(&tried);
    let upstream = proxy("http://HOST:PORT", move |mut stream| {
        let seen = std::sync::Arc::clone(&seen);
        async move {
            let mut head = vec![0; 1024];
            let count = stream.read(&mut head).await.unwrap();
            let line = String::from_utf8_lossy(&head[..count])
                .lines()
                .next()
                .map(str::to_owned);
            let answer = match line.as_deref() {
                Some("CONNECT [2001:db8::7]:80 HTTP/1.1") => "HTTP/1.1 200 OK\r\n\r\n",
                _ => "HTTP/1.1 403 Not here\r\nContent-Length: 2\r\n\r\nno",
            };
            seen.lock().unwrap().extend(line);
            stream.write_all(answer.as_bytes()).await.unwrap();
            let _ = stream.read(&mut [0]).await;
        }
    })
    .await;
    let v6: IpAddr = JUDGED_V6.parse().unwrap();
    let dialled = upstream
        .dial(Target::Addresses(&[JUDGED, v6]), 80)
        .await
        .unwrap();
    assert_eq!(dialled.address, Some((v6, 80).into()));
    let failure = upstream
        .dial(Target::Addresses(&[JUDGED; 9]), 80)
        .await
        .unwrap_err();
    assert_eq!(failure.to_string(), "the proxy refused: 403 Not here");
    assert_eq!(tried.lock().unwrap().len(), 2 + MAX_PROXY_ATTEMPTS);
}

#[tokio::test]
async fn odd_answers_to_connect_are_refused_within_bounds() {
    for (what, answer) in [
        ("closed", String::new()),
        ("control", "HTTP/1.1 403 \x1b[31m\r\n\r\n".into()),
        ("other protocol", "SSH-2.0-x\r\n\r\n".into()),
        (
            "huge",
            format!(
                "HTTP/1.1 200 OK\r\nX: {}\r\n\r\n",
                "a".repeat(2 * MAX_PROXY_ANSWER)
            ),
        ),
        (
            "too many headers",
            format!("HTTP/1.1 200 OK\r\n{}\r\n", "X: y\r\n".repeat(99)),
        ),
        ("cut", "HTTP/1.1 200 OK\r\nX: ".into()),
        ("switch", "HTTP/1.1 101 Switch\r\n\r\n".into()),
    ] {
        let upstream = proxy("http://secret:secret@HOST:PORT", move |mut stream| {
            let answer = answer.clone();
            async move {
                let _ = stream.read(&mut [0; 1024]).await;
                let _ = stream.write_all(answer.as_bytes()).await;
            }
        })
        .await;
        let failure = upstream
            .dial(Target::Addresses(&[JUDGED]), 80)
            .await
            .unwrap_err();
        assert!(
            !format!("{failure} {failure:?}").contains("secret"),
            "{what}"
        );
        match what {
            "switch" => assert!(matches!(failure, DialError::Proxy(_)), "{what}: {failure}"),
            _ => assert!(
                matches!(failure, DialError::ProxyUnreachable { .. }),
                "{what}: {failure}"
            ),
        }
    }
}

#[tokio::test]
async fn a_proxy_that_says_nothing_is_given_up_in_time() {
    let upstream = proxy("socks5://HOST:PORT", |mut stream| async move {
        let _ = stream.read(&mut [0; 16]).await;
        std::future::pending::<()>().await;
    })
    .await;
    let Upstream::Proxy(proxy) = &upstream else {
        panic!("no proxy")
    };
    let end = Instant::now() + Duration::from_millis(200);
    let begun = Instant::now();
    let failure = proxy
        .dial_until(Target::Addresses(&[JUDGED]), 80, end)
        .await;
    assert!(matches!(failure, Err(DialError::TimedOut(_))));
    assert!(begun.elapsed() < Duration::from_secs(5));
}

/// Speaks SOCKS 5: reads `wanted` in these steps and answers each.
async fn socks(mut stream: TcpStream, steps: Vec<(Vec<u8>, Vec<u8>)>) {
    for (wanted, answer) in steps {
        let mut said = vec![0; wanted.len()];
        if stream.read_exact(&mut said).await.is_err() || said != wanted {
            return;
        }
        let _ = stream.write_all(&answer).await;
    }
    let _ = stream.read(&mut [0]).await;
}

#[tokio::test]
async fn socks_is_given_the_judged_address_after_the_login() {
    let upstream = proxy("socks5://me:pass@HOST:PORT", |stream| {
        socks(
            stream,
            vec![
                (vec![5, 1, 2], vec![5, 2]),
                (b"\x01\x02me\x04pass".to_vec(), vec![1, 0]),
                (
                    vec![5, 1, 0, 1, 192, 0, 2, 7, 0x15, 0x38],
                    b"\x05\0\0\x03\x03abc\0\0hello".to_vec(),
                ),
            ],
        )
    })
    .await;
    let mut dialled = upstream
        .dial(Target::Addresses(&[JUDGED]), 0x1538)
        .await
        .unwrap();
    assert_eq!(dialled.address, Some((JUDGED, 0x1538).into()));
    assert_eq!(says(&mut dialled.stream, 5).await, "hello");
}

#[tokio::test]
async fn socks_with_names_is_given_the_name() {
    let upstream = proxy("socks5h://HOST:PORT", |stream| {
        let ask = b"\x05\x01\0\x03\x09a.example\x01\xbb".to_vec();
        let answer = [&[5, 0, 0, 4][..], &[0; 18], b"!"].concat();
        socks(stream, vec![(vec![5, 1, 0], vec![5, 0]), (ask, answer)])
    })
    .await;
    let mut dialled = upstream.dial(Target::Name("a.example"), 443).await.unwrap();
    assert_eq!(dialled.address, None);
    assert_eq!(says(&mut dialled.stream, 1).await, "!");
}

#[tokio::test]
async fn refusals_and_odd_answers_of_socks_are_told() {
    let ask = vec![5, 1, 0, 1, 192, 0, 2, 7, 0, 80];
    let hello = vec![5, 1, 0];
    for (steps, refused) in [
        (vec![(hello.clone(), vec![5, 0xff])], true),
        (vec![(hello.clone(), vec![5, 2])], true),
        (vec![(hello.clone(), vec![4, 0])], false),
        (
            vec![(hello.clone(), vec![5, 0]), (ask.clone(), vec![5, 2, 0, 1])],
            true,
        ),
        (
            vec![(hello.clone(), vec![5, 0]), (ask.clone(), vec![4, 0, 0, 1])],
            false,
        ),
        (vec![(hello, vec![5, 0]), (ask, vec![5, 0, 0, 9])], false),
    ] {
        let case = format!("{steps:?}");
        let upstream = proxy("socks5://HOST:PORT", move |stream| {
            socks(stream, steps.clone())
        })
        .await;
        let failure = upstream
            .dial(Target::Addresses(&[JUDGED]), 80)
            .await
            .unwrap_err();
        match refused {
            true => assert!(matches!(failure, DialError::Proxy(_)), "{case}: {failure}"),
            false => assert!(
                matches!(failure, DialError::ProxyUnreachable { .. }),
                "{case}: {failure}"
            ),
        }
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]
    #[test]
    fn whatever_a_proxy_answers_is_taken_without_harm(
        answer in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..64),
        valid in 0usize..5,
        socks in proptest::prelude::any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let begin: &[u8] = match socks {
                true => &[5, 0, 5, 0, 0],
                false => b"HTTP/",
            };
            let answer = [&begin[..valid], &answer].concat();
            let text = if socks { "socks5://HOST:PORT" } else { "http://HOST:PORT" };
            let upstream = proxy(text, move |mut stream| {
                let answer = answer.clone();
                async move { let _ = stream.write_all(&answer).await; }
            })
            .await;
            let Upstream::Proxy(proxy) = &upstream else { panic!("no proxy") };
            let end = Instant::now() + Duration::from_secs(5);
            let answer = proxy.dial_until(Target::Addresses(&[JUDGED]), 80, end).await;
            assert!(!matches!(answer, Err(DialError::TimedOut(_))));
        });
    }
}
