//! The words of the socket: commit modes and the one-line answers to `WAIT`.

use std::{fmt, str::FromStr};

/// What a commit waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Mode {
    /// Nothing beyond the active node's own disk.
    Local,
    /// The standby has it in memory.
    Received,
    /// The standby has it on disk.
    #[default]
    Durable,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Local => "local",
            Self::Received => "received",
            Self::Durable => "durable",
        })
    }
}

impl FromStr for Mode {
    type Err = AnswerError;

    fn from_str(text: &str) -> Result<Self, AnswerError> {
        match text {
            "local" => Ok(Self::Local),
            "received" => Ok(Self::Received),
            "durable" => Ok(Self::Durable),
            _ => Err(AnswerError::Mode(text.to_owned())),
        }
    }
}

/// The commits made before the request are acknowledged.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Acknowledged {
    /// The standby holds them.
    Replicated {
        /// How firmly.
        mode: Mode,
        /// Up to where, in the agent's text form (`0000000003.0000000042`).
        position: String,
    },
    /// The active node has durably recorded that it runs alone.
    Solo {
        /// Its epoch, in the agent's text form.
        epoch: String,
    },
}

impl fmt::Display for Acknowledged {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Replicated { mode, position } => write!(f, "OK {mode} {position}"),
            Self::Solo { epoch } => write!(f, "SOLO {epoch}"),
        }
    }
}

/// A text that is not of the socket's language.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AnswerError {
    /// Not a commit mode.
    #[error("\"{0}\" is not a commit mode: use local, received or durable")]
    Mode(String),
    /// Not an answer.
    #[error("expected OK, SOLO or ERR, found \"{0}\": is this the socket of a Lockstep agent?")]
    Answer(String),
    /// `ERR`: the commits are not acknowledged.
    #[error("{code}: {sentence}")]
    Refused {
        /// A stable word, for example `timeout`.
        code: String,
        /// One sentence for people.
        sentence: String,
    },
}

/// Reads one answer line, without its newline.
///
/// # Errors
/// [`AnswerError::Refused`] for `ERR`, [`AnswerError::Answer`] for anything that is no answer.
pub fn parse_answer(line: &str) -> Result<Acknowledged, AnswerError> {
    let unknown = || AnswerError::Answer(line.chars().take(80).collect());
    let (word, rest) = line.split_once(' ').ok_or_else(unknown)?;
    match word {
        "OK" => {
            let (mode, position) = rest.split_once(' ').ok_or_else(unknown)?;
            let mode = mode.parse().map_err(|_| unknown())?;
            if position.is_empty() || position.contains(' ') {
                return Err(unknown());
            }
            Ok(Acknowledged::Replicated { mode, position: position.to_owned() })
        }
        "SOLO" if !rest.is_empty() && !rest.contains(' ') => {
            Ok(Acknowledged::Solo { epoch: rest.to_owned() })
        }
        "ERR" => {
            let (code, sentence) = rest.split_once(' ').unwrap_or((rest, ""));
            Err(AnswerError::Refused { code: code.to_owned(), sentence: sentence.to_owned() })
        }
        _ => Err(unknown()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ok_and_solo_acknowledge() {
        for line in ["OK durable 0000000003.0000000042", "SOLO 0000000003-00112233aabbccdd"] {
            assert_eq!(parse_answer(line).unwrap().to_string(), line);
        }
        let garbage = [
            "",
            "OK",
            "OK durable",
            "OK durable ",
            "OK later 1.1",
            "OK durable 1 2",
            "SOLO",
            "SOLO ",
            "SOLO a b",
            "ok durable 1.1",
            "OKAY durable 1.1",
            "\0\0\0",
        ];
        for line in garbage {
            assert!(matches!(parse_answer(line), Err(AnswerError::Answer(_))), "{line:?}");
        }
        let refused = AnswerError::Refused { code: "timeout".into(), sentence: "no answer in 5 ms".into() };
        assert_eq!(parse_answer("ERR timeout no answer in 5 ms"), Err(refused));
    }

    #[test]
    fn a_mode_reads_back_from_its_text() {
        for mode in [Mode::Local, Mode::Received, Mode::Durable] {
            assert_eq!(mode.to_string().parse(), Ok(mode));
        }
        assert!("Durable".parse::<Mode>().is_err());
    }
}
