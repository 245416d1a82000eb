//! Names: what a lease is on, and what an agent is called.

use std::{borrow::Borrow, fmt, str::FromStr, sync::Arc};

use serde::{Deserialize, Serialize};

use crate::limits::{AGENT_NAME_BYTES_MAX, NAME_BYTES_MAX};

/// A text that can't be a name, with the reason.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// The text is empty.
    #[error("{what} is empty; give it 1 to {max} bytes of UTF-8")]
    Empty {
        /// What the text was to name.
        what: &'static str,
        /// The largest length in bytes.
        max: usize,
    },
    /// The text is too long.
    #[error("{what} has {bytes} bytes, the largest is {max}; shorten it (a hash of a long key will do)")]
    TooLong {
        /// What the text was to name.
        what: &'static str,
        /// Its length in bytes.
        bytes: usize,
        /// The largest length in bytes.
        max: usize,
    },
    /// The text has a control character.
    #[error(
        "{what} {text:?} has a control character at byte {at}; names are printed in tables and logs, leave it out"
    )]
    Control {
        /// What the text was to name.
        what: &'static str,
        /// The text.
        text: String,
        /// The byte at which the character stands.
        at: usize,
    },
}

fn validate(what: &'static str, text: &str, max: usize) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty { what, max });
    }
    if text.len() > max {
        return Err(NameError::TooLong { what, bytes: text.len(), max });
    }
    match text.char_indices().find(|(_, c)| c.is_control()) {
        Some((at, _)) => Err(NameError::Control { what, text: text.to_owned(), at }),
        None => Ok(()),
    }
}

macro_rules! name_type {
    ($(#[$doc:meta])* $type:ident, $what:literal, $max:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(Arc<str>);

        impl $type {
            /// Checks the text.
            ///
            /// # Errors
            /// [`NameError`] when it is empty, too long, or has a control character.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                validate($what, text, $max)?;
                Ok(Self(text.into()))
            }

            /// A text of this library's own, known to be one.
            pub(crate) fn literal(text: &'static str) -> Self {
                debug_assert!(validate($what, text, $max).is_ok());
                Self(text.into())
            }

            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<&str> for $type {
            type Error = NameError;
            fn try_from(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.as_ref().to_owned()
            }
        }
    };
}

name_type! {
    /// What a lease is on: 1 to [`NAME_BYTES_MAX`] bytes of UTF-8, no control characters.
    Name, "the lease's name", NAME_BYTES_MAX
}

name_type! {
    /// What an agent is called: 1 to [`AGENT_NAME_BYTES_MAX`] bytes of UTF-8, no control characters.
    ///
    /// It is shown to people and names the holder of a lease; it identifies nothing to the protocol.
    AgentName, "the agent's name", AGENT_NAME_BYTES_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_edges_of_a_name() {
        assert!(matches!(Name::new(""), Err(NameError::Empty { .. })));
        assert!(Name::new("x").is_ok());
        assert!(Name::new("x".repeat(NAME_BYTES_MAX)).is_ok());
        let long = Name::new("x".repeat(NAME_BYTES_MAX + 1)).unwrap_err();
        assert!(long.to_string().contains("513 bytes") && long.to_string().contains("512"), "{long}");
        assert!(matches!(Name::new("a\nb"), Err(NameError::Control { at: 1, .. })));
        assert!(Name::new("ställe/№ 5").is_ok());
    }

    #[test]
    fn what_is_decoded_is_checked_too() {
        let bytes = crate::codec::encode(&"a\tb".to_owned());
        assert!(crate::codec::decode::<Name>(&bytes).is_err());
    }
}
