//! Which sinks there are: the file that `--sinks` names.
//!
//! ```yaml
//! apiVersion: cellos.io/v1
//! kind: EventSinks
//! deliverWithinMs: 2000
//! sinks:
//! - name: audit
//!   kind: webhook
//!   url: https://audit.example/events
//!   token: {file: audit.token}
//!   required: {maxBehind: 1000}
//! ```

use std::{
    collections::HashSet,
    fmt,
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    time::Duration,
};

use cellos_core::document::API_VERSION;
use serde::{
    Deserialize,
    de::{
        DeserializeSeed, Deserializer, Error as _, IgnoredAny, IntoDeserializer, MapAccess,
        SeqAccess, Visitor, value::MapAccessDeserializer, value::StringDeserializer,
    },
};

use crate::remote::{
    SinkConfig,
    nats::{self, NatsConfig},
    otlp::{self, OtlpConfig},
    stdout::{self, StdoutConfig},
    webhook::{self, WebhookConfig},
};

/// `kind` of the file.
pub const KIND: &str = "EventSinks";
/// Largest file in bytes; a sink takes a few hundred.
pub const MAX_FILE_BYTES: u64 = 256 * 1024;
/// Most sinks in one file. Each has a connection and a cursor of its own.
pub const MAX_SINKS: usize = 16;
/// Longest name of a sink in characters; it is part of a file's name.
pub const MAX_NAME_CHARACTERS: usize = 64;
/// Time for delivering what is left when a run has ended, when nobody says.
pub const DEFAULT_DELIVER_WITHIN: Duration = Duration::from_secs(2);
/// Longest time for that which can be asked for.
pub const MAX_DELIVER_WITHIN: Duration = Duration::from_secs(600);
/// Deepest nesting; the file needs five levels.
const MAX_DEPTH: usize = 16;
/// Most values in the file.
const MAX_NODES: usize = 10_000;

/// All sinks of a file.
#[derive(Debug)]
pub struct EventSinks {
    /// How long delivering what is left may take when a run has ended.
    pub deliver_within: Duration,
    /// The sinks, in the order of the file.
    pub sinks: Vec<NamedSink>,
    /// The folder that the file is in, from which paths in it start.
    pub folder: PathBuf,
}

/// One sink.
#[derive(Debug)]
pub struct NamedSink {
    /// Its name, which its cursor is called after.
    pub name: String,
    /// Its kind.
    pub kind: Kind,
    /// What a cell's start depends on.
    pub required: Option<Required>,
    /// What is particular to its kind.
    pub config: Box<dyn SinkConfig>,
}

/// A sink without which no cell starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
pub struct Required {
    /// How many events of the log it may lack when a cell starts.
    pub max_behind: u64,
}

/// Why there are no sinks.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("event sinks {path:?}: cannot be read: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// The kernel's reason.
        source: std::io::Error,
    },
    /// It is too large.
    #[error("event sinks {path:?}: larger than {MAX_FILE_BYTES} bytes")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It says something that makes no sense.
    #[error("event sinks {path:?}: {problem}")]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What, with its place.
        problem: String,
    },
}

/// Every kind of sink: its name, and its configuration. A new one is a module and a line.
macro_rules! kinds {
    ($($variant:ident $name:expr => $config:ty;)*) => {
        /// What kind of sink it is.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Kind {
            $(#[doc = concat!("See [`", stringify!($config), "`].")] $variant,)*
        }

        impl Kind {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// As a file names it.
            #[must_use]
            pub fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Reads the fields that are particular to it.
            fn read<'de, D: Deserializer<'de>>(
                self,
                fields: D,
            ) -> Result<Box<dyn SinkConfig>, D::Error> {
                match self {
                    $(Self::$variant => Ok(Box::new(<$config>::deserialize(fields)?)),)*
                }
            }
        }
    };
}

kinds! {
    Webhook webhook::KIND => WebhookConfig;
    Nats nats::KIND => NatsConfig;
    Otlp otlp::KIND => OtlpConfig;
    Stdout stdout::KIND => StdoutConfig;
}

impl EventSinks {
    /// The files that hold what the sinks log in with.
    pub fn private_files(&self) -> impl Iterator<Item = PathBuf> {
        let sinks = self.sinks.iter();
        sinks
            .flat_map(|sink| sink.config.private_files())
            .map(|file| self.folder.join(file))
    }

    /// Reads a file.
    ///
    /// # Errors
    /// [`SettingsError`].
    pub fn read(path: &Path) -> Result<Self, SettingsError> {
        let mut text = String::new();
        File::open(path)
            .and_then(|file| file.take(MAX_FILE_BYTES + 1).read_to_string(&mut text))
            .map_err(|source| SettingsError::Io {
                path: path.to_owned(),
                source,
            })?;
        if text.len() as u64 > MAX_FILE_BYTES {
            return Err(SettingsError::TooLarge {
                path: path.to_owned(),
            });
        }
        let mut sinks = parse(&text).map_err(|problem| SettingsError::Invalid {
            path: path.to_owned(),
            problem,
        })?;
        if let Some(folder) = path.parent() {
            folder.clone_into(&mut sinks.folder);
        }
        Ok(sinks)
    }
}

/// The file as it stands, for a first look: which kind each sink is decides how it is read.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Outline {
    #[serde(default)]
    sinks: Vec<SinkOutline>,
}

#[derive(Deserialize)]
struct SinkOutline {
    kind: String,
}

fn parse(text: &str) -> Result<EventSinks, String> {
    let outline: Outline =
        serde_saphyr::from_str_with_options(text, options()).map_err(|error| shown(&error))?;
    let kinds = outline
        .sinks
        .iter()
        .enumerate()
        .map(|(index, sink)| {
            let known = Kind::ALL.iter().find(|kind| kind.name() == sink.kind);
            known.copied().ok_or_else(|| {
                let names: Vec<_> = Kind::ALL.iter().map(|kind| kind.name()).collect();
                let kind = &sink.kind;
                format!(
                    "sinks[{index}].kind: {kind:?} is none of {}",
                    names.join(", ")
                )
            })
        })
        .collect::<Result<Vec<_>, _>>()?;
    let sinks = serde_saphyr::with_deserializer_from_str_with_options(text, options(), |file| {
        WholeFile { kinds: &kinds }.deserialize(file)
    })
    .map_err(|error| shown(&error))?;
    check(&sinks)?;
    Ok(sinks)
}

fn options() -> serde_saphyr::Options {
    serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_depth: MAX_DEPTH,
            max_documents: 1,
            max_nodes: MAX_NODES,
            max_events: MAX_NODES * 3,
            max_aliases: 0,
            max_anchors: 0,
        },
        duplicate_keys: serde_saphyr::DuplicateKeyPolicy::Error,
        merge_keys: serde_saphyr::MergeKeyPolicy::Error,
        strict_booleans: true,
        underscored_numbers_as_strings: true,
        reject_unsupported_tags: true,
        with_snippet: false,
    }
}

fn shown(error: &serde_saphyr::Error) -> String {
    error.without_snippet().to_string()
}

fn check(file: &EventSinks) -> Result<(), String> {
    if file.sinks.len() > MAX_SINKS {
        return Err(format!("more than {MAX_SINKS} sinks"));
    }
    if file.deliver_within > MAX_DELIVER_WITHIN {
        let most = MAX_DELIVER_WITHIN.as_millis();
        return Err(format!("deliverWithinMs: more than {most}"));
    }
    let mut names = HashSet::new();
    for (index, sink) in file.sinks.iter().enumerate() {
        let name = &sink.name;
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if name.is_empty() || name.len() > MAX_NAME_CHARACTERS || !name.bytes().all(plain) {
            return Err(format!(
                "sinks[{index}].name: {name:?} is not 1 to {MAX_NAME_CHARACTERS} of a-z 0-9 -"
            ));
        }
        if !names.insert(name) {
            return Err(format!(
                "sinks[{index}].name: there are two called {name:?}"
            ));
        }
    }
    Ok(())
}

/// Reads the whole file when the kinds of its sinks are known.
struct WholeFile<'k> {
    kinds: &'k [Kind],
}

impl<'de> DeserializeSeed<'de> for WholeFile<'_> {
    type Value = EventSinks;

    fn deserialize<D: Deserializer<'de>>(self, file: D) -> Result<EventSinks, D::Error> {
        file.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for WholeFile<'_> {
    type Value = EventSinks;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a mapping with apiVersion, kind and sinks")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<EventSinks, A::Error> {
        const FIELDS: &[&str] = &["apiVersion", "kind", "deliverWithinMs", "sinks"];
        let (mut version, mut kind, mut sinks) = (None, None, None);
        let mut deliver_within = DEFAULT_DELIVER_WITHIN;
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "apiVersion" => version = Some(map.next_value::<String>()?),
                "kind" => kind = Some(map.next_value::<String>()?),
                "deliverWithinMs" => deliver_within = Duration::from_millis(map.next_value()?),
                "sinks" => sinks = Some(map.next_value_seed(Sinks { kinds: self.kinds })?),
                other => return Err(A::Error::unknown_field(other, FIELDS)),
            }
        }
        for (field, found, expected) in [("apiVersion", version, API_VERSION), ("kind", kind, KIND)]
        {
            match found {
                Some(found) if found == expected => {}
                Some(found) => {
                    return Err(A::Error::custom(format!(
                        "{field} must be {expected}, found {found:?}"
                    )));
                }
                None => return Err(A::Error::custom(format!("{field} is missing"))),
            }
        }
        Ok(EventSinks {
            deliver_within,
            sinks: sinks.ok_or_else(|| A::Error::missing_field("sinks"))?,
            folder: PathBuf::new(),
        })
    }
}

struct Sinks<'k> {
    kinds: &'k [Kind],
}

impl<'de> DeserializeSeed<'de> for Sinks<'_> {
    type Value = Vec<NamedSink>;

    fn deserialize<D: Deserializer<'de>>(self, sinks: D) -> Result<Self::Value, D::Error> {
        sinks.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Sinks<'_> {
    type Value = Vec<NamedSink>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of sinks")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut sinks = Vec::new();
        for &kind in self.kinds {
            match seq.next_element_seed(OneSink { kind })? {
                Some(sink) => sinks.push(sink),
                None => break,
            }
        }
        // The sequence has to be read to its end.
        while seq.next_element::<IgnoredAny>()?.is_some() {}
        Ok(sinks)
    }
}

struct OneSink {
    kind: Kind,
}

impl<'de> DeserializeSeed<'de> for OneSink {
    type Value = NamedSink;

    fn deserialize<D: Deserializer<'de>>(self, sink: D) -> Result<NamedSink, D::Error> {
        sink.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for OneSink {
    type Value = NamedSink;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sink")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<NamedSink, A::Error> {
        let mut common = Common::default();
        let config = self.kind.read(MapAccessDeserializer::new(Particular {
            map,
            common: &mut common,
        }))?;
        Ok(NamedSink {
            name: common.name.ok_or_else(|| A::Error::missing_field("name"))?,
            kind: self.kind,
            required: common.required,
            config,
        })
    }
}

/// The fields that every sink has.
#[derive(Default)]
struct Common {
    name: Option<String>,
    required: Option<Required>,
}

/// A sink's fields without those that every sink has, which go to `common`.
struct Particular<'c, A> {
    map: A,
    common: &'c mut Common,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for Particular<'_, A> {
    type Error = A::Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, A::Error> {
        while let Some(key) = self.map.next_key::<String>()? {
            match key.as_str() {
                "name" => self.common.name = Some(self.map.next_value()?),
                "required" => self.common.required = Some(self.map.next_value()?),
                "kind" => {
                    self.map.next_value::<IgnoredAny>()?;
                }
                _ => {
                    let key: StringDeserializer<A::Error> = key.into_deserializer();
                    return seed.deserialize(key).map(Some);
                }
            }
        }
        Ok(None)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, A::Error> {
        self.map.next_value_seed(seed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "apiVersion: cellos.io/v1\nkind: EventSinks\n";

    #[test]
    fn all_kinds_are_read_with_their_own_fields() {
        let sinks = parse(&format!(
            "{HEAD}deliverWithinMs: 500\nsinks:\n- name: a\n  kind: webhook\n  url: https://h/\n  \
             mode: batched\n  token: {{env: T}}\n  required: {{maxBehind: 3}}\n- {{name: b, kind: \
             otlp, url: 'https://h', resource: {{host.name: x}}}}\n- {{kind: stdout, name: c}}\n"
        ))
        .unwrap();
        assert_eq!(sinks.deliver_within, Duration::from_millis(500));
        let shown: Vec<_> = sinks
            .sinks
            .iter()
            .map(|sink| (sink.name.as_str(), sink.kind.name(), sink.required))
            .collect();
        let required = Some(Required { max_behind: 3 });
        assert_eq!(
            shown,
            [
                ("a", "webhook", required),
                ("b", "otlp", None),
                ("c", "stdout", None)
            ]
        );
        assert!(format!("{:?}", sinks.sinks[0]).contains("Batched"));
    }

    #[test]
    fn what_is_wrong_is_named_with_its_place() {
        for (rest, problem, place) in [
            ("", "sinks", ""),
            ("sinks: []\nmore: 1\n", "more", "line 4"),
            ("sinks:\n- {name: a, kind: x}\n", "sinks[0].kind", ""),
            ("sinks:\n- {name: A, kind: stdout}\n", "sinks[0].name", ""),
            ("sinks:\n- {kind: stdout}\n", "name", "line 4"),
            (
                "sinks:\n- {name: a, kind: stdout}\n- {name: a, kind: stdout}\n",
                "sinks[1].name",
                "",
            ),
            (
                "sinks:\n- name: a\n  kind: webhook\n  url: https://h/\n  tokn: {env: T}\n",
                "tokn",
                "line 7",
            ),
            (
                "sinks:\n- name: a\n  kind: webhook\n  url: https://h/\n  required: {max: 1}\n",
                "max",
                "line 7",
            ),
            ("sinks:\n- {name: a, kind: webhook}\n", "url", "line 4"),
            (
                "sinks:\n- {name: a, name: b, kind: stdout}\n",
                "name",
                "line 4",
            ),
            (
                "deliverWithinMs: 999999999\nsinks: []\n",
                "deliverWithinMs",
                "",
            ),
            ("sinks: [*a]\n", "", ""),
        ] {
            let error = parse(&format!("{HEAD}{rest}")).unwrap_err();
            assert!(error.contains(problem), "{rest}: {error}");
            assert!(error.contains(place), "{rest}: {error}");
        }
        for head in [
            "",
            "apiVersion: v2\nkind: EventSinks\n",
            "kind: EventSinks\n",
        ] {
            assert!(parse(&format!("{head}sinks: []\n")).is_err(), "{head}");
        }
    }
}
