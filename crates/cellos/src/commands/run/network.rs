//! What the operator says of a cell's network, beside what its document declares.

use std::{fmt, path::PathBuf, sync::Arc};

use cellos_core::{
    ExecutionCellDocument,
    descriptor::{BackendDescriptor, Feature},
};
use cellos_egress::{
    GatewayConfig, Learned, Mode, Publish, PublishProblem, Upstream, UpstreamProblem,
};

use super::output::{self, RecordTarget};
use crate::{failure::Failure, say};

/// Standard error, where no file is named.
const STANDARD_ERROR: &str = "-";

/// The operator's side of a cell's network.
#[derive(Debug, Default, clap::Args)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkOptions {
    /// Let connections from the host reach a port of the cell; the host listens on 127.0.0.1
    /// unless told otherwise, and on a free port for port 0; may be repeated
    #[arg(long, value_name = "[[HOST:]PORT:]CELL-PORT", value_parser = publish)]
    publish: Vec<Publish>,
    /// Connect to the outside through this proxy: http:// (CONNECT) or socks5://, then
    /// [USER:PASSWORD@]HOST:PORT. A password belongs into the variable, where no other user sees it
    #[arg(
        long,
        value_name = "URL",
        env = "CELLOS_EGRESS_PROXY",
        hide_env_values = true,
        value_parser = ProxyText::take
    )]
    egress_proxy: Option<ProxyText>,
    /// Refuse no public destination, and say at the end which document would have sufficed: on
    /// standard error, or in a file. The evidence says that this run was there to learn
    #[arg(long, value_name = "FILE", num_args = 0..=1, require_equals = true, default_missing_value = STANDARD_ERROR)]
    learn: Option<PathBuf>,
}

fn publish(text: &str) -> Result<Publish, PublishProblem> {
    text.parse()
}

/// A proxy as it was given; it may hold a password, so it is read by us, who never show it.
#[derive(Clone)]
struct ProxyText(String);

impl ProxyText {
    #[allow(
        clippy::unnecessary_wraps,
        reason = "the form of clap's parsers, whose errors would show the value"
    )]
    fn take(text: &str) -> Result<Self, std::convert::Infallible> {
        Ok(Self(text.to_owned()))
    }
}

impl fmt::Debug for ProxyText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ProxyText")
    }
}

/// Why the network cannot be had as the operator wants it.
#[derive(Debug, thiserror::Error)]
enum NetworkOptionError {
    #[error("--egress-proxy, or CELLOS_EGRESS_PROXY")]
    Proxy(#[source] UpstreamProblem),
    #[error("--learn: cells of the {backend} backend have no network to learn from")]
    NothingToLearn { backend: String },
    #[error("--publish: cells of the {backend} backend have no network to connect to")]
    NothingToPublish { backend: String },
}

/// What was asked for, opened and ready before the cell runs.
pub(super) struct NetworkPlan {
    upstream: Upstream,
    publish: Vec<Publish>,
    learning: Option<Learning>,
}

struct Learning {
    learned: Arc<Learned>,
    /// Standard error when absent.
    target: Option<RecordTarget>,
}

impl NetworkOptions {
    /// Reads and opens what was asked for.
    pub(super) fn plan(&self) -> Result<NetworkPlan, Failure> {
        let upstream = match &self.egress_proxy {
            // As with other variables, an empty one is as good as none.
            Some(ProxyText(text)) if !text.is_empty() => text
                .parse()
                .map_err(|problem| Failure::call(NetworkOptionError::Proxy(problem)))?,
            _ => Upstream::default(),
        };
        let learning = match self.learn.as_deref() {
            None => None,
            Some(path) => Some(Learning {
                learned: Arc::default(),
                target: match path.to_str() {
                    Some(STANDARD_ERROR) => None,
                    _ => Some(RecordTarget::open("learned document", path)?),
                },
            }),
        };
        Ok(NetworkPlan {
            upstream,
            publish: self.publish.clone(),
            learning,
        })
    }
}

impl NetworkPlan {
    /// The same for the gateway.
    pub(super) fn gateway(&self) -> GatewayConfig {
        GatewayConfig {
            mode: match self.learning {
                Some(_) => Mode::Learn,
                None => Mode::Enforce,
            },
            upstream: self.upstream.clone(),
            publish: self.publish.clone(),
            published: Some(|Publish { host, port }| {
                say::note(&format!("port {port} of the cell is at {host}"));
            }),
            learned: self
                .learning
                .as_ref()
                .map_or_else(Arc::default, |learning| Arc::clone(&learning.learned)),
        }
    }

    /// Whether this backend, with the gateway, can do it.
    pub(super) fn check(&self, backend: &BackendDescriptor) -> Result<(), Failure> {
        let backend_name = || backend.name.to_string();
        match (backend.has(Feature::Egress), &self.learning) {
            (true, _) => Ok(()),
            (false, Some(_)) => Err(Failure::call(NetworkOptionError::NothingToLearn {
                backend: backend_name(),
            })),
            (false, None) if !self.publish.is_empty() => {
                Err(Failure::call(NetworkOptionError::NothingToPublish {
                    backend: backend_name(),
                }))
            }
            (false, None) => Ok(()),
        }
    }

    /// Says which document would have sufficed, where that was asked for.
    pub(super) fn say_learned(&self, document: &ExecutionCellDocument) -> Result<(), Failure> {
        let Some(learning) = &self.learning else {
            return Ok(());
        };
        let completed = learning.learned.complete(document);
        let text = output::document_text(&completed.document, output::DocumentFormat::Yaml)?;
        match &learning.target {
            Some(target) => target.write_text(&text)?,
            None => say::write(format_args!("{text}")),
        }
        for note in &completed.notes {
            say::note(&say::one_line(note));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(proxy: &str) -> Result<NetworkPlan, Failure> {
        NetworkOptions {
            egress_proxy: Some(ProxyText(proxy.into())),
            ..NetworkOptions::default()
        }
        .plan()
    }

    #[test]
    fn a_proxy_that_cannot_be_read_is_not_shown() {
        for text in ["ftp://me:hunter2@proxy:1", "http://me:hunter2@proxy"] {
            let failure = plan(text).err().unwrap();
            assert!(
                !failure.message().contains("hunter2"),
                "{}",
                failure.message()
            );
        }
        let options = NetworkOptions {
            egress_proxy: Some(ProxyText("http://me:hunter2@proxy:1".into())),
            ..NetworkOptions::default()
        };
        assert!(!format!("{options:?}").contains("hunter2"));
    }

    #[test]
    fn an_empty_proxy_is_none() {
        assert_eq!(plan("").unwrap().gateway().upstream, Upstream::default());
    }
}
