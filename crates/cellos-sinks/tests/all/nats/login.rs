//! Logging in, in every way, and what is told when it does not work.

use std::fs;

use cellos_sinks::remote::{DeliveryError, Retry, SinkConfig as _, Surroundings};
use cellos_testkit::require;
use serde_json::{Value, json};

use super::{
    jwt::{Key, Kind},
    server::{Reached as _, Reader, Server},
};
use crate::remote_contract::stored;

const STREAM: &str = "CELLOS_EVENTS";

/// Writes what to log in with into a file of the server's folder.
fn secret(server: &Server, text: &str) -> Value {
    fs::write(server.folder().join("secret"), text).unwrap();
    json!({"file": "secret"})
}

async fn fails(server: &Server, auth: Value) -> DeliveryError {
    let sink = server.sink(json!({"auth": auth}));
    let error = sink.deliver(&stored(&["b"])).await.unwrap_err();
    assert_eq!(
        (error.retry, error.acknowledged),
        (Retry::Useless, 0),
        "{error}"
    );
    error
}

async fn works(server: &Server, auth: Value) {
    let sink = server.sink(json!({"auth": auth}));
    sink.deliver(&stored(&["a"])).await.unwrap();
}

#[tokio::test]
async fn a_user_and_a_password() {
    require!("nats");
    let server = Server::start("authorization: {user: cells, password: \"s3cr\\\"t é\"}\n");
    let good = secret(&server, "s3cr\"t é\n");
    works(
        &server,
        json!({"login": {"user": "cells", "password": good}}),
    )
    .await;
    let wrong = secret(&server, "hunter2");
    let error = fails(
        &server,
        json!({"login": {"user": "cells", "password": wrong}}),
    )
    .await;
    assert!(
        error
            .reason
            .ends_with("the server refuses the login: Authorization Violation"),
        "{error}"
    );
    fails(&server, json!("none")).await;
    let login = json!({"user": "cells", "pass": "s3cr\"t é"});
    assert_eq!(Reader::new(&server, login).ids(STREAM), ["a"]);
}

#[tokio::test]
async fn a_token_that_is_renewed() {
    require!("nats");
    let mut server = Server::start("authorization: {token: first-token}\n");
    let auth = json!({"token": secret(&server, "first-token")});
    let sink = server.sink(json!({"auth": auth}));
    sink.deliver(&stored(&["a"])).await.unwrap();
    server.change("first-token", "second-token");
    let error = sink.deliver(&stored(&["b"])).await.unwrap_err();
    assert_eq!(error.retry, Retry::Useless, "{error}");
    // The same sink reads it anew.
    secret(&server, "second-token");
    sink.deliver(&stored(&["b"])).await.unwrap();
    let login = json!({"auth_token": "second-token"});
    assert_eq!(Reader::new(&server, login).ids(STREAM), ["a", "b"]);
}

#[tokio::test]
async fn a_key() {
    require!("nats");
    let (known, other) = (Key::new(Kind::User, 1), Key::new(Kind::User, 2));
    let users = format!("authorization: {{users: [{{nkey: {}}}]}}\n", known.public());
    let server = Server::start(&users);
    works(&server, json!({"nkey": secret(&server, &known.seed())})).await;
    let error = fails(&server, json!({"nkey": secret(&server, &other.seed())})).await;
    assert!(error.reason.contains("refuses the login"), "{error}");
    assert!(!error.reason.contains(&other.seed()));
    let reader = |nonce: &str| json!({"nkey": known.public(), "sig": known.sign(nonce)});
    assert_eq!(Reader::signing(&server, reader).ids(STREAM), ["a"]);
}

#[tokio::test]
async fn a_key_where_the_server_knows_none() {
    require!("nats");
    let server = Server::start("");
    let seed = secret(&server, &Key::new(Kind::User, 1).seed());
    let error = fails(&server, json!({"nkey": seed})).await;
    assert!(error.reason.contains("no login by key"), "{error}");
}

/// An operator, whose accounts and users are known to the server by tokens alone.
struct Realm {
    account: Key,
    user: Key,
    server: Server,
}

impl Realm {
    fn start() -> Self {
        let operator = Key::new(Kind::Operator, 1);
        let (account, system) = (Key::new(Kind::Account, 2), Key::new(Kind::Account, 3));
        let of_operator = operator.token(&operator, "O", json!({"type": "operator", "version": 2}));
        let limits = json!({
            "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
            "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
            "consumer": -1,
        });
        let of_account = |key: &Key, name: &str, limits: &Value| {
            let nats = json!({"limits": limits, "type": "account", "version": 2});
            operator.token(key, name, nats)
        };
        let mut none = limits.clone();
        for field in ["mem_storage", "disk_storage", "streams", "consumer"] {
            none[field] = json!(0);
        }
        let server = Server::start(&format!(
            "operator: {of_operator}\nsystem_account: {sys}\nresolver: MEMORY\n\
             resolver_preload: {{ {acc}: {acc_token}, {sys}: {sys_token} }}\n",
            acc = account.public(),
            acc_token = of_account(&account, "A", &limits),
            sys = system.public(),
            sys_token = of_account(&system, "SYS", &none),
        ));
        Self {
            account,
            user: Key::new(Kind::User, 4),
            server,
        }
    }

    fn user_token(&self) -> String {
        let nats = json!({
            "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1, "type": "user", "version": 2,
        });
        self.account.token(&self.user, "U", nats)
    }

    fn creds(&self, token: &str, seed: &str) -> Value {
        let text = format!(
            "-----BEGIN NATS USER JWT-----\n{token}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n\n\
             *************************************************************\n"
        );
        json!({"creds": secret(&self.server, &text)})
    }
}

#[tokio::test]
async fn a_credential_file() {
    require!("nats");
    let realm = Realm::start();
    let token = realm.user_token();
    works(&realm.server, realm.creds(&token, &realm.user.seed())).await;
    let other = Key::new(Kind::User, 5).seed();
    let error = fails(&realm.server, realm.creds(&token, &other)).await;
    assert!(error.reason.contains("refuses the login"), "{error}");
    for hidden in [&token, &other] {
        assert!(!format!("{error:?}").contains(hidden.as_str()));
    }
    let reader = |nonce: &str| json!({"jwt": token, "sig": realm.user.sign(nonce)});
    assert_eq!(Reader::signing(&realm.server, reader).ids(STREAM), ["a"]);
}

#[test]
fn what_cannot_log_in_is_told_when_the_sink_is_made() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(
        folder.path().join("account"),
        Key::new(Kind::Account, 1).seed(),
    )
    .unwrap();
    fs::write(folder.path().join("text"), "hunter2").unwrap();
    for (auth, expected) in [
        (
            json!({"token": {"file": "absent"}}),
            "absent cannot be read",
        ),
        (
            json!({"token": {"env": "UNSET"}}),
            "variable UNSET is not set",
        ),
        (
            json!({"nkey": {"file": "text"}}),
            "58 characters, this has 7",
        ),
        (json!({"nkey": {"file": "account"}}), "no user's seed"),
        (
            json!({"creds": {"file": "text"}}),
            "no part `NATS USER JWT`",
        ),
    ] {
        let config = json!({"servers": "nats://127.0.0.1", "auth": auth});
        let config: cellos_sinks::remote::nats::NatsConfig =
            serde_json::from_value(config).unwrap();
        let opened = config.open(&Surroundings {
            folder: folder.path(),
            env: &|_| None,
        });
        let error = opened.map(drop).unwrap_err().to_string();
        assert!(
            error.starts_with("auth: ") && error.contains(expected),
            "{error}"
        );
        assert!(!error.contains("hunter2"));
    }
}

#[tokio::test]
async fn a_user_without_the_permission_is_told() {
    require!("nats");
    let server = Server::start(
        "authorization: {users: [{user: cells, password: p, permissions: {publish: {deny: \
         \"cellos.>\"}}}, {user: poor, password: p, permissions: {publish: {allow: \"none\"}}}]}\n",
    );
    let password = secret(&server, "p");
    for (user, expected) in [
        (
            "cells",
            "Permissions Violation for Publish to \"cellos.events.v1\"",
        ),
        (
            "poor",
            "Permissions Violation for Publish to \"$JS.API.STREAM.INFO.CELLOS_EVENTS\"",
        ),
    ] {
        let auth = json!({"login": {"user": user, "password": password}});
        let error = fails(&server, auth).await;
        assert!(error.reason.contains(expected), "{error}");
    }
}
