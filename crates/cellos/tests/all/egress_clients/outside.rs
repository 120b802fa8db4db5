//! What the clients find outside their cells: an authority of the test's own, a web server and
//! servers that are other programs.

use std::{
    io::{BufRead as _, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Arc,
    thread,
};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use tokio_rustls::rustls::{
    ServerConfig, ServerConnection, StreamOwned,
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer},
};

/// Characters of a line in a PEM file, RFC 7468.
const PEM_LINE: usize = 64;

/// A certificate for some names, and the authority that it is from.
pub(crate) struct Certificates {
    chain: CertificateDer<'static>,
    key: Vec<u8>,
    authority: PathBuf,
    certificate_file: PathBuf,
    key_file: PathBuf,
}

impl Certificates {
    /// Makes them, and leaves them in a folder as PEM files.
    pub(crate) fn new(folder: &Path, names: &[&str]) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let called = "Authority of a test";
        params.distinguished_name.push(DnType::CommonName, called);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let write = |name: &str, what: &str, der: &[u8]| {
            let path = folder.join(name);
            std::fs::write(&path, pem(what, der)).unwrap();
            path
        };
        Self {
            authority: write("ca.pem", "CERTIFICATE", issuer.der()),
            certificate_file: write("server.pem", "CERTIFICATE", certificate.der()),
            key_file: write("server.key", "PRIVATE KEY", &key.serialize_der()),
            key: key.serialize_der(),
            chain: certificate.der().clone(),
        }
    }

    /// The authority's file, for clients.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    /// The files of the server's certificate and key.
    pub(crate) fn files(&self) -> (&Path, &Path) {
        (&self.certificate_file, &self.key_file)
    }

    fn config(&self) -> Arc<ServerConfig> {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![self.chain.clone()], key)
            .unwrap();
        Arc::new(config)
    }
}

fn pem(what: &str, der: &[u8]) -> String {
    let text = BASE64_STANDARD.encode(der);
    let lines: Vec<&str> = text
        .as_bytes()
        .chunks(PEM_LINE)
        .map(|line| std::str::from_utf8(line).unwrap())
        .collect();
    let lines = lines.join("\n");
    format!("-----BEGIN {what}-----\n{lines}\n-----END {what}-----\n")
}

/// Serves the files of a folder over HTTPS, and the repositories of its folder `git` with git's own
/// program. Returns its port.
pub(crate) fn serve_folder(certificates: &Certificates, folder: &Path) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let (config, folder) = (certificates.config(), folder.to_path_buf());
    thread::spawn(move || {
        while let Ok((connection, _)) = listener.accept() {
            let (config, folder) = (Arc::clone(&config), folder.clone());
            thread::spawn(move || {
                let tls = ServerConnection::new(config).unwrap();
                // Clients go when they like, and some never finish their handshake.
                let _ = serve(StreamOwned::new(tls, connection), &folder);
            });
        }
    });
    port
}

/// A request as it came; its body has a `content-length`.
struct Request {
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    fn read(input: &mut impl BufReadExact) -> std::io::Result<Option<Self>> {
        let first = input.line()?;
        let mut words = first.split(' ').map(str::to_owned);
        let (Some(method), Some(target)) = (words.next(), words.next()) else {
            return Ok(None);
        };
        let mut headers = Vec::new();
        while let Some((name, value)) = input.line()?.split_once(':') {
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut request = Self {
            method,
            target,
            headers,
            body: Vec::new(),
        };
        let length = request.header("content-length").parse().unwrap_or(0);
        request.body = vec![0; length];
        input.read_exact(&mut request.body)?;
        Ok(Some(request))
    }

    fn header(&self, name: &str) -> &str {
        let found = self.headers.iter().find(|(key, _)| key == name);
        found.map_or("", |(_, value)| value.as_str())
    }
}

trait BufReadExact: std::io::BufRead {
    fn line(&mut self) -> std::io::Result<String> {
        let mut line = String::new();
        self.read_line(&mut line)?;
        Ok(line.trim_end().to_owned())
    }
}

impl<T: std::io::BufRead> BufReadExact for T {}

fn serve(stream: impl Read + Write, folder: &Path) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    while let Some(request) = Request::read(&mut stream)? {
        let (path, query) = request
            .target
            .split_once('?')
            .unwrap_or((&request.target, ""));
        let answer = if let Some(path) = path.strip_prefix("/git/") {
            git(&request, &folder.join("git"), path, query)
        } else {
            let file = folder.join(path.trim_start_matches('/'));
            match std::fs::read(&file).or_else(|_| std::fs::read(file.join("index.html"))) {
                Ok(body) => answer("200 OK", kind(&file), &body),
                Err(_) => answer("404 Not Found", "text/plain", b"not here"),
            }
        };
        stream.get_mut().write_all(&answer)?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

fn kind(file: &Path) -> &'static str {
    match file.extension().and_then(|it| it.to_str()) {
        Some("whl" | "tgz") => "application/octet-stream",
        // What a registry of npm answers with has no extension.
        None if file.is_file() => "application/json",
        _ => "text/html",
    }
}

fn answer(status: &str, kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}

/// What `git http-backend` says, RFC 3875.
fn git(request: &Request, root: &Path, path: &str, query: &str) -> Vec<u8> {
    let mut child = Command::new("/usr/bin/git")
        .arg("http-backend")
        .env_clear()
        .env("PATH", "/usr/bin:/bin")
        .env("GIT_PROJECT_ROOT", root)
        .env("GIT_HTTP_EXPORT_ALL", "1")
        .env("PATH_INFO", format!("/{path}"))
        .env("QUERY_STRING", query)
        .env("REQUEST_METHOD", &request.method)
        .env("CONTENT_TYPE", request.header("content-type"))
        .env("CONTENT_LENGTH", request.body.len().to_string())
        .env("HTTP_CONTENT_ENCODING", request.header("content-encoding"))
        .env("GIT_PROTOCOL", request.header("git-protocol"))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child
        .stdin
        .take()
        .unwrap()
        .write_all(&request.body)
        .unwrap();
    let said = child.wait_with_output().unwrap().stdout;
    let end = said.windows(4).position(|it| it == b"\r\n\r\n").unwrap();
    let head = String::from_utf8_lossy(&said[..end]).into_owned();
    let field = |name: &str| {
        let mut lines = head.lines().filter_map(|line| line.split_once(": "));
        lines.find_map(|(key, value)| (key == name).then(|| value.to_owned()))
    };
    let status = field("Status").unwrap_or_else(|| "200 OK".to_owned());
    let kind = field("Content-Type").unwrap_or_else(|| "text/plain".to_owned());
    answer(&status, &kind, &said[end + 4..])
}

/// A server that is a program; it ends with this.
pub(crate) struct Server {
    child: Child,
    port: u16,
}

impl Server {
    /// Starts one that prints its port as its first line.
    pub(crate) fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        output.read_line(&mut line).unwrap();
        let port = line.trim().parse().unwrap();
        Self { child, port }
    }

    /// Takes one that runs already.
    pub(crate) fn of(child: Child, port: u16) -> Self {
        Self { child, port }
    }

    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A port of this host that nobody has for now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Whether somebody listens there.
pub(crate) fn listens(port: u16) -> bool {
    TcpStream::connect(("127.0.0.1", port)).is_ok()
}
