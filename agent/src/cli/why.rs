//! `why`: the evidence, what would happen if the peer fell silent now, the last decisions.

use super::{Exit, paint, print_json, put, show::answer};
use crate::{
    config::Paths,
    control::{Answer, Request, Why},
    status::{self, Paint},
};
use anyhow::bail;
use clap::Args;
use std::{fmt::Write, time::Duration};

/// The agent looks a minute ahead and into its log; longer than this it hangs.
const TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  lockstep why\n  lockstep why --pair shop\n  \
    lockstep why --json | jq -r .if_peer_fell_silent.outcome\n\
    The forecast is the state machine itself, run ahead on a copy: the targets go on answering as they do now,\n\
    and nobody answers for the virtual address.")]
pub(super) struct WhyArgs {
    /// The pair; needed only where this node has several.
    #[arg(long)]
    pair: Option<String>,
    /// Print JSON for programs.
    #[arg(long)]
    json: bool,
}

pub(super) fn why(args: &WhyArgs, paths: &Paths) -> anyhow::Result<Exit> {
    match answer(paths, &Request::Why { pair: args.pair.clone() }, TIMEOUT)? {
        Answer::Why(why) if args.json => print_json(&why)?,
        Answer::Why(why) => put(&human(&why, paint()))?,
        other => bail!("expected reasons, found {other:?}: is the agent of another version?"),
    }
    Ok(Exit::Done)
}

fn human(why: &Why, paint: Paint) -> String {
    let mut text = format!("{}  {}  epoch {}\n", paint.bold(&why.pair), why.state, why.epoch);
    if let Some(question) = &why.question {
        let _ = writeln!(text, "{}", paint.bad(&format!("question: {question}")));
    }
    let _ = writeln!(text, "\n{}", paint.bold("evidence"));
    for fact in &why.facts {
        let age =
            fact.age_ms.map_or_else(String::new, |age| format!("  {}", paint.dim(&format!("{age} ms ago"))));
        let _ = writeln!(text, "  {:<17} {}{age}", fact.name, fact.value);
    }
    let lease = why.lease_ms_left.map_or_else(|| "not here".into(), |left| format!("{left} ms left"));
    let _ = writeln!(text, "  {:<17} {lease}", "vip-lease");
    let _ = writeln!(text, "\n{}", paint.bold("if the peer fell silent now"));
    for step in &why.if_peer_fell_silent.steps {
        let _ = writeln!(text, "  after {:>6} ms  {:<8} {}", step.after_ms, step.row, step.sentence);
    }
    let _ = writeln!(text, "  {}", why.if_peer_fell_silent.outcome);
    let _ = writeln!(text, "\n{}", paint.bold("last decisions"));
    text.push_str(&status::events(&why.decisions, paint));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::events::{Event, Severity};
    use lockstep_failover::{Fact, Forecast, Foreseen, status::State};

    #[test]
    fn reasons_name_evidence_with_ages_the_forecast_and_the_last_decisions() {
        let step = Foreseen { after_ms: 650, row: "10b".into(), sentence: "asking for the VIP".into() };
        let why = Why {
            pair: "shop".into(),
            state: State::Standby,
            epoch: "0000000002-00112233aabbccdd".into(),
            row: "1b".into(),
            sentence: "both paths carry heartbeats: following".into(),
            facts: vec![Fact { name: "heartbeat-lan".into(), value: "heard".into(), age_ms: Some(31) }],
            lease_ms_left: None,
            if_peer_fell_silent: Forecast {
                outcome: "this node would serve after 700 ms".into(),
                steps: vec![step],
            },
            question: Some("confirm that it is off".into()),
            decisions: vec![Event::now(Severity::Info, "1b", "following", serde_json::Value::Null)],
        };
        let text = human(&why, Paint { colour: false });
        for wanted in [
            "shop  standby  epoch 0000000002-",
            "question: confirm that it is off",
            "heartbeat-lan     heard  31 ms ago",
            "vip-lease         not here",
            "after    650 ms  10b      asking for the VIP",
            "this node would serve after 700 ms",
            "info      following",
        ] {
            assert!(text.contains(wanted), "{wanted:?} in {text}");
        }
    }
}
