//! `cellos keys`: the keys that events are signed with.

mod change;
mod show;

use std::path::PathBuf;

use crate::{
    exit::Exit,
    failure::Failure,
    keys::{FolderError, KeyFolder, KeysError},
};

/// Makes, lists and replaces the keys that events are signed with
///
/// Private keys stay in the key folder, in files that only their owner can read. Their public halves are published
/// in a signed keyset, with the time each is valid in and which of them were revoked: whoever has it can check
/// every log of this host, also those from before a rotation.
#[derive(Debug, clap::Args)]
pub(crate) struct KeysArgs {
    #[command(subcommand)]
    command: KeysCommand,
}

#[derive(Debug, clap::Subcommand)]
enum KeysCommand {
    Generate(change::GenerateArgs),
    Show(show::ShowArgs),
    Rotate(change::RotateArgs),
    Revoke(change::RevokeArgs),
}

/// Where the keys are.
#[derive(Debug, clap::Args)]
struct FolderArgs {
    /// Key folder [default: CELLOS_KEY_DIR, else /etc/cellos/keys for root, $XDG_CONFIG_HOME/cellos/keys for others]
    #[arg(long, value_name = "DIR")]
    key_dir: Option<PathBuf>,
}

impl FolderArgs {
    fn folder(&self) -> Result<KeyFolder, Failure> {
        KeyFolder::of_this_process(self.key_dir.as_deref())
            .map_err(|error| Failure::call(error).hint("name one with --key-dir"))
    }
}

/// Does what the subcommand says.
pub(crate) fn run(args: &KeysArgs) -> Result<Exit, Failure> {
    match &args.command {
        KeysCommand::Generate(args) => change::generate(args),
        KeysCommand::Show(args) => show::run(args),
        KeysCommand::Rotate(args) => change::rotate(args),
        KeysCommand::Revoke(args) => change::revoke(args),
    }
}

/// What can be done about it.
fn failure(error: KeysError) -> Failure {
    let hint = match &error {
        KeysError::AlreadyThere { .. } => Some("cellos keys rotate makes the next one"),
        KeysError::NothingYet { .. } => Some("cellos keys generate makes one"),
        KeysError::RevokesCurrent { .. } => {
            Some("cellos keys rotate --overlap 0s first: its successor signs the revocation")
        }
        KeysError::Unpublished { .. } => Some("cellos keys show lists them"),
        KeysError::Folder(FolderError::NoCurrent { .. }) => {
            Some("write the name of the key that shall sign into it, and chmod 600 it")
        }
        _ => None,
    };
    let failure = Failure::call(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}
