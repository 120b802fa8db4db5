//! Logging in.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use zeroize::Zeroizing;

use super::{
    config::{Auth, Login, ServerAddress},
    creds::Credentials,
    error::NatsError,
    nkey::UserKey,
    wire::ServerInfo,
};
use crate::remote::{Surroundings, credential::Credential};

/// What is sent to log in. Never printed.
#[derive(Default)]
pub(super) struct Proof {
    pub(super) user: Option<String>,
    pub(super) password: Option<Zeroizing<String>>,
    pub(super) token: Option<Zeroizing<String>>,
    pub(super) jwt: Option<Zeroizing<String>>,
    pub(super) nkey: Option<String>,
    pub(super) signature: Option<String>,
}

impl Proof {
    /// Whether somebody who listens could log in with it.
    pub(super) fn is_secret(&self) -> bool {
        self.password.is_some() || self.token.is_some()
    }
}

/// How to log in, with the secrets in reach. Never printed.
pub(super) enum Method {
    None,
    Login(String, Credential),
    Token(Credential),
    Creds(Credential),
    Nkey(Credential),
}

impl Method {
    /// Takes up what a configuration names.
    ///
    /// # Errors
    /// [`NatsError`], when a secret cannot be read now, or is none of its kind.
    pub(super) fn open(auth: &Auth, surroundings: &Surroundings<'_>) -> Result<Self, NatsError> {
        Ok(match auth {
            Auth::None => Self::None,
            Auth::Login(Login { user, password }) => {
                Self::Login(user.clone(), password.open(surroundings)?)
            }
            Auth::Token(token) => Self::Token(token.open(surroundings)?),
            Auth::Creds(source) => {
                let secret = source.open(surroundings)?;
                Credentials::parse(&secret.read()?)?;
                Self::Creds(secret)
            }
            Auth::Nkey(source) => {
                let secret = source.open(surroundings)?;
                UserKey::from_seed(secret.read()?.trim())?;
                Self::Nkey(secret)
            }
        })
    }

    /// Makes what logs in at a server that has introduced itself.
    ///
    /// # Errors
    /// [`NatsError`], when a secret cannot be read any more, or the server has no such login.
    pub(super) fn proof(
        &self,
        server: &ServerAddress,
        info: &ServerInfo,
    ) -> Result<Proof, NatsError> {
        let mut proof = Proof::default();
        match self {
            Self::None => {}
            Self::Login(user, password) => {
                proof.user = Some(user.clone());
                proof.password = Some(password.read()?);
            }
            Self::Token(token) => proof.token = Some(token.read()?),
            Self::Creds(secret) => {
                let Credentials { jwt, key } = Credentials::parse(&secret.read()?)?;
                proof.signature = Some(signature(&key, server, info)?);
                proof.jwt = Some(jwt);
            }
            Self::Nkey(secret) => {
                let key = UserKey::from_seed(secret.read()?.trim())?;
                proof.signature = Some(signature(&key, server, info)?);
                proof.nkey = Some(key.public());
            }
        }
        Ok(proof)
    }
}

fn signature(
    key: &UserKey,
    server: &ServerAddress,
    info: &ServerInfo,
) -> Result<String, NatsError> {
    let Some(nonce) = &info.nonce else {
        return Err(NatsError::NoNonce {
            server: server.clone(),
        });
    };
    let signature = key.sign(nonce.as_bytes()).ok_or(NatsError::Key)?;
    Ok(URL_SAFE_NO_PAD.encode(signature))
}
