//! The host's own resolver: what `/etc/hosts`, `nsswitch.conf` and `resolv.conf` of the host say.

use std::{
    fs::File,
    io::{self, Read as _},
    net::{IpAddr, Ipv4Addr, ToSocketAddrs as _},
};

use tokio::sync::Semaphore;

use super::answer::{Answer, AskError};

/// Lookups that the host's resolver does at once for all cells: each takes a thread, for up to half
/// a minute when nobody answers it.
const HOST_LOOKUPS: usize = 64;
/// Longest `resolv.conf` that is read, in bytes.
const RESOLV_CONF_MAX: u64 = 64 * 1024;
/// Name servers that are taken from it, as `resolv.conf(5)` has it.
const NAME_SERVERS_MAX: usize = 3;

static LOOKUPS: Semaphore = Semaphore::const_new(HOST_LOOKUPS);

/// Asks as any program of the host would, `getaddrinfo(3)`.
pub(super) async fn addresses(name: &str) -> Result<Answer, AskError> {
    let failed = |what: &str| AskError::Failed(what.to_owned());
    let permit = LOOKUPS.acquire().await.map_err(|_| failed("closed"))?;
    let name = name.to_owned();
    let looked_up = tokio::task::spawn_blocking(move || {
        // Held by the thread, which outlives whoever no longer waits for it.
        let _permit = permit;
        (name.as_str(), 0)
            .to_socket_addrs()
            .map(|found| found.map(|it| it.ip()).collect::<Vec<_>>())
    });
    match looked_up.await {
        Ok(Ok(found)) => Answer::new(found, None),
        Ok(Err(error)) if is_no_name(&error) => Err(AskError::NoAddress),
        Ok(Err(error)) => Err(AskError::Failed(format!("the host's resolver: {error}"))),
        Err(_) => Err(failed("the host's resolver broke off")),
    }
}

/// The standard library tells what `getaddrinfo(3)` said in words only: those of glibc and musl.
fn is_no_name(error: &io::Error) -> bool {
    let text = error.to_string();
    [
        "Name or service not known",
        "No address associated with",
        "Name does not resolve",
        "Name has no usable address",
    ]
    .iter()
    .any(|known| text.contains(known))
}

/// Name servers of the host, for records that are no addresses.
pub(super) fn name_servers() -> Vec<IpAddr> {
    let mut text = String::new();
    let read = File::open("/etc/resolv.conf")
        .and_then(|file| file.take(RESOLV_CONF_MAX).read_to_string(&mut text));
    if read.is_err() {
        text.clear();
    }
    listed(&text)
}

fn listed(text: &str) -> Vec<IpAddr> {
    let mut servers: Vec<IpAddr> = text
        .lines()
        .filter_map(|line| {
            let mut words = line.split_ascii_whitespace();
            let keyword = words.next()?;
            let address = words.next().filter(|_| keyword == "nameserver")?;
            address.parse().ok()
        })
        .take(NAME_SERVERS_MAX)
        .collect();
    if servers.is_empty() {
        servers.push(Ipv4Addr::LOCALHOST.into());
    }
    servers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn name_servers_of_resolv_conf() {
        let text = "# nameserver 192.0.2.9\nsearch a.b\nnameserver 192.0.2.1\n nameserver\t2001:db8::1 \n\
             nameserver x\nnameserver 192.0.2.2\nnameserver 192.0.2.3\n";
        let servers: Vec<String> = listed(text).iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["192.0.2.1", "2001:db8::1", "192.0.2.2"]);
        assert_eq!(listed(""), [IpAddr::from([127, 0, 0, 1])]);
    }

    #[tokio::test]
    async fn the_hosts_file_counts() {
        let answer = addresses("localhost").await.unwrap();
        assert!(answer.addresses.iter().all(IpAddr::is_loopback));
    }
}
