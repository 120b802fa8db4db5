//! What this host has of control groups, and making those of a cell.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::OnceLock,
};

use rustix::{fs::Access, io::Errno};

use super::{
    Accounting, Cgroup, CgroupError, Controller, Limits, Mechanism, Unavailable, Version,
    control::Directory,
    delegation::{self, Plan},
    group::make_leaf,
    layout::{self, Hierarchy},
    limits::{self, Swap},
};

/// The control groups that this process may use. Detected once; making the first leaf makes the
/// parent ready (which may move us to another cgroup, or ask systemd for a scope), detection changes
/// nothing.
#[derive(Debug)]
pub struct CgroupHost {
    system: System,
    swap: Swap,
    trees: Vec<Tree>,
    /// For each controller, in the order of [`Controller::ALL`], the tree that enforces it.
    support: [Result<usize, Unavailable>; 3],
}

/// One hierarchy that leaves may be made in.
#[derive(Debug)]
struct Tree {
    version: Version,
    /// What its leaves enforce here.
    controllers: Vec<Controller>,
    parent: delegation::Parent,
    ready: OnceLock<Directory>,
}

impl CgroupHost {
    /// Looks at this host. `parent` is the operator's choice (`CELLOS_CGROUP_PARENT`): a cgroup that
    /// this user may make children in. On v1 the same path beneath each controller's mount is used.
    /// Without it: our own cgroup in each hierarchy; on v2 `cellos` beneath the root for root, and a
    /// delegated scope from the user's systemd for others, where our own cgroup is not delegated.
    #[must_use]
    pub fn detect(parent: Option<&Path>) -> Self {
        Self::detect_on(System::this(), parent)
    }

    fn detect_on(system: System, operator: Option<&Path>) -> Self {
        let read = |path: &str| fs::read_to_string(system.at(Path::new(path))).unwrap_or_default();
        let mut hierarchies =
            layout::parse(&read("/proc/self/cgroup"), &read("/proc/self/mountinfo"));
        for hierarchy in &mut hierarchies {
            hierarchy.mount = system.at(&hierarchy.mount);
            hierarchy.own = hierarchy.own.as_deref().map(|path| system.at(path));
        }
        let relative = operator.map(|path| relative_to_mount(&hierarchies, path));
        // The first line is the table's head.
        let swap = match read("/proc/swaps").lines().count() {
            0 | 1 => Swap::Off,
            _ => Swap::On,
        };

        let mut trees = Vec::new();
        let mut usable = Vec::new();
        for hierarchy in &hierarchies {
            let parent = match &relative {
                Some(Err(unavailable)) => Err(unavailable.clone()),
                Some(Ok(path)) => parent_of(&system, hierarchy, Some(&hierarchy.mount.join(path))),
                None => parent_of(&system, hierarchy, None),
            };
            usable.push(parent.map(|parent| {
                trees.push(Tree {
                    version: hierarchy.version,
                    controllers: Vec::new(),
                    parent,
                    ready: OnceLock::new(),
                });
                trees.len() - 1
            }));
        }
        let support = Controller::ALL.map(|controller| {
            let index = find_tree(controller, &hierarchies, &usable, &trees)?;
            if let Some(tree) = trees.get_mut(index) {
                if controller == Controller::Memory && swap == Swap::On {
                    check_swap_is_counted(tree)?;
                }
                tree.controllers.push(controller);
            }
            Ok(index)
        });
        Self {
            system,
            swap,
            trees,
            support,
        }
    }

    /// Whether a limit can be enforced, and by what.
    ///
    /// # Errors
    /// Why not, and what mends it.
    pub fn support(&self, controller: Controller) -> Result<Mechanism, Unavailable> {
        let version = self.tree_for(controller).map(|tree| tree.version)?;
        Ok(Mechanism {
            version,
            controller,
        })
    }

    fn tree_for(&self, controller: Controller) -> Result<&Tree, Unavailable> {
        let slot = match controller {
            Controller::Memory => &self.support[0],
            Controller::Cpu => &self.support[1],
            Controller::Pids => &self.support[2],
        };
        let index = slot.as_ref().map_err(Clone::clone)?;
        self.trees
            .get(*index)
            .ok_or_else(|| no_controller(controller))
    }

    /// Makes the leaves that these limits need and writes the limits. `leaf` comes from
    /// [`leaf_name`](super::leaf_name).
    ///
    /// # Errors
    /// A limit that this host cannot hold, or the kernel's refusal. Nothing is left behind then.
    pub fn create(&self, leaf: &str, limits: &Limits) -> Result<Cgroup, CgroupError> {
        if super::leaf_name::creator_of(leaf).is_none() {
            return Err(CgroupError::LeafName {
                name: leaf.to_owned(),
            });
        }
        let limits = limits.checked()?;
        let mut group = Cgroup { leaves: Vec::new() };
        for controller in Controller::ALL.into_iter().filter(|c| limits.declares(*c)) {
            self.tree_for(controller)
                .map_err(|unavailable| CgroupError::Unavailable {
                    controller,
                    unavailable,
                })?;
        }
        match self.make_leaves(leaf, &limits, &mut group) {
            Ok(()) => Ok(group),
            Err(error) => {
                // The first error is the one to report; an empty leaf can always be removed.
                let _ = group.remove();
                Err(error)
            }
        }
    }

    fn make_leaves(
        &self,
        name: &str,
        limits: &Limits,
        group: &mut Cgroup,
    ) -> Result<(), CgroupError> {
        let needed = |tree: &&Tree| {
            let declared = tree.controllers.iter().any(|c| limits.declares(*c));
            declared || (limits.accounting == Accounting::Always && !tree.controllers.is_empty())
        };
        for tree in self.trees.iter().filter(needed) {
            let parent = self.ready(tree)?;
            let leaf = make_leaf(parent, name, tree.version, tree.controllers.clone())?;
            group.leaves.push(leaf);
        }
        // v2 first, then by controller: the first leaf stands for the cell.
        group.leaves.sort_by_key(|leaf| {
            (
                leaf.version == Version::V1,
                leaf.controllers.first().copied(),
            )
        });
        for leaf in &group.leaves {
            limits::apply(
                &leaf.directory,
                leaf.version,
                &leaf.controllers,
                limits,
                self.swap,
            )?;
        }
        Ok(())
    }

    fn ready<'a>(&self, tree: &'a Tree) -> Result<&'a Directory, CgroupError> {
        if let Some(directory) = tree.ready.get() {
            return Ok(directory);
        }
        let directory = match (tree.version, &tree.parent.plan) {
            (Version::V1, Plan::Existing(path)) => Directory::open(path)?,
            _ => delegation::prepare(&self.system, &tree.parent)?,
        };
        Ok(tree.ready.get_or_init(|| directory))
    }

    /// Parents that are there, to look for leftovers in.
    pub(super) fn parents(&self) -> Result<Vec<Directory>, CgroupError> {
        let mut parents = Vec::new();
        for tree in &self.trees {
            if let Some(directory) = tree.ready.get() {
                parents.push(directory.clone());
                continue;
            }
            let path = match &tree.parent.plan {
                Plan::Existing(path) => path.clone(),
                Plan::TopLevel { root } => root.join(delegation::TOP_LEVEL),
                Plan::UserScope { .. } => continue,
            };
            if path.exists() {
                parents.push(Directory::open(&path)?);
            }
        }
        Ok(parents)
    }
}

/// Where the parent is looked for in one hierarchy.
fn parent_of(
    system: &System,
    hierarchy: &Hierarchy,
    operator: Option<&Path>,
) -> Result<delegation::Parent, Unavailable> {
    match hierarchy.version {
        Version::V2 => delegation::plan(system, hierarchy, operator),
        Version::V1 => {
            let path = operator
                .or(hierarchy.own.as_deref())
                .ok_or_else(|| Unavailable {
                    why: format!(
                        "our own cgroup lies outside what {} shows",
                        hierarchy.mount.display()
                    ),
                    mend: "set CELLOS_CGROUP_PARENT to a cgroup of your own".to_owned(),
                })?;
            system.check_parent(path)?;
            Ok(delegation::Parent {
                plan: Plan::Existing(path.to_owned()),
                available: hierarchy.controllers.clone(),
            })
        }
    }
}

/// The operator's parent as a path beneath whichever mount it lies in.
fn relative_to_mount(hierarchies: &[Hierarchy], path: &Path) -> Result<PathBuf, Unavailable> {
    let beneath = hierarchies
        .iter()
        .filter_map(|h| path.strip_prefix(&h.mount).ok())
        .min_by_key(|relative| relative.components().count());
    let plain = |p: &&Path| {
        p.components()
            .all(|c| matches!(c, std::path::Component::Normal(_)))
    };
    beneath
        .filter(plain)
        .map(Path::to_owned)
        .ok_or_else(|| Unavailable {
            why: format!(
                "the cgroup parent {} does not lie beneath a mounted cgroup hierarchy",
                path.display()
            ),
            mend: "set CELLOS_CGROUP_PARENT to a directory beneath /sys/fs/cgroup".to_owned(),
        })
}

/// A controller is in exactly one hierarchy: a v1 hierarchy of its own, or v2.
fn find_tree(
    controller: Controller,
    hierarchies: &[Hierarchy],
    usable: &[Result<usize, Unavailable>],
    trees: &[Tree],
) -> Result<usize, Unavailable> {
    let both = || hierarchies.iter().zip(usable);
    if let Some((_, parent)) = both().find(|(h, _)| h.controllers.contains(&controller)) {
        return parent.clone();
    }
    let Some((hierarchy, parent)) = both().find(|(h, _)| h.version == Version::V2) else {
        return Err(no_controller(controller));
    };
    let index = parent.clone()?;
    let offered = |tree: &Tree| tree.parent.available.contains(&controller);
    if trees.get(index).is_some_and(offered) {
        return Ok(index);
    }
    let at_root =
        fs::read_to_string(hierarchy.mount.join("cgroup.controllers")).unwrap_or_default();
    if at_root
        .split_ascii_whitespace()
        .any(|c| c == controller.name())
    {
        return Err(Unavailable {
            why: format!("the {controller} controller is not delegated to our cgroup"),
            mend: format!(
                "let systemd delegate it (a drop-in for user@.service with Delegate=cpu memory pids), \
                 or write +{controller} to cgroup.subtree_control of each cgroup above"
            ),
        });
    }
    Err(no_controller(controller))
}

fn no_controller(controller: Controller) -> Unavailable {
    Unavailable {
        why: format!("no mounted cgroup hierarchy has the {controller} controller"),
        mend: format!(
            "mount cgroup2 at /sys/fs/cgroup, with a kernel that has the {controller} controller and \
             does not disable it (cgroup_disable=)"
        ),
    }
}

/// With swap on, a limit that does not count swap is none.
fn check_swap_is_counted(tree: &Tree) -> Result<(), Unavailable> {
    let (path, limit, swap) = match (&tree.parent.plan, tree.version) {
        (Plan::Existing(path), Version::V1) => {
            (path, "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
        }
        (Plan::Existing(path), Version::V2) => (path, "memory.max", "memory.swap.max"),
        // Nothing to look at before it is made; `limits::apply` looks at the leaf again.
        _ => return Ok(()),
    };
    // A v2 root has neither file.
    if path.join(limit).exists() && !path.join(swap).exists() {
        return Err(limits::swap_is_not_counted());
    }
    Ok(())
}

/// The host that is looked at; a test looks at a tree of ordinary files instead.
#[derive(Debug)]
pub(super) struct System {
    /// `/`, or where a test has its files.
    pub(super) root: PathBuf,
    pub(super) effective_uid: u32,
    writable: fn(&Path) -> Result<(), Errno>,
}

impl System {
    fn this() -> Self {
        Self {
            root: PathBuf::from("/"),
            effective_uid: rustix::process::geteuid().as_raw(),
            writable: |path| {
                let flags = rustix::fs::AtFlags::EACCESS;
                rustix::fs::accessat(rustix::fs::CWD, path, Access::WRITE_OK, flags)
            },
        }
    }

    fn at(&self, path: &Path) -> PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    pub(super) fn may_write(&self, path: &Path) -> Result<(), Errno> {
        (self.writable)(path)
    }

    /// Whether children can be made in a cgroup.
    pub(super) fn check_parent(&self, path: &Path) -> Result<(), Unavailable> {
        if !path.is_dir() {
            return Err(Unavailable {
                why: format!("there is no cgroup {}", path.display()),
                mend: format!("mkdir {}", path.display()),
            });
        }
        self.check_writable(path)
    }

    pub(super) fn check_writable(&self, path: &Path) -> Result<(), Unavailable> {
        let path_text = path.display();
        match self.may_write(path) {
            Ok(()) => Ok(()),
            Err(Errno::ROFS) => Err(Unavailable {
                why: format!("{path_text} is on a read-only mount"),
                mend: "mount the cgroup file system writable in this container".to_owned(),
            }),
            Err(Errno::NOENT) => Err(Unavailable {
                why: format!("there is no {path_text}"),
                mend: "set CELLOS_CGROUP_PARENT to a cgroup".to_owned(),
            }),
            Err(error) => Err(Unavailable {
                why: format!(
                    "user {} may not write {path_text} ({error})",
                    self.effective_uid
                ),
                mend: format!(
                    "run in a delegated cgroup (systemd-run --user --scope -p Delegate=yes), or let root \
                     make one for this user (chown its directory and cgroup.procs to {}) and set \
                     CELLOS_CGROUP_PARENT",
                    self.effective_uid
                ),
            }),
        }
    }
}

#[cfg(test)]
#[path = "host_tests.rs"]
mod tests;
