//! What is asked: small answers to small requests, and one that does not end.

use std::{
    io::{self, Read, Write},
    net::{TcpListener, TcpStream},
    thread,
};

/// Where a request asks for the answer that does not end.
pub(crate) const BULK: &str = "/bulk";
/// Bytes written at once of that.
const BLOCK_BYTES: usize = 256 * 1024;
/// Most bytes of a request.
const REQUEST_BYTES: usize = 4096;
/// What a small request is answered with.
const SMALL: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// How the answer begins that does not end before somebody hangs up.
const ENDLESS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 1099511627776\r\n\r\n";

/// Serves until it is killed. Says a line when it listens.
pub(crate) fn serve(addresses: &[String]) -> Result<(), super::Failure> {
    let mut threads = Vec::new();
    for address in addresses {
        let listener = TcpListener::bind(address)?;
        threads.push(thread::spawn(move || {
            for client in listener.incoming().flatten() {
                thread::spawn(move || answer(client));
            }
        }));
    }
    println!("ready");
    for thread in threads {
        let _ = thread.join();
    }
    Ok(())
}

fn answer(mut client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut buffer = [0; REQUEST_BYTES];
    let mut held = 0;
    loop {
        let read = client.read(&mut buffer[held..])?;
        if read == 0 {
            return Ok(());
        }
        held += read;
        if !buffer[..held].ends_with(b"\r\n\r\n") {
            continue;
        }
        let bulk = buffer[..held]
            .windows(BULK.len())
            .any(|part| part == BULK.as_bytes());
        held = 0;
        if bulk {
            client.write_all(ENDLESS)?;
            let block = vec![7; BLOCK_BYTES];
            loop {
                client.write_all(&block)?;
            }
        }
        client.write_all(SMALL)?;
    }
}
