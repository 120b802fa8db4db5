//! What a helper does, by name, for the one who has to find out why it could not.

use serde::{Deserialize, Serialize};

/// A step of confining a program, in the order in which they are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[non_exhaustive]
pub enum Step {
    /// `PR_SET_PDEATHSIG`, and whether the parent still lives.
    #[error("bind its life to that of its parent")]
    ParentDeath,
    /// Order and descriptors over the socket.
    #[error("receive its order")]
    Order,
    /// `setsid`, a session keyring and signals.
    #[error("begin a session")]
    Session,
    /// Control groups.
    #[error("join its control groups")]
    ControlGroups,
    /// `unshare` and the maps of the user namespace.
    #[error(
        "make its namespaces (without root, the kernel has to allow user namespaces: \
         kernel.unprivileged_userns_clone, user.max_user_namespaces, AppArmor)"
    )]
    Namespaces,
    /// A TAP device in its network namespace.
    #[error("make its TAP device")]
    Tap,
    /// Addresses, routes and sockets of that namespace.
    #[error("make the network of its TAP device")]
    Network,
    /// Owners of its files and folders, and its working folder.
    #[error("hand over its folders")]
    Folders,
    /// A root with its files and devices alone.
    #[error("make its root")]
    Root,
    /// Secure bits, bounding set and capabilities.
    #[error("drop its capabilities")]
    Capabilities,
    /// `PR_SET_NO_NEW_PRIVS`.
    #[error("forbid it new privileges")]
    NoNewPrivileges,
    /// Landlock.
    #[error("restrict it to its files")]
    Landlock,
    /// User, group and supplementary groups.
    #[error("become its user")]
    Identity,
    /// `setrlimit`.
    #[error("lower its resource limits")]
    ResourceLimits,
    /// Numbers of its descriptors.
    #[error("arrange its descriptors")]
    Descriptors,
    /// `execveat`.
    #[error("execute the program")]
    Execute,
}
