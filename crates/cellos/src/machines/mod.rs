//! What the microVM backend is told about this host: settings from the environment, and where its
//! files are.

pub(crate) mod keyring;
mod places;
mod settings;

pub(crate) use self::{
    places::Places,
    settings::{Monitor, config, monitors},
};
