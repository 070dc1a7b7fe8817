//! The witness: one register outside of both nodes that only one of them can change at a time.
//!
//! It decides what two nodes that do not hear each other cannot: whether the active goes on alone, or the
//! standby takes over. Each change is a compare-and-swap, so of two wishes one wins. What a register means and
//! which change is allowed is decided here; reading and swapping is the caller's.
//!
//! - *shared*: both nodes hear each other under this epoch; either may win it.
//! - *alone*: the node of this epoch has won it. The active leans on its targets (R2), or the standby took over.
//!
//! Each node takes back only what it won itself: the active shares again once it no longer leans on its win,
//! the standby yields what it won and did not use. So a request that hangs and is carried out late
//! can only cost availability.

use lockstep_wire::Epoch;

/// Version of the text form.
const VERSION: &str = "1";
/// Longest text looked at.
const TEXT_MAX_BYTES: usize = 128;

/// What the witness holds of a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Register {
    /// Whose right it is about.
    pub epoch: Epoch,
    /// The node of this epoch has won.
    pub alone: bool,
}

impl Register {
    /// The text to store.
    pub fn to_text(self) -> String {
        let how = if self.alone { "alone" } else { "shared" };
        format!("lockstep {VERSION} {} {how}", self.epoch)
    }

    /// The register in a stored text; `None` when it is not one.
    pub fn from_text(text: &str) -> Option<Self> {
        if text.len() > TEXT_MAX_BYTES {
            return None;
        }
        let words: Vec<&str> = text.trim_end().split(' ').collect();
        let ["lockstep", VERSION, epoch, how] = words[..] else { return None };
        let alone = match how {
            "alone" => true,
            "shared" => false,
            _ => return None,
        };
        Some(Self { epoch: epoch.parse().ok()?, alone })
    }
}

/// What a node wishes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claim {
    /// Only to know what it holds.
    Look,
    /// The active goes on alone.
    Alone {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The standby takes over.
    Take {
        /// The epoch it follows.
        from: Epoch,
        /// The one it will claim.
        to: Epoch,
    },
    /// The active no longer leans on what it won.
    Share {
        /// Its epoch.
        epoch: Epoch,
    },
    /// The standby does not use what it won.
    Yield {
        /// What it won.
        won: Epoch,
        /// The epoch it follows.
        epoch: Epoch,
    },
    /// The operator has decided.
    Force {
        /// The epoch that will be claimed.
        epoch: Epoch,
    },
}

impl Claim {
    /// What to write in place of `held`; `None`: the other node has won, or nothing is to be written.
    pub fn judge(self, held: Option<Register>) -> Option<Register> {
        let alone = |epoch| Register { epoch, alone: true };
        let shared = |epoch| Register { epoch, alone: false };
        match self {
            Self::Look => None,
            Self::Alone { epoch } => held.is_none_or(|held| held.epoch <= epoch).then_some(alone(epoch)),
            // Also its own win of an earlier attempt: nobody else can change that one.
            Self::Take { from, to } => {
                (held == Some(shared(from)) || held == Some(alone(to))).then_some(alone(to))
            }
            Self::Share { epoch } => held.is_none_or(|held| held.epoch <= epoch).then_some(shared(epoch)),
            Self::Yield { won, epoch } => (held == Some(alone(won))).then_some(shared(epoch)),
            Self::Force { epoch } => Some(alone(epoch)),
        }
    }
}

/// What came of a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The witness was reached.
    Reached {
        /// The swap was done.
        won: bool,
        /// What it holds now.
        holds: Option<Register>,
    },
    /// Nothing is known; the swap may still be done.
    Unreachable(String),
}

#[cfg(test)]
mod tests {
    use super::*;
    use lockstep_wire::NodeId;

    const OURS: Epoch = Epoch { counter: 3, node: NodeId(1) };
    const NEXT: Epoch = Epoch { counter: 4, node: NodeId(2) };

    #[test]
    fn of_an_active_that_goes_on_alone_and_a_standby_that_takes_over_one_wins() {
        let held = Some(Register { epoch: OURS, alone: false });
        let [stay, take] = [Claim::Alone { epoch: OURS }, Claim::Take { from: OURS, to: NEXT }];
        let after = stay.judge(held).expect("the first wins");
        assert_eq!(take.judge(Some(after)), None);
        let after = take.judge(held).expect("the first wins");
        assert_eq!(stay.judge(Some(after)), None);
    }

    #[test]
    fn each_takes_back_only_its_own_win() {
        let [active, standby] =
            [Register { epoch: OURS, alone: true }, Register { epoch: NEXT, alone: true }].map(Some);
        let [share, give] = [Claim::Share { epoch: OURS }, Claim::Yield { won: NEXT, epoch: OURS }];
        let shared = Some(Register { epoch: OURS, alone: false });
        assert_eq!((share.judge(active), share.judge(standby)), (shared, None));
        assert_eq!((give.judge(active), give.judge(standby)), (None, shared));
    }

    #[test]
    fn a_witness_that_knows_nothing_of_the_pair_lets_nobody_take_over() {
        assert_eq!(Claim::Take { from: OURS, to: NEXT }.judge(None), None);
        let older = Some(Register { epoch: Epoch { counter: 2, node: NodeId(1) }, alone: false });
        assert_eq!(Claim::Take { from: OURS, to: NEXT }.judge(older), None);
    }

    #[test]
    fn a_register_comes_back_from_its_text_and_nothing_else_does() {
        for alone in [false, true] {
            let register = Register { epoch: NEXT, alone };
            assert_eq!(Register::from_text(&register.to_text()), Some(register));
        }
        for text in ["", "lockstep", "lockstep 2 3.1 alone", "lockstep 1 x alone", "lockstep 1 4.2 never"] {
            assert_eq!(Register::from_text(text), None, "{text}");
        }
        let long = format!("{}{}", Register { epoch: NEXT, alone: true }.to_text(), " ".repeat(200));
        assert_eq!(Register::from_text(&long), None);
    }
}
