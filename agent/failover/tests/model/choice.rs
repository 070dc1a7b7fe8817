//! What may happen to the pair between two ticks: faults, their ends, and an operator.

use std::fmt;

/// Something bad, or something an operator asks for. Each costs one of the budget.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Fault {
    /// The direct link, in both directions.
    CutDirect,
    /// The direct link, what this node sends.
    CutDirectFrom,
    /// This node's LAN cable, in both directions.
    CutLan,
    /// The LAN, what this node sends.
    CutLanOut,
    /// The LAN, what this node receives.
    CutLanIn,
    /// Every cable of this node at once.
    Isolate,
    /// Nothing this node sends arrives.
    Mute,
    /// This node receives nothing.
    Deafen,
    /// Power loss; what was on its way to disk is lost.
    PowerOff,
    /// The same, and what was on its way to disk made it there.
    PowerOffWritten,
    /// The agent is killed; the kernel goes on.
    Kill,
    /// The same, and what was on its way to disk made it there.
    KillWritten,
    /// Every thread of the agent hangs.
    Freeze,
    /// The deciding thread hangs.
    Stick,
    /// The heartbeat thread hangs.
    HangBeat,
    /// Nothing reaches the disk.
    SlowDisk,
    /// What this node sends in the next tick comes later, up to a bound, and after what it sends then.
    Delay,
    /// What this node sends in the next tick comes, and comes once more later.
    Duplicate,
    /// The application fails after its restarts.
    BreakApp,
    /// The operator asks here for a switchover.
    Switchover,
    /// The operator asks here for a failover without loss.
    Failover,
    /// The operator has seen that the other node serves nothing, and accepts loss here.
    AcceptLoss,
    /// Residual: the LAN is split, each half with a majority of the targets.
    SplitLan,
    /// Residual: the virtual machine is paused with its clock.
    Pause,
    /// Residual: the ruleset is flushed.
    Flush,
}

impl Fault {
    /// All but the residuals, which the machine does not claim to survive.
    pub(crate) const ALL: &'static [Self] = &[
        Self::CutDirect,
        Self::CutDirectFrom,
        Self::CutLan,
        Self::CutLanOut,
        Self::CutLanIn,
        Self::Isolate,
        Self::Mute,
        Self::Deafen,
        Self::PowerOff,
        Self::PowerOffWritten,
        Self::Kill,
        Self::KillWritten,
        Self::Freeze,
        Self::Stick,
        Self::HangBeat,
        Self::SlowDisk,
        Self::Delay,
        Self::Duplicate,
        Self::BreakApp,
        Self::Switchover,
        Self::Failover,
        Self::AcceptLoss,
    ];
    const RESIDUALS: [Self; 3] = [Self::SplitLan, Self::Pause, Self::Flush];

    /// It is about the cables and the same for both nodes.
    pub(crate) fn is_shared(self) -> bool {
        matches!(self, Self::CutDirect | Self::SplitLan)
    }

    fn word(self) -> String {
        let mut word = String::new();
        for letter in format!("{self:?}").chars() {
            if letter.is_uppercase() && !word.is_empty() {
                word.push('-');
            }
            word.extend(letter.to_lowercase());
        }
        word
    }
}

/// What ends a fault. Free, and possible whenever the fault is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Mend {
    Direct,
    Lan(usize),
    Split,
    /// Power, or a new agent.
    Start(usize),
    Thaw(usize),
    Disk(usize),
    App(usize),
    /// What was delayed arrives.
    Arrive,
}

/// One transition of the model.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Choice {
    /// Nothing happens but time.
    Tick,
    Fault(Fault, usize),
    Mend(Mend),
}

const NAMES: [&str; 2] = ["a", "b"];

impl fmt::Display for Choice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tick => f.write_str("tick"),
            Self::Fault(fault, n) => write!(f, "{} {}", fault.word(), NAMES[*n]),
            Self::Mend(mend) => match mend {
                Mend::Direct => f.write_str("mend-direct"),
                Mend::Split => f.write_str("mend-split"),
                Mend::Arrive => f.write_str("arrive"),
                Mend::Lan(n) => write!(f, "mend-lan {}", NAMES[*n]),
                Mend::Start(n) => write!(f, "start {}", NAMES[*n]),
                Mend::Thaw(n) => write!(f, "thaw {}", NAMES[*n]),
                Mend::Disk(n) => write!(f, "mend-disk {}", NAMES[*n]),
                Mend::App(n) => write!(f, "mend-app {}", NAMES[*n]),
            },
        }
    }
}

impl Choice {
    /// Every choice there is, for a script's words.
    fn all() -> impl Iterator<Item = Self> {
        let faults = Fault::ALL.iter().chain(&Fault::RESIDUALS).copied();
        let faults = faults.flat_map(|fault| [0, 1].map(|n| Self::Fault(fault, n)));
        let of = |n| [Mend::Lan(n), Mend::Start(n), Mend::Thaw(n), Mend::Disk(n), Mend::App(n)];
        let mends =
            [Mend::Direct, Mend::Split, Mend::Arrive].into_iter().chain([0, 1].into_iter().flat_map(of));
        std::iter::once(Self::Tick).chain(faults).chain(mends.map(Self::Mend))
    }

    /// The choice that prints as `words`; `tick 5` is five ticks.
    pub(crate) fn script(words: &str) -> Vec<Self> {
        let mut choices = Vec::new();
        for line in words.split([';', '\n']).map(str::trim).filter(|line| !line.is_empty()) {
            if let Some(count) = line.strip_prefix("tick ") {
                let count = count.parse().expect("a number of ticks");
                choices.extend(std::iter::repeat_n(Self::Tick, count));
                continue;
            }
            let choice = Self::all().find(|choice| choice.to_string() == line);
            choices.push(choice.unwrap_or_else(|| panic!("no choice is called {line:?}")));
        }
        choices
    }

    /// A script that makes these choices.
    pub(crate) fn write_script(choices: &[Self]) -> String {
        let mut lines: Vec<String> = Vec::new();
        let mut ticks = 0;
        let flush = |ticks: &mut u32, lines: &mut Vec<String>| {
            match *ticks {
                0 => {}
                1 => lines.push("tick".to_owned()),
                count => lines.push(format!("tick {count}")),
            }
            *ticks = 0;
        };
        for choice in choices {
            if *choice == Self::Tick {
                ticks += 1;
            } else {
                flush(&mut ticks, &mut lines);
                lines.push(choice.to_string());
            }
        }
        flush(&mut ticks, &mut lines);
        lines.join("; ")
    }
}
