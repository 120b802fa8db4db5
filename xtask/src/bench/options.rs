//! The command line of the benchmark.

use std::path::PathBuf;

use crate::error::TaskError;

/// What to measure, and how often.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) rounds: usize,
    pub(crate) warm_up: usize,
    pub(crate) cellos: Option<PathBuf>,
    pub(crate) document: Option<PathBuf>,
    pub(crate) write: bool,
}

impl Options {
    pub(crate) fn parse(arguments: &[String]) -> Result<Self, TaskError> {
        let mut options = Self {
            // Enough for a p99 that is not the maximum.
            rounds: 200,
            warm_up: 20,
            cellos: None,
            document: None,
            write: false,
        };
        let mut rest = arguments.iter();
        while let Some(flag) = rest.next() {
            let mut value = || {
                rest.next()
                    .ok_or_else(|| TaskError::usage(format!("{flag} needs a value")))
            };
            match flag.as_str() {
                "--rounds" => options.rounds = count(flag, value()?)?.max(1),
                "--warm-up" => options.warm_up = count(flag, value()?)?,
                "--cellos" => options.cellos = Some(absolute(value()?)?),
                "--document" => options.document = Some(absolute(value()?)?),
                "--write" => options.write = true,
                unknown => {
                    return Err(TaskError::usage(format!(
                        "bench takes no `{unknown}`; there are --rounds, --warm-up, --cellos, \
                         --document and --write"
                    )));
                }
            }
        }
        Ok(options)
    }
}

fn count(flag: &str, value: &str) -> Result<usize, TaskError> {
    value
        .parse()
        .map_err(|_| TaskError::usage(format!("{flag}: `{value}` is not a whole number")))
}

/// A measured program may run in another folder.
fn absolute(path: &str) -> Result<PathBuf, TaskError> {
    let path = PathBuf::from(path);
    std::fs::canonicalize(&path).map_err(TaskError::file("find", &path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(words: &[&str]) -> Result<Options, TaskError> {
        Options::parse(
            &words
                .iter()
                .map(|word| (*word).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    #[test]
    fn reads_every_flag() {
        let options = parse(&[
            "--rounds",
            "7",
            "--warm-up",
            "0",
            "--write",
            "--cellos",
            "/proc/self/exe",
        ])
        .unwrap();
        assert_eq!(
            (options.rounds, options.warm_up, options.write),
            (7, 0, true)
        );
        assert!(options.cellos.unwrap().is_absolute());
    }

    #[test]
    fn says_what_is_wrong() {
        let cases = [
            (vec!["--rounds"], "--rounds needs a value"),
            (vec!["--rounds", "many"], "`many` is not a whole number"),
            (vec!["--fast"], "no `--fast`"),
            (
                vec!["--document", "/nonexistent.yaml"],
                "cannot find /nonexistent.yaml",
            ),
        ];
        for (words, message) in cases {
            let error = parse(&words).unwrap_err().to_string();
            assert!(error.contains(message), "{error}");
        }
    }
}
