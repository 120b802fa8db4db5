//! Secret and inference brokers, with and without the methods that have a default.

use std::{
    collections::HashMap,
    sync::{Mutex, PoisonError},
};

use async_trait::async_trait;
use cellos_core::{
    CellosError,
    ports::{
        InferenceBroker, InferenceRequest, InferenceResponse, InferenceRole,
        RuntimeSecretLeaseRequest, SecretBroker, SecretView,
    },
};
use zeroize::Zeroizing;

fn view(key: &str, value: String) -> SecretView {
    SecretView {
        key: key.to_string(),
        value: Zeroizing::new(value),
    }
}

/// Only what has no default.
pub struct PlainBroker;

#[async_trait]
impl SecretBroker for PlainBroker {
    async fn resolve(
        &self,
        key: &str,
        cell_id: &str,
        ttl_seconds: u64,
    ) -> Result<SecretView, CellosError> {
        if key.is_empty() {
            return Err(CellosError::SecretBroker("empty key".to_string()));
        }
        Ok(view(key, format!("{cell_id}/{ttl_seconds}")))
    }

    async fn revoke_for_cell(&self, _cell_id: &str) -> Result<(), CellosError> {
        Ok(())
    }
}

/// Every method.
#[derive(Default)]
pub struct LeasingBroker {
    leases: Mutex<HashMap<(String, String), u64>>,
}

#[async_trait]
impl SecretBroker for LeasingBroker {
    async fn resolve(
        &self,
        key: &str,
        _cell_id: &str,
        _ttl_seconds: u64,
    ) -> Result<SecretView, CellosError> {
        Ok(view(key, "resolved".to_string()))
    }

    async fn revoke_for_cell(&self, cell_id: &str) -> Result<(), CellosError> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        leases.retain(|(cell, _), _| cell != cell_id);
        Ok(())
    }

    async fn prepare_runtime_secret_lease(
        &self,
        cell_id: &str,
        requests: &[RuntimeSecretLeaseRequest],
    ) -> Result<(), CellosError> {
        let mut leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        for RuntimeSecretLeaseRequest { key, ttl_seconds } in requests {
            leases.insert((cell_id.to_string(), key.clone()), *ttl_seconds);
        }
        Ok(())
    }

    async fn fetch_runtime_secret(
        &self,
        key: &str,
        cell_id: &str,
        _ttl_seconds: u64,
    ) -> Result<SecretView, CellosError> {
        let leases = self.leases.lock().unwrap_or_else(PoisonError::into_inner);
        match leases.get(&(cell_id.to_string(), key.to_string())) {
            Some(ttl) => Ok(view(key, format!("leased for {ttl}"))),
            None => Err(CellosError::SecretBroker(format!("no lease of {key}"))),
        }
    }

    fn broker_correlation_id(&self) -> Option<String> {
        Some("exchange-1".to_string())
    }
}

/// Repeats the last thing the user said.
pub struct Echo;

#[async_trait]
impl InferenceBroker for Echo {
    async fn infer(&self, request: &InferenceRequest) -> Result<InferenceResponse, CellosError> {
        let said = request
            .messages
            .iter()
            .rev()
            .find(|message| match message.role {
                InferenceRole::User => true,
                InferenceRole::System | InferenceRole::Assistant => false,
            });
        match said {
            Some(message) => Ok(InferenceResponse {
                content: message.content.clone(),
                model: request
                    .model_hint
                    .clone()
                    .unwrap_or_else(|| "echo".to_string()),
                input_tokens: 1,
                output_tokens: request.max_tokens.unwrap_or(1),
            }),
            None => Err(CellosError::InferenceBroker("nobody asked".to_string())),
        }
    }
}
