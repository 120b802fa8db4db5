//! Texts of others in events. A driver, a guest's kernel or a helper may say megabytes, and an event
//! that is longer than a line of the log would be lost, so each text is cut to what fits.

use std::fmt::Display;

use cellos_core::ports::workload::Residue;

/// Longest text in an event, in characters. A character takes at most six bytes in JSON.
const MAX_CHARACTERS: usize = 2048;
/// Most texts in a list.
const MAX_TEXTS: usize = 16;

/// A text that fits.
pub(super) fn cut(text: impl Display) -> String {
    let text = text.to_string();
    match text.char_indices().nth(MAX_CHARACTERS) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

/// The first of many texts, and how many more there are.
pub(super) fn some_of<T: Display>(texts: &[T]) -> Vec<String> {
    let mut some: Vec<String> = texts.iter().take(MAX_TEXTS).map(cut).collect();
    if texts.len() > MAX_TEXTS {
        some.push(format!("and {} more", texts.len() - MAX_TEXTS));
    }
    some
}

/// Residue that fits. What was found stays distinguishable from nothing.
pub(super) fn short(residue: &Residue) -> Residue {
    Residue {
        looked_for: some_of(&residue.looked_for),
        found: some_of(&residue.found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_fits_into_a_line() {
        let long = "\u{1}".repeat(3 << 20);
        let texts = vec![long; 100];
        let residue = short(&Residue {
            looked_for: Vec::new(),
            found: texts.clone(),
        });
        assert_eq!(residue.found.len(), MAX_TEXTS + 1);
        assert_eq!(residue.found[MAX_TEXTS], "and 84 more");
        let all = (
            residue.found,
            some_of(&texts),
            cut(&texts[0]),
            cut(&texts[1]),
        );
        let bytes = serde_json::to_vec(&all).unwrap().len();
        assert!(bytes < 450 * 1024, "{bytes}");
        assert_eq!(cut("short"), "short");
    }
}
