//! The helper that loads the driver of a token and signs with it, as long as `cellos` asks.
#![forbid(unsafe_code)]

mod token;

use std::{fs::File, io, process::ExitCode};

use cellos_pkcs11::{
    frame::{self, Kind},
    uri::TokenUri,
};
use rustix::process::Signal;

fn main() -> ExitCode {
    match serve() {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever asked is gone, or never spoke to us: a person who started this by hand reads it.
        Err(error) => {
            eprintln!("cellos-pkcs11: {error}; this program is started by cellos");
            ExitCode::FAILURE
        }
    }
}

fn serve() -> io::Result<()> {
    // A driver may hang, and must not outlive who asked it.
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // What a driver prints must not look like an answer.
    let mut answers = File::from(rustix::io::dup(rustix::stdio::stdout())?);
    rustix::stdio::dup2_stdout(File::options().write(true).open("/dev/null")?)?;
    let mut requests = io::stdin().lock();

    let mut pin = None;
    let mut token = None;
    while let Some(request) = frame::read(&mut requests)? {
        let answer = match request.kind {
            Kind::Pin => {
                pin = Some(request.content);
                continue;
            }
            Kind::Open => open(&request.content, pin.take()).map(|opened| {
                let public = opened.public_key().to_vec();
                token = Some(opened);
                (Kind::PublicKey, public)
            }),
            Kind::Sign => match &token {
                Some(token) => token
                    .sign(&request.content)
                    .map(|signature| (Kind::Signature, signature.to_vec()))
                    .map_err(|error| error.to_string()),
                None => Err("no key is open".to_owned()),
            },
            Kind::PublicKey | Kind::Signature | Kind::Error => {
                return Err(io::Error::other("an answer where a request belongs"));
            }
        };
        match answer {
            Ok((kind, content)) => frame::write(&mut answers, kind, &content)?,
            Err(text) => frame::write(&mut answers, Kind::Error, text.as_bytes())?,
        }
    }
    Ok(())
}

fn open(uri: &[u8], pin: Option<zeroize::Zeroizing<Vec<u8>>>) -> Result<token::Token, String> {
    let uri = std::str::from_utf8(uri).map_err(|error| error.to_string())?;
    let uri = TokenUri::parse(uri).map_err(|error| error.to_string())?;
    token::Token::open(&uri, pin).map_err(|error| error.to_string())
}
