//! A key in a PKCS#11 token, which a helper program signs with: drivers of tokens are shared
//! libraries, and this program cannot load any.

use std::{
    env,
    ffi::OsString,
    io::{self, Read as _, Write as _},
    os::{
        fd::{AsFd, BorrowedFd},
        unix::process::CommandExt as _,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use cellos_core::{
    CellosError,
    signing::{Signer, TrustAnchorPublicKey},
};
use cellos_pkcs11::{
    frame::{self, HEAD_BYTES, Kind},
    uri::{PinSource, TokenUri, UriError},
};
use rustix::event::{PollFd, PollFlags, Timespec};
use zeroize::Zeroizing;

use super::private::{self, PrivateError};

/// What a PKCS#11 URI begins with.
pub(crate) const SCHEME: &str = "pkcs11:";
/// Name of the helper, which lies beside this program.
const HELPER: &str = "cellos-pkcs11";
/// Where else it lies.
const HELPER_VARIABLE: &str = "CELLOS_PKCS11_HELPER";
/// Longest wait for a token to be opened; smart cards take seconds.
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for a signature, during which nobody else can write to the log.
const SIGN_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest PIN, in bytes; tokens take far less.
const MAX_PIN_BYTES: usize = 255;
/// Longest text of an error that is repeated, in bytes.
const MAX_ERROR_BYTES: usize = 1024;

/// Why a token does not sign. No PIN appears in a message.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Pkcs11Error {
    #[error(transparent)]
    Uri(#[from] UriError),
    #[error("the PKCS#11 URI names no driver: add ?module-path=/path/of/driver.so")]
    NoModule,
    #[error("the PIN of the token: {0}")]
    PinFile(PrivateError),
    #[error("the PIN of the token: variable {name} is not set")]
    PinVariable { name: String },
    #[error("the PIN of the token has to have 1 to {MAX_PIN_BYTES} bytes")]
    PinLength,
    #[error(
        "the helper for tokens, {}, cannot be started: {source}: build cellos-pkcs11 as its README \
         says, put it beside cellos or name it in {HELPER_VARIABLE}",
        path.display()
    )]
    Start { path: PathBuf, source: io::Error },
    #[error("this program does not know where it lies, so name the helper in {HELPER_VARIABLE}")]
    Nowhere,
    #[error("the helper for tokens ended or closed its pipe: {0}")]
    Pipe(io::Error),
    #[error("the token did not answer within {} s", .0.as_secs())]
    Timeout(Duration),
    #[error("{0}")]
    Refused(String),
    #[error("the helper for tokens answered something else than was asked")]
    Protocol,
    #[error("the public key in the token is no usable Ed25519 key")]
    NotAKey,
    #[error("the token made a signature that its public key does not verify")]
    WrongSignature,
}

/// A key in a token.
pub(crate) struct Pkcs11Signer {
    kid: String,
    public: TrustAnchorPublicKey,
    uri: String,
    /// `None` after a failure: the next signature starts another helper.
    helper: Mutex<Option<Helper>>,
}

impl Pkcs11Signer {
    /// Opens a key. `name` makes its name of its public half.
    pub(crate) fn open(
        uri: &str,
        name: impl FnOnce(&[u8; 32]) -> String,
    ) -> Result<Self, Pkcs11Error> {
        let (helper, public) = Helper::open(uri)?;
        Ok(Self {
            kid: name(public.as_bytes()),
            public,
            uri: uri.to_owned(),
            helper: Mutex::new(Some(helper)),
        })
    }

    fn try_sign(&self, message: &[u8]) -> Result<[u8; 64], Pkcs11Error> {
        let mut slot = self.helper.lock().unwrap_or_else(PoisonError::into_inner);
        // It is put back when it has answered as it should.
        let mut helper = match slot.take() {
            Some(helper) => helper,
            None => {
                let (helper, public) = Helper::open(&self.uri)?;
                if public != self.public {
                    return Err(Pkcs11Error::WrongSignature);
                }
                helper
            }
        };
        let answer = helper.ask(Kind::Sign, message, Kind::Signature, SIGN_TIMEOUT)?;
        let signature: [u8; 64] = answer[..].try_into().map_err(|_| Pkcs11Error::Protocol)?;
        if !self.public.verifies(message, &signature) {
            return Err(Pkcs11Error::WrongSignature);
        }
        *slot = Some(helper);
        Ok(signature)
    }
}

impl Signer for Pkcs11Signer {
    fn kid(&self) -> &str {
        &self.kid
    }

    fn sign(&self, message: &[u8]) -> Result<[u8; 64], CellosError> {
        match self.try_sign(message) {
            // The helper may have been killed since it last answered; another one may do.
            Err(Pkcs11Error::Pipe(_)) => self.try_sign(message),
            other => other,
        }
        .map_err(|error| CellosError::Host(error.to_string()))
    }

    fn verifying_key(&self) -> TrustAnchorPublicKey {
        self.public
    }
}

/// A helper program and the pipes to it.
struct Helper {
    child: Child,
    requests: ChildStdin,
    answers: ChildStdout,
}

impl Drop for Helper {
    fn drop(&mut self) {
        // It ends by itself when its pipe is closed, unless its driver hangs.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Helper {
    fn open(text: &str) -> Result<(Self, TrustAnchorPublicKey), Pkcs11Error> {
        let uri = TokenUri::parse(text)?;
        if uri.module.is_none() {
            return Err(Pkcs11Error::NoModule);
        }
        let pin = uri.pin.as_ref().map(read_pin).transpose()?;
        let path = helper_path(|name| env::var_os(name))?;
        let mut helper = Self::start(&path)?;
        let deadline = Instant::now() + OPEN_TIMEOUT;
        if let Some(pin) = pin {
            helper.send(Kind::Pin, &pin, deadline, OPEN_TIMEOUT)?;
        }
        let answer = helper.ask(Kind::Open, text.as_bytes(), Kind::PublicKey, OPEN_TIMEOUT)?;
        let public = <[u8; 32]>::try_from(&answer[..])
            .ok()
            .and_then(|bytes| TrustAnchorPublicKey::from_bytes(&bytes))
            .ok_or(Pkcs11Error::NotAKey)?;
        Ok((helper, public))
    }

    fn start(path: &Path) -> Result<Self, Pkcs11Error> {
        let failed = |source| Pkcs11Error::Start {
            path: path.to_owned(),
            source,
        };
        let mut child = Command::new(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // What stops us from a terminal must not stop it: the end of the log is still to be
            // signed.
            .process_group(0)
            .spawn()
            .map_err(failed)?;
        let (Some(requests), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(Pkcs11Error::Protocol);
        };
        let helper = Self {
            child,
            requests,
            answers,
        };
        for pipe in [helper.requests.as_fd(), helper.answers.as_fd()] {
            let flags = rustix::fs::fcntl_getfl(pipe).map_err(|errno| failed(errno.into()))?;
            rustix::fs::fcntl_setfl(pipe, flags | rustix::fs::OFlags::NONBLOCK)
                .map_err(|errno| failed(errno.into()))?;
        }
        Ok(helper)
    }

    fn ask(
        &mut self,
        kind: Kind,
        content: &[u8],
        expected: Kind,
        timeout: Duration,
    ) -> Result<Vec<u8>, Pkcs11Error> {
        let deadline = Instant::now() + timeout;
        self.send(kind, content, deadline, timeout)?;
        let mut head = [0; HEAD_BYTES];
        self.receive(&mut head, deadline, timeout)?;
        let (found, length) = frame::parse_head(head).map_err(|_| Pkcs11Error::Protocol)?;
        if length > MAX_ERROR_BYTES {
            return Err(Pkcs11Error::Protocol);
        }
        let mut answer = vec![0; length];
        self.receive(&mut answer, deadline, timeout)?;
        match found {
            Kind::Error => Err(Pkcs11Error::Refused(
                String::from_utf8_lossy(&answer).into_owned(),
            )),
            found if found == expected => Ok(answer),
            _ => Err(Pkcs11Error::Protocol),
        }
    }

    fn send(
        &mut self,
        kind: Kind,
        content: &[u8],
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), Pkcs11Error> {
        let bytes = frame::encode(kind, content).map_err(Pkcs11Error::Pipe)?;
        let mut rest = &bytes[..];
        while !rest.is_empty() {
            match self.requests.write(rest) {
                Ok(0) => return Err(closed()),
                Ok(written) => rest = rest.get(written..).unwrap_or_default(),
                Err(error) => self.wait_or(error, Direction::Out, deadline, timeout)?,
            }
        }
        Ok(())
    }

    fn receive(
        &mut self,
        mut buffer: &mut [u8],
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), Pkcs11Error> {
        while !buffer.is_empty() {
            match self.answers.read(buffer) {
                Ok(0) => return Err(closed()),
                Ok(read) => buffer = buffer.get_mut(read..).unwrap_or_default(),
                Err(error) => self.wait_or(error, Direction::In, deadline, timeout)?,
            }
        }
        Ok(())
    }

    /// Waits until a pipe that would block is ready.
    fn wait_or(
        &self,
        error: io::Error,
        direction: Direction,
        deadline: Instant,
        timeout: Duration,
    ) -> Result<(), Pkcs11Error> {
        match error.kind() {
            io::ErrorKind::Interrupted => return Ok(()),
            io::ErrorKind::WouldBlock => {}
            _ => return Err(Pkcs11Error::Pipe(error)),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(Pkcs11Error::Timeout(timeout));
        }
        let (pipe, events): (BorrowedFd<'_>, _) = match direction {
            Direction::Out => (self.requests.as_fd(), PollFlags::OUT),
            Direction::In => (self.answers.as_fd(), PollFlags::IN),
        };
        let left = Timespec::try_from(left).map_err(|_| Pkcs11Error::Timeout(timeout))?;
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(pipe, events)], Some(&left)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(errno) => Err(Pkcs11Error::Pipe(errno.into())),
        }
    }
}

/// Which pipe.
#[derive(Debug, Clone, Copy)]
enum Direction {
    /// To the helper.
    Out,
    /// From it.
    In,
}

fn closed() -> Pkcs11Error {
    Pkcs11Error::Pipe(io::ErrorKind::UnexpectedEof.into())
}

fn helper_path(environment: impl Fn(&str) -> Option<OsString>) -> Result<PathBuf, Pkcs11Error> {
    if let Some(path) = environment(HELPER_VARIABLE).filter(|path| !path.is_empty()) {
        return Ok(path.into());
    }
    env::current_exe()
        .map(|program| program.with_file_name(HELPER))
        .map_err(|_| Pkcs11Error::Nowhere)
}

/// The file that the PIN of a token stands in, where it stands in one.
pub(super) fn pin_file(uri: &str) -> Option<PathBuf> {
    match TokenUri::parse(uri).ok()?.pin? {
        PinSource::File(path) => Some(path),
        PinSource::Variable(_) => None,
    }
}

fn read_pin(source: &PinSource) -> Result<Zeroizing<Vec<u8>>, Pkcs11Error> {
    let text = match source {
        PinSource::File(path) => private::read(path).map_err(Pkcs11Error::PinFile)?,
        PinSource::Variable(name) => {
            let pin =
                env::var(name).map_err(|_| Pkcs11Error::PinVariable { name: name.clone() })?;
            Zeroizing::new(pin)
        }
    };
    let pin = text.trim_end_matches(['\r', '\n']).as_bytes();
    match pin.len() {
        1..=MAX_PIN_BYTES => Ok(Zeroizing::new(pin.to_vec())),
        _ => Err(Pkcs11Error::PinLength),
    }
}
