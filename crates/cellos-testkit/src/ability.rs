//! What a host may lack, and how a test says that it was skipped for it.

use std::{
    fmt,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::atomic::{AtomicU64, Ordering},
};

/// Environment variable with the abilities that must be there, separated by commas or spaces.
/// A test that would be skipped for one of them fails instead. `all` names every one.
pub const REQUIRE_VARIABLE: &str = "CELLOS_TEST_REQUIRE";

/// Something that a test needs and not every host offers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ability {
    /// New user namespaces with a mount namespace inside, word `userns`.
    UserNamespaces,
    /// Control groups that this process may create, word `cgroups`.
    Cgroups,
    /// Effective user id 0, word `root`.
    Root,
    /// Landlock in the kernel, word `landlock`.
    Landlock,
    /// `/dev/kvm`, word `kvm`.
    Kvm,
    /// The program `bwrap`, word `bubblewrap`.
    Bubblewrap,
    /// The program `python3`, word `python3`.
    Python3,
    /// The program `qemu-system-x86_64`, word `qemu`.
    Qemu,
    /// The program `softhsm2-util`, word `softhsm`.
    Softhsm,
    /// The packages of `cargo xtask test` in [`python_bin`], word `python-packages`.
    PythonPackages,
    /// The program `nats-server` in [`python_bin`], word `nats`.
    NatsServer,
    /// `/usr/bin/python3`, which cells see, word `debian-python3`.
    DebianPython3,
    /// pip for that, word `pip`.
    Pip,
    /// `/usr/bin/curl`, word `curl`.
    Curl,
    /// `/usr/bin/git`, word `git`.
    Git,
    /// `/usr/bin/openssl`, word `openssl`.
    Openssl,
    /// `/usr/bin/node`, word `node`.
    Node,
    /// `/usr/bin/npm`, word `npm`.
    Npm,
    /// `/usr/bin/psql`, and Debian's PostgreSQL beneath `/usr/lib/postgresql`, word `postgres`.
    Postgres,
}

impl Ability {
    /// Every ability.
    pub const ALL: [Self; 19] = [
        Self::UserNamespaces,
        Self::Cgroups,
        Self::Root,
        Self::Landlock,
        Self::Kvm,
        Self::Bubblewrap,
        Self::Python3,
        Self::Qemu,
        Self::Softhsm,
        Self::PythonPackages,
        Self::NatsServer,
        Self::DebianPython3,
        Self::Pip,
        Self::Curl,
        Self::Git,
        Self::Openssl,
        Self::Node,
        Self::Npm,
        Self::Postgres,
    ];

    /// The word that names it in [`REQUIRE_VARIABLE`].
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::UserNamespaces => "userns",
            Self::Cgroups => "cgroups",
            Self::Root => "root",
            Self::Landlock => "landlock",
            Self::Kvm => "kvm",
            Self::Bubblewrap => "bubblewrap",
            Self::Python3 => "python3",
            Self::Qemu => "qemu",
            Self::Softhsm => "softhsm",
            Self::PythonPackages => "python-packages",
            Self::NatsServer => "nats",
            Self::DebianPython3 => "debian-python3",
            Self::Pip => "pip",
            Self::Curl => "curl",
            Self::Git => "git",
            Self::Openssl => "openssl",
            Self::Node => "node",
            Self::Npm => "npm",
            Self::Postgres => "postgres",
        }
    }

    /// The ability that a word names.
    #[must_use]
    pub fn from_word(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|ability| ability.word() == word)
    }

    /// Tries it on this host.
    ///
    /// # Errors
    /// [`Missing`] with what was tried and what came of it.
    pub fn probe(self) -> Result<(), Missing> {
        let found = match self {
            Self::UserNamespaces => runs("unshare", &["-Urm", "true"]),
            Self::Cgroups => cgroup_can_be_made(),
            Self::Root => effective_root(),
            Self::Landlock => landlock_is_on(),
            Self::Kvm => File::options()
                .read(true)
                .write(true)
                .open("/dev/kvm")
                .map(drop)
                .map_err(|error| format!("/dev/kvm: {error}")),
            Self::Bubblewrap => runs("bwrap", &["--version"]),
            Self::Python3 => runs("python3", &["--version"]),
            Self::Qemu => runs("qemu-system-x86_64", &["--version"]),
            Self::Softhsm => runs("softhsm2-util", &["--version"]),
            Self::PythonPackages => runs(python_bin().join("python3"), &["-c", PACKAGES_PROBE]),
            Self::NatsServer => runs(python_bin().join("nats-server"), &["--version"]),
            Self::DebianPython3 => runs("/usr/bin/python3", &["--version"]),
            Self::Pip => runs("/usr/bin/python3", &["-m", "pip", "--version"]),
            Self::Curl => runs("/usr/bin/curl", &["--version"]),
            Self::Git => runs("/usr/bin/git", &["--version"]),
            Self::Openssl => runs("/usr/bin/openssl", &["version"]),
            Self::Node => runs("/usr/bin/node", &["--version"]),
            Self::Npm => runs("/usr/bin/npm", &["--version"]),
            Self::Postgres => {
                runs("/usr/bin/psql", &["--version"]).and_then(|()| server_of_postgres())
            }
        };
        found.map_err(|why| Missing {
            word: self.word().into(),
            why,
        })
    }
}

/// Environment variable with the virtual environment of the Python packages that tests use.
pub const PYTHON_VARIABLE: &str = "CELLOS_TEST_PYTHON";

/// Says nothing where all packages are there.
const PACKAGES_PROBE: &str = "import securesystemslib, cryptography, in_toto_attestation, opentelemetry.proto, grpc, websockets";

/// The folder of the programs that the Python packages of `cargo xtask test` brought: `python3`,
/// which finds the packages, and `nats-server`. It is that of [`PYTHON_VARIABLE`], or of the
/// environment that the gate leaves in the checkout; whether it is there, [`Ability::probe`] tells.
#[must_use]
pub fn python_bin() -> PathBuf {
    std::env::var_os(PYTHON_VARIABLE)
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/python"),
            PathBuf::from,
        )
        .join("bin")
}

/// An ability that is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Missing {
    /// Its word.
    pub word: String,
    /// What was tried and what came of it.
    pub why: String,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "needs {}: {}", self.word, self.why)
    }
}

impl Missing {
    /// Whether [`REQUIRE_VARIABLE`] says that it has to be there.
    #[must_use]
    pub fn is_required(&self) -> bool {
        std::env::var(REQUIRE_VARIABLE).is_ok_and(|list| names(&list, &self.word))
    }

    /// Prints the line that the test runner counts, past the capture of the test harness.
    pub fn report(&self, test: &str) {
        // Nothing can be done about a closed stderr, and the test is skipped either way.
        let _ = writeln!(std::io::stderr(), "{}", self.line(test));
    }

    fn line(&self, test: &str) -> String {
        format!("SKIPPED {test}: {self}")
    }
}

/// Skips the calling test unless the host has an ability: prints `SKIPPED <test>: <why>` and
/// returns from the test, or panics where `CELLOS_TEST_REQUIRE` names the ability.
///
/// `require!("userns")` takes the word of an [`Ability`]; `require!("nats", probe())` takes any
/// word and a `Result<(), impl Display>`. Only for tests that return `()`.
#[macro_export]
macro_rules! require {
    ($word:literal) => {
        if $crate::ability::skips($crate::test_name!(), $crate::ability::probe_word($word)) {
            return;
        }
    };
    ($word:literal, $probe:expr) => {
        if $crate::ability::skips(
            $crate::test_name!(),
            ($probe).map_err(|why| $crate::Missing {
                word: $word.into(),
                why: ::std::string::ToString::to_string(&why),
            }),
        ) {
            return;
        }
    };
}

/// The path of the function it is used in, as the test harness prints it: without the crate.
#[macro_export]
macro_rules! test_name {
    () => {{
        fn here() {}
        $crate::ability::function_of(::std::any::type_name_of_val(&here))
    }};
}

/// The test's path from the type name of a function inside it.
#[doc(hidden)]
#[must_use]
pub fn function_of(type_name: &str) -> &str {
    let name = type_name.strip_suffix("::here").unwrap_or(type_name);
    let mut name = name.split_once("::").map_or(name, |(_, rest)| rest);
    while let Some(outer) = name.strip_suffix("::{{closure}}") {
        name = outer;
    }
    name
}

#[doc(hidden)]
pub fn probe_word(word: &str) -> Result<(), Missing> {
    match Ability::from_word(word) {
        Some(ability) => ability.probe(),
        // A misspelt word must not turn into a test that is always skipped.
        None => Err(Missing {
            word: word.into(),
            why: format!(
                "no such ability; known are {}",
                Ability::ALL.map(Ability::word).join(", ")
            ),
        }),
    }
}

#[doc(hidden)]
#[allow(clippy::panic, reason = "failing the calling test is what it is for")]
#[must_use]
pub fn skips(test: &str, probe: Result<(), Missing>) -> bool {
    let Err(missing) = probe else { return false };
    let known = Ability::from_word(&missing.word).is_some();
    let misspelt = !known && missing.why.starts_with("no such ability");
    if missing.is_required() || misspelt {
        panic!("{test} {missing}");
    }
    missing.report(test);
    true
}

fn names(list: &str, word: &str) -> bool {
    list.split([',', ' '])
        .any(|entry| entry == word || entry == "all")
}

fn runs(program: impl AsRef<Path>, arguments: &[&str]) -> Result<(), String> {
    let program = program.as_ref();
    let output = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{} {}: {}",
        program.display(),
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

fn server_of_postgres() -> Result<(), String> {
    const VERSIONS: &str = "/usr/lib/postgresql";
    fs::read_dir(VERSIONS)
        .map_err(|error| format!("{VERSIONS}: {error}"))?
        .filter_map(Result::ok)
        .any(|version| version.path().join("bin/initdb").is_file())
        .then_some(())
        .ok_or_else(|| format!("{VERSIONS}: no version with bin/initdb"))
}

fn effective_root() -> Result<(), String> {
    match status_field("Uid:")?.split_whitespace().nth(1) {
        Some("0") => Ok(()),
        other => Err(format!("effective user id is {}", other.unwrap_or("?"))),
    }
}

fn status_field(name: &str) -> Result<String, String> {
    fs::read_to_string("/proc/self/status")
        .map_err(|error| format!("/proc/self/status: {error}"))?
        .lines()
        .find_map(|line| line.strip_prefix(name).map(str::to_owned))
        .ok_or_else(|| format!("/proc/self/status has no {name}"))
}

fn landlock_is_on() -> Result<(), String> {
    const SYMBOLS: &str = "/proc/kallsyms";
    // The ABI can only be asked for with a system call; the list of security modules is the same
    // answer where securityfs is mounted, the symbol table where it is not.
    if let Ok(list) = fs::read_to_string("/sys/kernel/security/lsm") {
        return match list.split(',').any(|module| module.trim() == "landlock") {
            true => Ok(()),
            false => Err(format!("active security modules are {}", list.trim())),
        };
    }
    let symbols = fs::read_to_string(SYMBOLS).map_err(|error| format!("{SYMBOLS}: {error}"))?;
    match symbols.contains("landlock_create_ruleset") {
        true => Ok(()),
        false => Err("the kernel has no landlock_create_ruleset".into()),
    }
}

/// Number of the next probe: tests of one process probe at the same time.
static PROBES: AtomicU64 = AtomicU64::new(0);

fn cgroup_can_be_made() -> Result<(), String> {
    let own = fs::read_to_string("/proc/self/cgroup")
        .map_err(|error| format!("/proc/self/cgroup: {error}"))?;
    let mut tried = Vec::new();
    for line in own.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(_), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next())
        else {
            continue;
        };
        let root = match controllers {
            "" => "/sys/fs/cgroup".to_owned(),
            other => format!("/sys/fs/cgroup/{other}"),
        };
        let wanted = controllers.is_empty() || controllers.split(',').any(|name| name == "memory");
        if !wanted {
            continue;
        }
        let folder = Path::new(&root)
            .join(path.trim_start_matches('/'))
            .join(format!(
                "cellos-probe-{}-{}",
                std::process::id(),
                PROBES.fetch_add(1, Ordering::Relaxed)
            ));
        match fs::create_dir(&folder) {
            Ok(()) => {
                let limits = folder.join("memory.limit_in_bytes").exists()
                    || folder.join("memory.max").exists();
                fs::remove_dir(&folder)
                    .map_err(|error| format!("{}: {error}", folder.display()))?;
                if limits {
                    return Ok(());
                }
                tried.push(format!("{}: no memory limits there", folder.display()));
            }
            Err(error) => tried.push(format!("{}: {error}", folder.display())),
        }
    }
    Err(match tried.is_empty() {
        true => "this process is in no memory or unified control group".into(),
        false => tried.join("; "),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_test_knows_its_name() {
        assert_eq!(crate::test_name!(), "ability::tests::a_test_knows_its_name");
        let inside = || crate::test_name!();
        assert_eq!(inside(), "ability::tests::a_test_knows_its_name");
    }

    #[test]
    fn words_are_found_in_lists() {
        for (list, word, found) in [
            ("userns", "userns", true),
            ("root,userns", "userns", true),
            ("root userns", "userns", true),
            ("all", "userns", true),
            ("usernsx", "userns", false),
            ("", "userns", false),
        ] {
            assert_eq!(names(list, word), found, "{list:?}");
        }
    }

    #[test]
    fn every_word_names_its_ability() {
        for ability in Ability::ALL {
            assert_eq!(Ability::from_word(ability.word()), Some(ability));
        }
    }

    #[test]
    fn a_present_ability_does_not_skip() {
        assert!(!skips("t", Ok(())));
    }

    #[test]
    fn a_skip_says_what_is_missing_and_why() {
        let missing = Missing {
            word: "userns".into(),
            why: "unshare: not permitted".into(),
        };
        assert_eq!(
            missing.line("a_test"),
            "SKIPPED a_test: needs userns: unshare: not permitted"
        );
    }

    #[test]
    #[should_panic(expected = "no such ability; known are userns")]
    fn a_misspelt_word_fails_the_test() {
        require!("usernamespaces");
    }
}
