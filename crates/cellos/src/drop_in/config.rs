//! The drop-in's configuration: one typed value, read from the environment in one place.

use std::{collections::BTreeMap, fmt, path::PathBuf};

use cellos_egress::{Upstream, UpstreamProblem};

use super::variables::{self, Treatment};
use crate::{compose, machines::Monitor, units::switch};

/// The published name of the backend that boots machines, by Firecracker alone.
const PUBLISHED_MACHINES: &str = "firecracker";

/// Where the host stands, and with it how much is mandatory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Profile {
    /// `CELLOS_DEPLOYMENT_PROFILE` is unset: hardened, without the rules that only its name
    /// switches on.
    Unset,
    /// `hardened`.
    Hardened,
    /// `portable`.
    Portable,
    /// `airgapped`.
    Airgapped,
}

impl Profile {
    /// The name of the mode, as the banner and the summary show it.
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Self::Unset | Self::Hardened => "hardened",
            Self::Portable => "portable",
            Self::Airgapped => "airgapped",
        }
    }

    /// The mode as it is announced at the start.
    pub(crate) fn banner(self) -> &'static str {
        match self {
            Self::Unset | Self::Hardened => "Hardened",
            Self::Portable => "Portable",
            Self::Airgapped => "Airgapped",
        }
    }

    /// Whether a workload must be isolated.
    pub(crate) fn requires_isolation(self) -> bool {
        self != Self::Portable
    }
}

/// How events are signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SigningAlgorithm {
    /// RFC 8032.
    Ed25519,
    /// RFC 2104 with SHA-256.
    HmacSha256,
}

/// A signing key as configured. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct SigningKey {
    pub(crate) algorithm: SigningAlgorithm,
    pub(crate) kid: String,
    pub(crate) key_base64: String,
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.algorithm)
            .field("kid", &self.kid)
            .finish_non_exhaustive()
    }
}

/// Whether something must be there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// Its absence is an error.
    Required,
    /// It may be absent.
    Optional,
}

impl Need {
    fn when(condition: bool) -> Self {
        if condition {
            Self::Required
        } else {
            Self::Optional
        }
    }

    /// Whether it must be there.
    pub(crate) fn is_required(self) -> bool {
        self == Self::Required
    }
}

/// The whole configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Config {
    pub(crate) profile: Profile,
    /// Text of the profile variable, for the summary.
    pub(crate) profile_text: Option<String>,
    pub(crate) run_id: Option<String>,
    pub(crate) kubernetes_namespace: Option<String>,
    pub(crate) backend: String,
    /// The monitor that the name of the backend asks for.
    pub(crate) monitor: Option<Monitor>,
    pub(crate) isolation: Need,
    pub(crate) authority_keys: Option<PathBuf>,
    pub(crate) derivation: Need,
    pub(crate) scoped_tokens: Need,
    pub(crate) telemetry: Need,
    pub(crate) policy_pack: Option<PathBuf>,
    /// `Required`: a pack at or above the version floor.
    pub(crate) policy_version_floor: Need,
    pub(crate) authorization_policy: Option<PathBuf>,
    pub(crate) ceiling: Option<PathBuf>,
    pub(crate) ceiling_anchor: Option<PathBuf>,
    pub(crate) ceiling_need: Need,
    pub(crate) trust_keys: Option<PathBuf>,
    pub(crate) argv0_prefixes: Vec<PathBuf>,
    pub(crate) run_timeout_ms: Option<u64>,
    pub(crate) events: Option<PathBuf>,
    pub(crate) signing: Option<SigningKey>,
    /// Fields to blank, with commas between, or `defaults`.
    pub(crate) redact: Option<String>,
    pub(crate) cgroup_parent: Option<PathBuf>,
    pub(crate) export_dir: Option<PathBuf>,
    pub(crate) state_dir: Option<PathBuf>,
    /// What connections of cells to the outside go through.
    pub(crate) upstream: Upstream,
    /// What should be known, and does not stop the run.
    pub(crate) warnings: Vec<String>,
}

/// One thing that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("{name} is unknown{}", nearest.map(|known| format!("; did you mean {known}?")).unwrap_or_default())]
    Unknown {
        name: String,
        nearest: Option<&'static str>,
    },
    #[error("{name} is not UTF-8")]
    NotUtf8 { name: String },
    #[error("{name} is {value:?}, a switch is 1, true, yes, on or 0, false, no, off")]
    NotASwitch { name: &'static str, value: String },
    #[error("{name} is {value:?}, expected {expected}")]
    BadValue {
        name: &'static str,
        value: String,
        expected: &'static str,
    },
    #[error("{name} is refused: {why}")]
    Refused { name: String, why: &'static str },
    #[error(
        "{name} asks for a NATS sink, which this build lacks; set CELL_OS_USE_NOOP_SINK=1 to do without and CELL_OS_JSONL_EVENTS to keep the evidence in a file"
    )]
    NoNats { name: String },
    #[error("{name} is missing: {why}")]
    Missing {
        name: &'static str,
        why: &'static str,
    },
    #[error("CELLOS_EGRESS_PROXY: {0}")]
    Proxy(UpstreamProblem),
    #[error("CELLOS_CELL_BACKEND={backend} isolates nothing and {because} forbids that")]
    NotIsolated { backend: String, because: String },
}

/// Everything that is wrong with the environment.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
pub(crate) struct ConfigErrors(pub(crate) Vec<ConfigError>);

/// The environment as read once at start.
pub(crate) struct Environment {
    values: BTreeMap<String, String>,
    not_utf8: Vec<String>,
}

impl Environment {
    /// The process's own.
    pub(crate) fn of_process() -> Self {
        let mut environment = Self {
            values: BTreeMap::new(),
            not_utf8: Vec::new(),
        };
        for (name, value) in std::env::vars_os() {
            // Names that are not UTF-8 cannot be ours.
            let Ok(name) = name.into_string() else {
                continue;
            };
            match value.into_string() {
                Ok(value) => {
                    environment.values.insert(name, value);
                }
                Err(_) if variables::find(&name).is_some() => environment.not_utf8.push(name),
                Err(_) => {}
            }
        }
        environment
    }

    #[cfg(test)]
    fn of(pairs: &[(&str, &str)]) -> Self {
        Self {
            values: pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect(),
            not_utf8: Vec::new(),
        }
    }
}

/// Reads values and keeps what is wrong with them.
struct Reader<'a> {
    environment: &'a Environment,
    errors: Vec<ConfigError>,
}

impl Reader<'_> {
    fn text(&self, name: &'static str) -> Option<String> {
        debug_assert!(
            variables::find(name).is_some(),
            "{name} is not in the table"
        );
        let value = self.environment.values.get(name)?;
        (!value.is_empty()).then(|| value.clone())
    }

    fn path(&self, name: &'static str) -> Option<PathBuf> {
        self.text(name).map(PathBuf::from)
    }

    fn switch(&mut self, name: &'static str, default: bool) -> bool {
        let Some(value) = self.environment.values.get(name) else {
            return default;
        };
        switch(value).unwrap_or_else(|| {
            self.errors.push(ConfigError::NotASwitch {
                name,
                value: value.clone(),
            });
            default
        })
    }

    fn bad(&mut self, name: &'static str, value: &str, expected: &'static str) {
        self.errors.push(ConfigError::BadValue {
            name,
            value: value.to_owned(),
            expected,
        });
    }

    /// The proxy; its text may hold a password, and is in no message.
    fn upstream(&mut self) -> Upstream {
        let Some(text) = self.text("CELLOS_EGRESS_PROXY") else {
            return Upstream::default();
        };
        text.parse().unwrap_or_else(|problem| {
            self.errors.push(ConfigError::Proxy(problem));
            Upstream::default()
        })
    }

    fn profile(&mut self) -> Profile {
        const NAME: &str = "CELLOS_DEPLOYMENT_PROFILE";
        match self.environment.values.get(NAME).map(String::as_str) {
            None => Profile::Unset,
            Some("hardened") => Profile::Hardened,
            Some("portable") => Profile::Portable,
            Some("airgapped") => Profile::Airgapped,
            Some(other) => {
                self.bad(NAME, other, "hardened, portable or airgapped");
                Profile::Hardened
            }
        }
    }

    fn signing(&mut self) -> Option<SigningKey> {
        const NAME: &str = "CELLOS_EVENT_SIGNING";
        let Some(text) = self.text(NAME) else {
            // Whoever gives a key means it to be used.
            for name in [
                "CELLOS_EVENT_SIGNING_KID",
                "CELLOS_EVENT_SIGNING_KEY_BASE64",
            ] {
                if self.text(name).is_some() {
                    self.errors.push(ConfigError::Missing {
                        name: NAME,
                        why: "there is a signing key, and nothing says how it signs, or `off`",
                    });
                    break;
                }
            }
            return None;
        };
        let algorithm = match text.to_ascii_lowercase().as_str() {
            "off" => return None,
            "ed25519" => SigningAlgorithm::Ed25519,
            "hmac" | "hmac-sha256" => SigningAlgorithm::HmacSha256,
            _ => {
                self.bad(NAME, &text, "off, ed25519, hmac or hmac-sha256");
                return None;
            }
        };
        let mut part = |name: &'static str| {
            let value = self.text(name);
            if value.is_none() {
                self.errors.push(ConfigError::Missing {
                    name,
                    why: "CELLOS_EVENT_SIGNING is on",
                });
            }
            value
        };
        let kid = part("CELLOS_EVENT_SIGNING_KID");
        let key_base64 = part("CELLOS_EVENT_SIGNING_KEY_BASE64");
        Some(SigningKey {
            algorithm,
            kid: kid?,
            key_base64: key_base64?,
        })
    }

    fn run_timeout_ms(&mut self) -> Option<u64> {
        const NAME: &str = "CELLOS_RUN_TIMEOUT_MS";
        let text = self.environment.values.get(NAME)?.clone();
        match text.trim().parse() {
            Ok(millis) if millis > 0 => Some(millis),
            _ => {
                self.bad(NAME, &text, "milliseconds, greater than 0");
                None
            }
        }
    }

    fn argv0_prefixes(&mut self) -> Vec<PathBuf> {
        const NAME: &str = "CELLOS_RUN_ARGV0_ALLOW_PREFIXES";
        let text = self.text(NAME).unwrap_or_default();
        let prefixes: Vec<PathBuf> = list(&text).map(PathBuf::from).collect();
        if prefixes.iter().any(|prefix| !prefix.is_absolute()) {
            self.bad(NAME, &text, "absolute folders, separated by commas");
        }
        prefixes
    }
}

fn list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',')
        .map(str::trim)
        .filter(|item| !item.is_empty())
}

impl Config {
    /// Reads the whole configuration.
    ///
    /// # Errors
    /// All that is wrong, at once.
    pub(crate) fn from_environment(environment: &Environment) -> Result<Self, ConfigErrors> {
        let mut reader = Reader {
            environment,
            errors: Vec::new(),
        };
        let profile = reader.profile();
        let explicit = profile == Profile::Hardened;
        let strict = reader.switch("CELLOS_STRICT_CONFIG", true) || explicit;
        let without_nats = reader.switch("CELL_OS_USE_NOOP_SINK", false);
        let ceiling_by_profile = matches!(profile, Profile::Unset | Profile::Hardened);
        let trust_keys = reader.path("CELLOS_TRUST_VERIFY_KEYS_PATH");
        let require_isolation = reader.switch("CELLOS_REQUIRE_ISOLATION", false);
        let require_derivation = reader.switch("CELLOS_REQUIRE_AUTHORITY_DERIVATION", false);
        let require_scoped = reader.switch("CELLOS_REQUIRE_SCOPED_DERIVATION_TOKENS", true);
        let require_telemetry = reader.switch("CELLOS_REQUIRE_TELEMETRY_DECLARED", false);
        let require_ceiling = reader.switch("CELLOS_REQUIRE_AUTHORITY_CEILING", false);
        let allow_downgrade = reader.switch("CELLOS_POLICY_ALLOW_DOWNGRADE", false);
        let backend = reader.text("CELLOS_CELL_BACKEND");
        let mut config = Self {
            profile,
            profile_text: reader.text("CELLOS_DEPLOYMENT_PROFILE"),
            run_id: reader.text("CELLOS_RUN_ID"),
            kubernetes_namespace: reader.text("CELLOS_K8S_NAMESPACE"),
            backend: match &backend {
                Some(name) if name == PUBLISHED_MACHINES => compose::MACHINES_BACKEND.to_owned(),
                Some(name) => name.clone(),
                None => compose::DEFAULT_BACKEND.to_owned(),
            },
            monitor: backend
                .filter(|name| name == PUBLISHED_MACHINES)
                .map(|_| Monitor::Firecracker),
            isolation: Need::when(profile.requires_isolation() || require_isolation),
            authority_keys: reader.path("CELLOS_AUTHORITY_KEYS_PATH"),
            derivation: Need::when(require_derivation || explicit),
            scoped_tokens: Need::when(require_scoped || explicit),
            telemetry: Need::when(require_telemetry || explicit),
            policy_pack: reader.path("CELLOS_POLICY_PACK_PATH"),
            policy_version_floor: Need::when(!allow_downgrade),
            authorization_policy: reader.path("CELLOS_AUTHZ_POLICY_PATH"),
            ceiling: reader.path("CELLOS_AUTHORITY_CEILING_PATH"),
            ceiling_anchor: reader.path("CELLOS_AUTHORITY_CEILING_ANCHOR_PATH"),
            ceiling_need: Need::when(require_ceiling || ceiling_by_profile),
            trust_keys,
            argv0_prefixes: reader.argv0_prefixes(),
            run_timeout_ms: reader.run_timeout_ms(),
            events: reader.path("CELL_OS_JSONL_EVENTS"),
            signing: reader.signing(),
            redact: reader.text("CELLOS_REDACT_EVENT_FIELDS"),
            cgroup_parent: reader.path("CELLOS_CGROUP_PARENT"),
            export_dir: reader.path("CELLOS_EXPORT_DIR"),
            state_dir: reader.path("CELLOS_STATE_DIR"),
            upstream: reader.upstream(),
            warnings: Vec::new(),
        };
        config.require_what_the_profile_needs(&mut reader);
        config.judge_the_others(&mut reader, Strictness::from(strict), without_nats);
        if reader.errors.is_empty() {
            Ok(config)
        } else {
            Err(ConfigErrors(reader.errors))
        }
    }

    fn require_what_the_profile_needs(&self, reader: &mut Reader<'_>) {
        let mut missing = |name, why| reader.errors.push(ConfigError::Missing { name, why });
        if self.profile == Profile::Hardened && self.authority_keys.is_none() {
            missing(
                "CELLOS_AUTHORITY_KEYS_PATH",
                "the hardened profile verifies derivation tokens",
            );
        }
        if self.ceiling_need.is_required() && self.ceiling.is_none() {
            missing(
                "CELLOS_AUTHORITY_CEILING_PATH",
                "the hardened profile, which is the default, needs a ceiling; CELLOS_DEPLOYMENT_PROFILE=portable does not",
            );
        }
        if self.ceiling.is_some() && self.trust_keys.is_none() {
            missing(
                "CELLOS_TRUST_VERIFY_KEYS_PATH",
                "the ceiling's signature is verified with it",
            );
        }
        if self.profile == Profile::Hardened && self.signing.is_none() {
            missing(
                "CELLOS_EVENT_SIGNING",
                "the hardened profile signs its events",
            );
        }
        if self.profile == Profile::Airgapped {
            if self.signing.is_none() {
                missing(
                    "CELLOS_EVENT_SIGNING",
                    "the airgapped profile signs its events",
                );
            }
            reader.errors.push(ConfigError::Refused {
                name: "CELLOS_DEPLOYMENT_PROFILE=airgapped".into(),
                why: "its events are spooled, and this build has no spool",
            });
        }
        if reader.switch("CELLOS_REQUIRE_SIGNING", false) && self.signing.is_none() {
            reader.errors.push(ConfigError::Missing {
                name: "CELLOS_EVENT_SIGNING",
                why: "CELLOS_REQUIRE_SIGNING is on",
            });
        }
        if reader.switch("CELLOS_REQUIRE_TRUST_VERIFY_KEYS", false) && self.trust_keys.is_none() {
            reader.errors.push(ConfigError::Missing {
                name: "CELLOS_TRUST_VERIFY_KEYS_PATH",
                why: "CELLOS_REQUIRE_TRUST_VERIFY_KEYS is on",
            });
        }
        if self.isolation.is_required() && self.backend == compose::UNISOLATED_BACKEND {
            reader.errors.push(ConfigError::NotIsolated {
                backend: self.backend.clone(),
                because: if self.profile.requires_isolation() {
                    format!("the {} profile", self.profile.mode())
                } else {
                    "CELLOS_REQUIRE_ISOLATION".into()
                },
            });
        }
    }

    /// Everything that is set and not used above.
    fn judge_the_others(
        &mut self,
        reader: &mut Reader<'_>,
        strictness: Strictness,
        without_nats: bool,
    ) {
        let environment = reader.environment;
        for name in &environment.not_utf8 {
            reader
                .errors
                .push(ConfigError::NotUtf8 { name: name.clone() });
        }
        if self.profile == Profile::Hardened && !without_nats {
            reader.errors.push(ConfigError::NoNats {
                name: "CELLOS_DEPLOYMENT_PROFILE=hardened".into(),
            });
        }
        if self.profile == Profile::Hardened && without_nats && self.events.is_none() {
            reader.errors.push(ConfigError::Missing {
                name: "CELL_OS_JSONL_EVENTS",
                why: "the hardened profile without a NATS sink keeps its evidence there",
            });
        }
        for (name, value) in &environment.values {
            let Some(variable) = variables::find(name) else {
                if variables::is_ours(name) {
                    let unknown = ConfigError::Unknown {
                        name: name.clone(),
                        nearest: variables::nearest(name),
                    };
                    match strictness {
                        Strictness::Strict => reader.errors.push(unknown),
                        Strictness::Lenient => self.warnings.push(unknown.to_string()),
                    }
                }
                continue;
            };
            let refused = |why| ConfigError::Refused {
                name: name.clone(),
                why,
            };
            match variable.treatment {
                Treatment::Used(_) | Treatment::NoEffect(_) => {}
                Treatment::RefusedWhenOn(why) => match switch(value) {
                    Some(true) => reader.errors.push(refused(why)),
                    Some(false) => {}
                    None => reader.errors.push(ConfigError::NotASwitch {
                        name: variable.name,
                        value: value.clone(),
                    }),
                },
                Treatment::RefusedWhenSet(why) => {
                    if !value.is_empty() {
                        reader.errors.push(refused(why));
                    }
                }
                Treatment::Nats(_) => {
                    // `CELL_OS_REQUIRE_JETSTREAM=0` asks for nothing.
                    if !without_nats && switch(value) != Some(false) && !value.is_empty() {
                        reader
                            .errors
                            .push(ConfigError::NoNats { name: name.clone() });
                    }
                }
                Treatment::HostIsolation(_) => {
                    if self.backend == compose::UNISOLATED_BACKEND
                        && !matches!(value.as_str(), "" | "0" | "off" | "none")
                    {
                        reader
                            .errors
                            .push(refused("the stub backend isolates nothing"));
                    }
                }
            }
        }
    }
}

/// What becomes of unknown names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Strictness {
    Strict,
    Lenient,
}

impl From<bool> for Strictness {
    fn from(strict: bool) -> Self {
        if strict { Self::Strict } else { Self::Lenient }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(pairs: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        Config::from_environment(&Environment::of(pairs))
    }

    fn portable(more: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
        let mut pairs = vec![("CELLOS_DEPLOYMENT_PROFILE", "portable")];
        pairs.extend_from_slice(more);
        config(&pairs)
    }

    fn error_text(result: Result<Config, ConfigErrors>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn the_environment_of_the_published_tests_is_accepted() {
        let config = portable(&[
            ("CELL_OS_USE_NOOP_SINK", "1"),
            ("CELLOS_CELL_BACKEND", "stub"),
            ("CELL_OS_JSONL_EVENTS", "/tmp/events.jsonl"),
            ("PATH", "/usr/bin"),
        ])
        .unwrap();
        assert_eq!(config.backend, "stub");
        assert_eq!(config.events, Some(PathBuf::from("/tmp/events.jsonl")));
        assert!(config.scoped_tokens.is_required());
        assert!(!config.derivation.is_required());
        assert!(config.warnings.is_empty());
    }

    #[test]
    fn the_default_profile_is_hardened_and_needs_a_ceiling() {
        let text = error_text(config(&[]));
        assert!(
            text.contains("CELLOS_AUTHORITY_CEILING_PATH is missing"),
            "{text}"
        );
    }

    #[test]
    fn hardened_refuses_a_backend_that_isolates_nothing() {
        let text = error_text(config(&[("CELLOS_CELL_BACKEND", "stub")]));
        assert!(text.contains("the hardened profile forbids that"), "{text}");
    }

    #[test]
    fn switches_have_one_grammar() {
        for (value, expected) in [
            ("1", true),
            (" Yes ", true),
            ("off", false),
            ("FALSE", false),
        ] {
            let config = portable(&[("CELLOS_REQUIRE_AUTHORITY_DERIVATION", value)]).unwrap();
            assert_eq!(config.derivation.is_required(), expected, "{value}");
        }
        for bad in ["", "2", "enabled"] {
            let text = error_text(portable(&[("CELLOS_REQUIRE_AUTHORITY_DERIVATION", bad)]));
            assert!(text.contains("a switch is 1, true"), "{text}");
        }
    }

    #[test]
    fn unknown_names_are_errors_unless_switched_off() {
        let text = error_text(portable(&[("CELLOS_RUN_TIMOUT_MS", "5")]));
        assert_eq!(
            text,
            "CELLOS_RUN_TIMOUT_MS is unknown; did you mean CELLOS_RUN_TIMEOUT_MS?"
        );
        let lenient = portable(&[("CELLOS_RUN_TIMOUT_MS", "5"), ("CELLOS_STRICT_CONFIG", "0")]);
        assert_eq!(lenient.unwrap().warnings.len(), 1);
    }

    #[test]
    fn what_would_silently_not_happen_is_refused_even_when_lenient() {
        for (name, value) in [
            ("CELLOS_SECCOMP_BPF_PATH", "/etc/filter"),
            ("CELLOS_CGROUP_MEMORY_MAX", "1000000"),
            ("CELL_OS_AUDIT_CHAIN", "/var/audit"),
            ("CELLOS_TRUST_KEYSET_PATH", "/etc/keyset"),
            ("CELLOS_EXPORT_HTTP_BASE_URL", "https://example.com"),
            ("CELLOS_REQUIRE_HOST_BASELINE", "on"),
            ("CELLOS_PKCS11_MODULE", "/lib/p11.so"),
            ("CELLOS_SINKS", "/etc/cellos/sinks.yaml"),
        ] {
            let text = error_text(portable(&[(name, value), ("CELLOS_STRICT_CONFIG", "0")]));
            assert!(text.starts_with(&format!("{name} is refused: ")), "{text}");
        }
        let stub = [
            ("CELLOS_CELL_BACKEND", "stub"),
            ("CELLOS_SUBPROCESS_SECCOMP", "1"),
        ];
        assert!(error_text(portable(&stub)).contains("the stub backend isolates nothing"));
        portable(&[("CELLOS_SUBPROCESS_SECCOMP", "1")]).unwrap();
    }

    #[test]
    fn a_nats_sink_is_refused_unless_it_is_not_wanted() {
        let nats = ("NATS_URL", "nats://127.0.0.1:4222");
        assert!(error_text(portable(&[nats])).contains("asks for a NATS sink"));
        portable(&[nats, ("CELL_OS_USE_NOOP_SINK", "yes")]).unwrap();
        portable(&[("CELL_OS_REQUIRE_JETSTREAM", "0")]).unwrap();
    }

    #[test]
    fn signing_is_complete_or_an_error() {
        let text = error_text(portable(&[("CELLOS_EVENT_SIGNING", "ed25519")]));
        assert!(
            text.contains("CELLOS_EVENT_SIGNING_KID is missing"),
            "{text}"
        );
        assert!(
            text.contains("CELLOS_EVENT_SIGNING_KEY_BASE64 is missing"),
            "{text}"
        );
        let config = portable(&[
            ("CELLOS_EVENT_SIGNING", "hmac"),
            ("CELLOS_EVENT_SIGNING_KID", "k1"),
            ("CELLOS_EVENT_SIGNING_KEY_BASE64", "c2VjcmV0"),
        ])
        .unwrap();
        let key = config.signing.unwrap();
        assert_eq!(key.algorithm, SigningAlgorithm::HmacSha256);
        assert!(!format!("{key:?}").contains("c2VjcmV0"));
    }

    #[test]
    fn signing_is_demanded_by_the_hardened_profile_and_by_name() {
        let hardened = error_text(config(&[("CELLOS_DEPLOYMENT_PROFILE", "hardened")]));
        assert!(
            hardened.contains("CELLOS_EVENT_SIGNING is missing: the hardened profile signs"),
            "{hardened}"
        );
        let demanded = ("CELLOS_REQUIRE_SIGNING", "1");
        for more in [
            &[demanded][..],
            &[demanded, ("CELLOS_EVENT_SIGNING", "off")],
        ] {
            let text = error_text(portable(more));
            assert!(text.contains("CELLOS_REQUIRE_SIGNING is on"), "{text}");
        }
        portable(&[
            demanded,
            ("CELLOS_EVENT_SIGNING", "ED25519"),
            ("CELLOS_EVENT_SIGNING_KID", "k"),
            ("CELLOS_EVENT_SIGNING_KEY_BASE64", "c2VjcmV0"),
        ])
        .unwrap();
    }

    #[test]
    fn a_key_without_a_word_on_signing_is_no_silence() {
        let key = ("CELLOS_EVENT_SIGNING_KEY_BASE64", "c2VjcmV0");
        let text = error_text(portable(&[key, ("CELLOS_STRICT_CONFIG", "0")]));
        assert!(text.contains("CELLOS_EVENT_SIGNING is missing"), "{text}");
        portable(&[key, ("CELLOS_EVENT_SIGNING", "off")]).unwrap();
    }

    #[test]
    fn values_that_cannot_be_read_are_errors() {
        for (name, value) in [
            ("CELLOS_RUN_TIMEOUT_MS", "0"),
            ("CELLOS_RUN_TIMEOUT_MS", "soon"),
            ("CELLOS_EVENT_SIGNING", "rsa"),
            ("CELLOS_RUN_ARGV0_ALLOW_PREFIXES", "bin"),
        ] {
            let text = error_text(portable(&[(name, value)]));
            assert!(text.contains("expected"), "{text}");
        }
        assert!(
            error_text(config(&[("CELLOS_DEPLOYMENT_PROFILE", " hardened ")]))
                .contains("expected hardened")
        );
    }
}
