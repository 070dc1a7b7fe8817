//! Names of the things two nodes talk about: nodes, sessions, pairs, databases.
//!
//! Text forms round-trip and sort like the values. A name is checked once, here, so that the
//! rest of the code never meets an unchecked one.

use std::{fmt, str::FromStr};

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not the fixed-width form.
    #[error("expected {expected}, found {found:?}")]
    Form {
        /// What a valid text looks like.
        expected: &'static str,
        /// The beginning of the text that was given.
        found: String,
    },
    /// A name with a character outside `[a-z0-9-]`, empty, longer than 32, or beginning with `-`
    /// (a command would take that for an option).
    #[error("{0:?} is not a name: use 1 to 32 of a-z, 0-9 and \"-\", with no \"-\" in front")]
    Name(String),
}

impl IdError {
    pub(crate) fn form(expected: &'static str, text: &str) -> Self {
        Self::Form { expected, found: beginning(text) }
    }
}

/// Enough of a wrong text to recognise it; all of it could fill a log, for a peer chooses it.
fn beginning(text: &str) -> String {
    text.chars().take(64).collect()
}

/// A node: the first eight bytes of the SHA-256 of its certificate, big-endian.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct NodeId(pub u64);

/// One life of one agent process: random, never 0 on the wire. Grants and echoes hold for one session only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct SessionId(pub u64);

macro_rules! hex_text {
    ($name:ident, $what:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:016x}", self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let expected = concat!($what, " of 16 lower-case hexadecimal digits");
                parse_hex16(text).map(Self).ok_or_else(|| IdError::form(expected, text))
            }
        }
    };
}

hex_text!(NodeId, "a node id");
hex_text!(SessionId, "a session id");

/// Exactly 16 lower-case hexadecimal digits, the only accepted form.
pub(crate) fn parse_hex16(text: &str) -> Option<u64> {
    let plain = text.len() == 16 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    plain.then(|| u64::from_str_radix(text, 16).ok()).flatten()
}

/// Exactly `width` decimal digits, the only accepted form.
pub(crate) fn parse_digits(text: &str, width: usize) -> Option<u64> {
    let plain = text.len() == width && text.bytes().all(|b| b.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

macro_rules! name_text {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let fits = (1..=32).contains(&text.len()) && !text.starts_with('-');
                let plain = text.bytes().all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-'));
                if fits && plain { Ok(Self(text.to_owned())) } else { Err(IdError::Name(beginning(text))) }
            }
        }
    };
}

name_text!(
    /// A pair of nodes that protect one set of databases; the same on both nodes.
    PairId
);
name_text!(
    /// A replicated database; paths differ between nodes and in containers, names do not.
    DatabaseName
);
name_text!(
    /// A replicated tree of files; its root may lie elsewhere on the other node, its name may not.
    TreeName
);
