//! One key of one token, through the driver of its maker.

use cellos_pkcs11::uri::TokenUri;
use cryptoki::{
    context::{CInitializeArgs, CInitializeFlags, Pkcs11},
    mechanism::{
        Mechanism,
        eddsa::{EddsaParams, EddsaSignatureScheme},
    },
    object::{Attribute, AttributeType, KeyType, ObjectClass, ObjectHandle},
    session::{Session, UserType},
    slot::Slot,
    types::AuthPin,
};
use zeroize::Zeroizing;

/// What an EC point begins with that is wrapped in a DER octet string of 32 bytes.
const DER_HEAD: [u8; 2] = [0x04, 0x20];

/// Why a token does not sign.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TokenError {
    /// Nothing says which driver.
    #[error("the PKCS#11 URI names no driver: add ?module-path=/path/of/driver.so")]
    NoModule,
    /// The driver says no.
    #[error("the PKCS#11 driver cannot {operation}: {source}")]
    Driver {
        operation: &'static str,
        source: cryptoki::error::Error,
    },
    /// None or several.
    #[error("{found} tokens fit the PKCS#11 URI, which has to name one")]
    Tokens { found: usize },
    /// None or several.
    #[error("{found} Ed25519 {what} of the token fit the PKCS#11 URI, which has to name one")]
    Keys { what: &'static str, found: usize },
    /// It is no Ed25519 key.
    #[error("the public key in the token is no Ed25519 key")]
    PublicKey,
    /// The PIN is no text.
    #[error("the PIN is no text")]
    Pin,
    /// It is no Ed25519 signature.
    #[error("the token made a signature of {found} bytes instead of 64")]
    Signature { found: usize },
}

fn driver(operation: &'static str) -> impl FnOnce(cryptoki::error::Error) -> TokenError {
    move |source| TokenError::Driver { operation, source }
}

/// An open key.
pub(crate) struct Token {
    session: Session,
    key: ObjectHandle,
    public_key: [u8; 32],
}

impl Token {
    /// Loads the driver, finds the token and the key, and logs in where there is a PIN.
    pub(crate) fn open(
        uri: &TokenUri,
        pin: Option<Zeroizing<Vec<u8>>>,
    ) -> Result<Self, TokenError> {
        let module = uri.module.as_ref().ok_or(TokenError::NoModule)?;
        let context = Pkcs11::new(module).map_err(driver("be loaded"))?;
        context
            .initialize(CInitializeArgs::new(CInitializeFlags::OS_LOCKING_OK))
            .map_err(driver("be initialised"))?;
        let slot = slot(&context, uri)?;
        let session = context
            .open_ro_session(slot)
            .map_err(driver("open a session"))?;
        if let Some(pin) = pin {
            let pin = std::str::from_utf8(&pin).map_err(|_| TokenError::Pin)?;
            session
                .login(UserType::User, Some(&AuthPin::from(pin.to_owned())))
                .map_err(driver("log in"))?;
        }
        let key = one(&session, uri, ObjectClass::PRIVATE_KEY, "private keys")?;
        let public = one(&session, uri, ObjectClass::PUBLIC_KEY, "public keys")?;
        let public_key = public_key(&session, public)?;
        Ok(Self {
            session,
            key,
            public_key,
        })
    }

    /// The raw public key.
    pub(crate) fn public_key(&self) -> &[u8; 32] {
        &self.public_key
    }

    /// Signs a message as it is.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<[u8; 64], TokenError> {
        let pure = Mechanism::Eddsa(EddsaParams::new(EddsaSignatureScheme::Pure));
        let signature = self
            .session
            .sign(&pure, self.key, message)
            .map_err(driver("sign"))?;
        signature
            .as_slice()
            .try_into()
            .map_err(|_| TokenError::Signature {
                found: signature.len(),
            })
    }
}

fn slot(context: &Pkcs11, uri: &TokenUri) -> Result<Slot, TokenError> {
    let mut fitting = Vec::new();
    for slot in context
        .get_slots_with_initialized_token()
        .map_err(driver("list its tokens"))?
    {
        let info = context
            .get_token_info(slot)
            .map_err(driver("describe its tokens"))?;
        let fits = |wanted: &Option<String>, found: &str| {
            wanted
                .as_ref()
                .is_none_or(|wanted| wanted == found.trim_end())
        };
        if fits(&uri.token, info.label()) && fits(&uri.serial, info.serial_number()) {
            fitting.push(slot);
        }
    }
    match fitting[..] {
        [slot] => Ok(slot),
        _ => Err(TokenError::Tokens {
            found: fitting.len(),
        }),
    }
}

fn one(
    session: &Session,
    uri: &TokenUri,
    class: ObjectClass,
    what: &'static str,
) -> Result<ObjectHandle, TokenError> {
    let mut template = vec![
        Attribute::Class(class),
        Attribute::KeyType(KeyType::EC_EDWARDS),
    ];
    template.extend(uri.object.clone().map(|it| Attribute::Label(it.into())));
    template.extend(uri.id.clone().map(Attribute::Id));
    let found = session
        .find_objects(&template)
        .map_err(driver("look for the key"))?;
    match found[..] {
        [object] => Ok(object),
        _ => Err(TokenError::Keys {
            what,
            found: found.len(),
        }),
    }
}

fn public_key(session: &Session, object: ObjectHandle) -> Result<[u8; 32], TokenError> {
    let attributes = session
        .get_attributes(object, &[AttributeType::EcPoint])
        .map_err(driver("show the public key"))?;
    let Some(Attribute::EcPoint(point)) = attributes.first() else {
        return Err(TokenError::PublicKey);
    };
    // Drivers disagree on whether the point is wrapped.
    let raw = match point.len() {
        34 => point.strip_prefix(&DER_HEAD).unwrap_or_default(),
        _ => point,
    };
    raw.try_into().map_err(|_| TokenError::PublicKey)
}
