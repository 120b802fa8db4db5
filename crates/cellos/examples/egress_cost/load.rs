//! What asks, wherever it runs: on the host, in a cell, or in another network namespace.

use std::{
    io::{self, Read, Write},
    net::{SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use super::{Failure, figure, server::BULK};

/// How long each figure is measured.
const EACH: Duration = Duration::from_millis(400);
/// Connections at once where there are several.
const PARALLEL: usize = 8;
/// Connections whose set-up is timed, after some that are not.
const SET_UPS: usize = 400;
/// Those that are not.
const WARM_UPS: usize = 20;
/// Bytes read at once of bulk data.
const BLOCK_BYTES: usize = 256 * 1024;

/// Measures everything, and prints one figure a line.
pub(crate) fn run(address: &str) -> Result<(), Failure> {
    let to: SocketAddr = address.parse()?;
    let mut times = Vec::with_capacity(SET_UPS);
    for round in 0..WARM_UPS + SET_UPS {
        let begun = Instant::now();
        let mut stream = connect(to)?;
        ask(&mut stream, to)?;
        if round >= WARM_UPS {
            times.push(begun.elapsed());
        }
    }
    times.sort_unstable();
    for (name, percent) in [("p50", 50), ("p99", 99)] {
        let time = times[(times.len() * percent / 100).min(times.len() - 1)];
        let what = format!("connection and first answer, {name}");
        figure(&what, time.as_secs_f64() * 1e6, "µs");
    }
    let requests = in_parallel(PARALLEL, move || keep_asking(to))?;
    figure("requests on 8 kept connections", requests, "1/s");
    let requests = in_parallel(PARALLEL, move || connect_and_ask(to))?;
    figure(
        "requests with a connection each, 8 at once",
        requests,
        "1/s",
    );
    let bytes = in_parallel(1, move || download(to))?;
    figure("bulk, one connection", bytes / 1e9, "GB/s");
    let bytes = in_parallel(PARALLEL, move || download(to))?;
    figure("bulk, 8 connections", bytes / 1e9, "GB/s");
    Ok(())
}

/// What all of them do together in a second.
fn in_parallel(
    count: usize,
    work: impl Fn() -> io::Result<u64> + Clone + Send + 'static,
) -> Result<f64, Failure> {
    let begun = Instant::now();
    let threads: Vec<_> = (0..count).map(|_| thread::spawn(work.clone())).collect();
    let mut done = 0;
    for thread in threads {
        done += thread.join().map_err(|_| "a thread panicked")??;
    }
    Ok(done as f64 / begun.elapsed().as_secs_f64())
}

fn keep_asking(to: SocketAddr) -> io::Result<u64> {
    let mut stream = connect(to)?;
    let (begun, mut asked) = (Instant::now(), 0);
    while begun.elapsed() < EACH {
        ask(&mut stream, to)?;
        asked += 1;
    }
    Ok(asked)
}

fn connect_and_ask(to: SocketAddr) -> io::Result<u64> {
    let (begun, mut asked) = (Instant::now(), 0);
    while begun.elapsed() < EACH {
        ask(&mut connect(to)?, to)?;
        asked += 1;
    }
    Ok(asked)
}

fn download(to: SocketAddr) -> io::Result<u64> {
    let mut stream = connect(to)?;
    send(&mut stream, BULK, to)?;
    let mut block = vec![0; BLOCK_BYTES];
    let (begun, mut bytes) = (Instant::now(), 0);
    while begun.elapsed() < EACH {
        match stream.read(&mut block)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => bytes += read as u64,
        }
    }
    Ok(bytes)
}

fn connect(to: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(to)?;
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    Ok(stream)
}

fn send(stream: &mut TcpStream, path: &str, to: SocketAddr) -> io::Result<()> {
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {to}\r\n\r\n").as_bytes())
}

fn ask(stream: &mut TcpStream, to: SocketAddr) -> io::Result<()> {
    send(stream, "/", to)?;
    let mut answer = [0; 512];
    let mut held = 0;
    while !answer[..held].ends_with(b"\r\n\r\nok") {
        match stream.read(&mut answer[held..])? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => held += read,
        }
    }
    Ok(())
}
