//! Keys in PKCS#11 tokens: SoftHSM's, through the helper program as it is built for users.

use std::{
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
    process::{Command, Output},
    sync::OnceLock,
};

use cellos_evidence::keyset::{Keyset, Trust};
use cellos_testkit::require;
use jiff::Timestamp;

use crate::{
    keys::{ok, signers},
    program::{Place, source_file},
};

const PIN: &str = "98765432";
/// The key of RFC 8410, 10.3.
const PRIVATE: &str = "-----BEGIN PRIVATE KEY-----\n\
    MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\n\
    -----END PRIVATE KEY-----\n";
const PUBLIC: &str = "Gb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE";
/// The name that follows from it.
const NAME: &str = "key-e744c0791320c328";

/// The helper, linked dynamically, in a target folder of its own: everything else is static.
fn helper() -> Result<PathBuf, String> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| {
            if let Some(path) = std::env::var_os("CELLOS_PKCS11_HELPER") {
                return Ok(path.into());
            }
            let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join("pkcs11");
            let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
            let built = Command::new(cargo)
                .args(["build", "--locked", "--package", "cellos-pkcs11", "--bins"])
                .arg("--target-dir")
                .arg(&target)
                .current_dir(source_file(".."))
                .env("RUSTFLAGS", "-C target-feature=-crt-static")
                .env_remove("CARGO_ENCODED_RUSTFLAGS")
                .output()
                .map_err(|error| format!("cargo cannot be started: {error}"))?;
            if !built.status.success() {
                return Err(String::from_utf8_lossy(&built.stderr).into_owned());
            }
            std::fs::read_dir(&target)
                .map_err(|error| error.to_string())?
                .filter_map(|entry| Some(entry.ok()?.path().join("debug/cellos-pkcs11")))
                .find(|path| path.is_file())
                .ok_or_else(|| "the built helper is nowhere".to_owned())
        })
        .clone()
}

/// A place with a token that holds the key.
struct Token {
    place: Place,
    helper: PathBuf,
}

impl Token {
    fn new() -> Self {
        let place = Place::new();
        let folder = place.path().join("tokens");
        std::fs::create_dir(&folder).unwrap();
        place.file(
            "softhsm2.conf",
            format!("directories.tokendir = {}\n", folder.display()),
        );
        let key = place.file("import.pem", PRIVATE);
        let token = Self {
            helper: helper().unwrap(),
            place,
        };
        token.util(&["--init-token", "--free", "--so-pin", "12345678"]);
        token.util(&["--id", "01", "--import", key.to_str().unwrap()]);
        token.private("pin", &format!("{PIN}\n"));
        token
    }

    fn util(&self, arguments: &[&str]) {
        let mut arguments = arguments.to_vec();
        match arguments.first() {
            Some(&"--init-token") => arguments.extend(["--label", "ci"]),
            _ => arguments.extend(["--token", "ci", "--label", "events"]),
        }
        let output = Command::new("softhsm2-util")
            .args(arguments)
            .args(["--pin", PIN])
            .env("SOFTHSM2_CONF", self.place.path().join("softhsm2.conf"))
            .output()
            .unwrap();
        ok(&output);
    }

    fn private(&self, name: &str, content: &str) -> PathBuf {
        let path = self.place.file(name, content);
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    }

    fn uri(&self) -> String {
        format!(
            "pkcs11:token=ci;object=events;id=%01?module-path=/usr/lib/softhsm/libsofthsm2.so\
             &pin-source=file:{}",
            self.place.path().join("pin").display()
        )
    }

    fn cellos(&self, arguments: &[&str]) -> Output {
        self.cellos_with(&self.helper, arguments)
    }

    fn cellos_with(&self, helper: &Path, arguments: &[&str]) -> Output {
        self.place
            .cellos(arguments)
            .env("SOFTHSM2_CONF", self.place.path().join("softhsm2.conf"))
            .env("CELLOS_PKCS11_HELPER", helper)
            .env("CELLOS_LOG", "trace")
            .output()
            .unwrap()
    }

    fn run(&self, helper: &Path, more: &[&str]) -> Output {
        let log = self.place.events();
        let mut arguments = vec![
            "run",
            "--backend",
            "stub",
            "--events",
            log.to_str().unwrap(),
        ];
        arguments.extend(more);
        arguments.extend(["--", "true"]);
        self.cellos_with(helper, &arguments)
    }
}

#[test]
fn a_key_in_a_token_signs_a_run() {
    require!("softhsm");
    require!("dynamic-helper", helper().map(drop));
    let token = Token::new();
    // A file of its own, so that what still runs of it can be told from the helpers of others.
    let own = token.place.path().join("helper");
    std::fs::copy(&token.helper, &own).unwrap();
    let ran = token.run(&own, &["--signing-key", &token.uri()]);
    ok(&ran);
    assert!(!String::from_utf8_lossy(&ran.stderr).contains(PIN));
    let ring = format!(r#"{{"{NAME}":"{PUBLIC}"}}"#);
    let keyset = Keyset::parse(ring.as_bytes(), &Trust::SelfContained, Timestamp::now()).unwrap();
    assert_eq!(signers(&token.place.events(), &keyset).unwrap(), [NAME]);
    let alive = std::fs::read_dir("/proc").unwrap().any(|process| {
        std::fs::read_link(process.unwrap().path().join("exe")).is_ok_and(|exe| exe == own)
    });
    assert!(!alive, "the helper outlived the run");
}

#[test]
fn a_key_in_a_token_is_published_and_followed_by_one_in_a_file() {
    require!("softhsm");
    require!("dynamic-helper", helper().map(drop));
    let token = Token::new();
    ok(&token.cellos(&[
        "keys",
        "generate",
        "--kid",
        "card",
        "--pkcs11",
        &token.uri(),
    ]));
    ok(&token.run(&token.helper, &["--require-signing"]));
    let shown = ok(&token.cellos(&["keys", "show", "--json"]));
    let shown: serde_json::Value = serde_json::from_str(&shown).unwrap();
    assert_eq!(shown["keys"][0]["privateHalf"], "token");
    assert_eq!(shown["keys"][0]["publicKey"], PUBLIC);
    ok(&token.cellos(&["keys", "rotate", "--kid", "file"]));
    ok(&token.run(&token.helper, &["--require-signing"]));
    let published = ok(&token.cellos(&["keys", "show", "--keyset"]));
    let keyset = Keyset::parse(
        published.as_bytes(),
        &Trust::SelfContained,
        Timestamp::now(),
    )
    .unwrap();
    assert_eq!(
        signers(&token.place.events(), &keyset).unwrap(),
        ["card", "file"]
    );
}

#[test]
fn a_token_that_cannot_sign_is_explained_and_nothing_runs() {
    require!("softhsm");
    require!("dynamic-helper", helper().map(drop));
    let token = Token::new();
    let uri = token.uri();
    let wrong_pin = token.private("wrong", "00000000");
    let open_pin = token.place.file("open", PIN);
    std::fs::set_permissions(&open_pin, std::fs::Permissions::from_mode(0o644)).unwrap();
    let pin_in = |path: &Path| {
        uri.replace(
            &format!("{}/pin", token.place.path().display()),
            path.to_str().unwrap(),
        )
    };
    let helper = token.helper.as_path();
    for (helper, uri, reason) in [
        (helper, pin_in(&wrong_pin), "cannot log in"),
        (helper, pin_in(&open_pin), "can be read by others"),
        (
            helper,
            uri.replace("token=ci", "token=other"),
            "0 tokens fit",
        ),
        (
            helper,
            uri.replace("object=events", "object=other"),
            "0 Ed25519 private keys",
        ),
        (
            helper,
            uri.replace("libsofthsm2", "nothing"),
            "cannot be loaded",
        ),
        (
            helper,
            format!("pkcs11:object=k?pin-value={PIN}"),
            "pin-value is refused",
        ),
        (Path::new("/nonexistent"), uri.clone(), "cannot be started"),
        (
            Path::new("/usr/bin/true"),
            uri.clone(),
            "ended or closed its pipe",
        ),
        (
            Path::new("/usr/bin/cat"),
            uri.clone(),
            "answered something else",
        ),
    ] {
        let refused = token.run(helper, &["--signing-key", &uri]);
        let text = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(125), "{text}");
        assert!(text.contains(reason), "{reason}: {text}");
        assert!(!text.contains(PIN), "{text}");
        assert!(!token.place.events().exists());
    }
}
