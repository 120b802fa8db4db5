//! What `--validate` prints.

use serde::Serialize;

use super::config::Config;

/// The published summary, key for key.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Summary<'a> {
    mode: &'static str,
    spec_path: &'a str,
    spec_id: &'a str,
    run_id: &'a str,
    spec_sha256: &'a str,
    deployment_profile: &'a str,
    host_backend: &'a str,
    secret_broker: &'static str,
    event_sink: EventSink,
    export: Export,
    policy_pack_configured: bool,
    authority_keys_configured: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EventSink {
    primary: &'static str,
    subject: Option<&'static str>,
    jsonl_mirror_enabled: bool,
    jsonl_mirror_chained: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Export {
    default_sink: &'static str,
    named_targets: [(); 0],
}

/// `runId` when none is configured.
const VALIDATE_RUN_ID: &str = "validate";

impl<'a> Summary<'a> {
    /// The summary of one document under one configuration.
    pub(super) fn new(
        config: &'a Config,
        spec_path: &'a str,
        spec_id: &'a str,
        spec_sha256: &'a str,
    ) -> Self {
        Self {
            mode: "validate",
            spec_path,
            spec_id,
            run_id: config.run_id.as_deref().unwrap_or(VALIDATE_RUN_ID),
            spec_sha256,
            deployment_profile: config
                .profile_text
                .as_deref()
                .unwrap_or(config.profile.mode()),
            host_backend: &config.backend,
            // Documents that need one are refused.
            secret_broker: "none",
            event_sink: EventSink {
                primary: "noop",
                subject: None,
                // A run without a file of the operator's keeps its events in the state folder.
                jsonl_mirror_enabled: config.events.is_some(),
                jsonl_mirror_chained: false,
            },
            export: Export {
                default_sink: match config.export_dir {
                    Some(_) => "local",
                    None => "noop",
                },
                named_targets: [],
            },
            policy_pack_configured: config.policy_pack.is_some(),
            authority_keys_configured: config.authority_keys.is_some(),
        }
    }
}
