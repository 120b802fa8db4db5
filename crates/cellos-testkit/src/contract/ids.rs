//! Which ids a backend takes. Admission checks them too; a backend that puts an id into a path
//! or a command must not rely on its caller for that.

use cellos_core::CellosError;

use super::{CaseResult, Subject, Violation, ensure};

/// Longest id.
const LONGEST: usize = 128;

fn hostile_ids() -> Vec<String> {
    let mut ids: Vec<String> = [
        "",
        ".",
        "..",
        "../x",
        "a/../b",
        "a/b",
        "/",
        "/etc",
        "a..b",
        "-rf",
        "--",
        ".hidden",
        "_a",
        " ",
        "a b",
        " a",
        "a ",
        "a\n",
        "a\nb",
        "\r",
        "a\tb",
        "a\0b",
        "\0",
        "a\\b",
        "a:b",
        "a*",
        "$(id)",
        "a;b",
        "é",
        "\u{202e}a",
        "a%2fb",
    ]
    .map(str::to_owned)
    .into();
    ids.push("a".repeat(LONGEST + 1));
    ids.push("a".repeat(200));
    ids
}

/// An id outside the grammar is an invalid specification, and makes nothing.
///
/// # Errors
/// [`Violation`].
pub async fn refuses_hostile_ids(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    for id in hostile_ids() {
        let mut document = subject.document("decent");
        document.spec.id.clone_from(&id);
        match backend.create(&document).await {
            Err(CellosError::InvalidSpec(_)) => {}
            Err(error) => {
                return Err(Violation::new(format!(
                    "id {id:?} is refused, but not as an invalid specification: {error}"
                )));
            }
            Ok(handle) => {
                let _ = backend.destroy(&handle).await;
                return Err(Violation::new(format!("id {id:?} was accepted")));
            }
        }
        let left = subject.leftovers();
        ensure!(
            left.is_empty(),
            "refusing id {id:?} left {}",
            left.join(", ")
        );
    }
    Ok(())
}

/// Every id that the grammar allows works, also the longest, and ids that differ in one character
/// are different cells.
///
/// # Errors
/// [`Violation`].
pub async fn accepts_every_wellformed_id(subject: Subject) -> CaseResult {
    let backend = subject.backend();
    let longest = "l".repeat(LONGEST);
    let almost = format!("{}m", "l".repeat(LONGEST - 1));
    let ids = [
        "a", "A", "0", "a.b", "a_b", "a-b", "a.", "a-", "Z9._-z", &longest, &almost,
    ];
    let mut handles = Vec::new();
    for id in ids {
        let handle = backend.create(&subject.document(id)).await;
        let handle =
            handle.map_err(|error| Violation::new(format!("id {id:?} is refused: {error}")))?;
        ensure!(
            handle.cell_id == id,
            "id {id:?} became {:?} in the handle",
            handle.cell_id
        );
        handles.push(handle);
    }
    for handle in handles {
        let report = backend.destroy(&handle).await?;
        ensure!(report.destroyed, "cell {:?} was not there", handle.cell_id);
    }
    Ok(())
}
