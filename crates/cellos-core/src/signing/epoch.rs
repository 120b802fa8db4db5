//! The highest epoch seen so far, which keeps old signed documents from coming back.

/// The content of an anchor file: the highest epoch accepted so far, in decimal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EpochAnchor {
    highest: Option<u64>,
}

/// Why an epoch or an anchor was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EpochError {
    /// The anchor file holds something else than one decimal number.
    #[error("the epoch anchor must hold one decimal number, found {found:?}")]
    Unreadable {
        /// What it holds, shortened.
        found: String,
    },
    /// The document is older than one that was accepted before.
    #[error("epoch {epoch} is stale: {highest} was accepted before")]
    Stale {
        /// Epoch of the document.
        epoch: u64,
        /// The highest accepted before.
        highest: u64,
    },
}

impl EpochAnchor {
    /// Longest excerpt of an unreadable anchor in a message, in characters.
    const EXCERPT_CHARS: usize = 32;

    /// Nothing was accepted so far.
    #[must_use]
    pub const fn first_use() -> Self {
        Self { highest: None }
    }

    /// Reads the text of an anchor file. Empty text is first use.
    ///
    /// # Errors
    /// [`EpochError::Unreadable`].
    pub fn parse(text: &str) -> Result<Self, EpochError> {
        let text = text.trim();
        if text.is_empty() {
            return Ok(Self::first_use());
        }
        let unreadable = || EpochError::Unreadable {
            found: text.chars().take(Self::EXCERPT_CHARS).collect(),
        };
        if !text.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(unreadable());
        }
        let highest = text.parse().map_err(|_| unreadable())?;
        Ok(Self {
            highest: Some(highest),
        })
    }

    /// The highest epoch accepted so far; `None` before the first.
    #[must_use]
    pub const fn highest(self) -> Option<u64> {
        self.highest
    }

    /// Accepts an epoch that is not lower than the highest, and returns the anchor to keep.
    ///
    /// # Errors
    /// [`EpochError::Stale`].
    pub const fn advance(self, epoch: u64) -> Result<Self, EpochError> {
        match self.highest {
            Some(highest) if epoch < highest => Err(EpochError::Stale { epoch, highest }),
            _ => Ok(Self {
                highest: Some(epoch),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_an_older_epoch_is_stale() {
        let anchor = EpochAnchor::parse(" 3\n").unwrap();
        assert_eq!(
            anchor.advance(2),
            Err(EpochError::Stale {
                epoch: 2,
                highest: 3
            })
        );
        assert_eq!(anchor.advance(3).unwrap().highest(), Some(3));
        assert_eq!(anchor.advance(4).unwrap().highest(), Some(4));
        assert_eq!(
            EpochAnchor::parse("")
                .unwrap()
                .advance(0)
                .unwrap()
                .highest(),
            Some(0)
        );
    }

    #[test]
    fn an_anchor_that_is_no_number_is_refused() {
        for text in ["x", "-1", "+1", "1 2", "18446744073709551616", "0x1"] {
            assert!(EpochAnchor::parse(text).is_err(), "{text}");
        }
    }
}
