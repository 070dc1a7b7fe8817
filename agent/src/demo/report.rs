//! The outcome of a demonstration: the fixed JSON and the table.

use super::verify::Verified;
use crate::status::Paint;
use serde::{Deserialize, Serialize};
use std::fmt::Write;

/// Version of the JSON form.
pub(super) const SCHEMA: u32 = 1;

/// What `--report` writes; the names are fixed. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Report {
    /// `SCHEMA`.
    pub schema: u32,
    /// Repeats the run.
    pub seed: u64,
    /// Timing profile of both nodes.
    pub profile: String,
    /// What each write waited for.
    pub commit_mode: String,
    /// Writes that were acknowledged to the client.
    pub acknowledged: u64,
    /// Acknowledged writes that are missing in the end.
    pub lost: u64,
    /// From the power loss until the standby knew that its peer is silent.
    pub detect_ms: u64,
    /// Between two answers of the virtual address.
    pub vip_outage_ms: u64,
    /// Between two answers of the application.
    pub app_outage_ms: u64,
    /// How long two nodes sent from the virtual address.
    pub dual_holder_ms: u64,
    /// From power-on until the pair was in sync again.
    pub resync_ms: u64,
    /// Between two answers of the application during failback.
    pub failback_outage_ms: u64,
    /// `ok`, or what is wrong.
    pub integrity: String,
}

impl Report {
    /// Nothing lost, never two holders, both databases sound and equal.
    pub fn passed(&self) -> bool {
        self.lost == 0 && self.dual_holder_ms == 0 && self.integrity == "ok"
    }

    /// The table.
    pub fn table(&self, paint: Paint) -> String {
        let mark = |good: bool, text: String| if good { paint.good(&text) } else { paint.bad(&text) };
        let rows = [
            ("seed (--seed repeats the run)", self.seed.to_string()),
            ("profile, commit mode", format!("{}, {}", self.profile, self.commit_mode)),
            ("acknowledged writes", self.acknowledged.to_string()),
            ("acknowledged, then lost", mark(self.lost == 0, self.lost.to_string())),
            ("failure detected after", format!("{} ms", self.detect_ms)),
            ("address silent for", format!("{} ms", self.vip_outage_ms)),
            ("application silent for", format!("{} ms", self.app_outage_ms)),
            ("two holders for", mark(self.dual_holder_ms == 0, format!("{} ms", self.dual_holder_ms))),
            ("back in sync after power-on", format!("{} ms", self.resync_ms)),
            ("failback: application silent", format!("{} ms", self.failback_outage_ms)),
            ("both databases", mark(self.integrity == "ok", self.integrity.clone())),
        ];
        let table = rows.iter().fold(String::new(), |mut out, (label, value)| {
            let _ = writeln!(out, "  {label:<32}{value}");
            out
        });
        let verdict = if self.passed() {
            paint.good(
                "PASSED: nothing acknowledged was lost, never two holders, both databases sound and equal",
            )
        } else {
            paint.bad("FAILED: see the lines in the table above that are not as they should be")
        };
        format!("{table}\n{verdict}\n")
    }
}

/// One word for both databases.
pub(super) fn integrity(a: &Verified, b: &Verified) -> String {
    match (a.integrity.as_str(), b.integrity.as_str()) {
        ("ok", "ok") if a.pages_sha256 == b.pages_sha256 => "ok".into(),
        ("ok", "ok") => format!("the pages differ (a has {} orders, b {})", a.orders, b.orders),
        ("ok", complaint) => format!("b: {complaint}"),
        (complaint, _) => format!("a: {complaint}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn verified(integrity: &str, pages: &str) -> Verified {
        Verified { integrity: integrity.into(), pages_sha256: pages.into(), orders: 1, missing: 0 }
    }

    fn report() -> Report {
        let text = r#"{"schema":1,"seed":7,"profile":"default","commit_mode":"durable","acknowledged":9,"lost":0,
            "detect_ms":1,"vip_outage_ms":2,"app_outage_ms":3,"dual_holder_ms":0,"resync_ms":4,
            "failback_outage_ms":5,"integrity":"ok"}"#;
        serde_json::from_str(text).expect("exactly the fixed names")
    }

    #[test]
    fn the_report_has_exactly_the_fixed_names() {
        let json = serde_json::to_value(report()).unwrap();
        assert_eq!(json.as_object().unwrap().len(), 13);
    }

    #[test]
    fn a_run_passes_only_without_loss_second_holder_or_damage() {
        assert!(report().passed());
        assert!(!Report { lost: 1, ..report() }.passed());
        assert!(!Report { dual_holder_ms: 1, ..report() }.passed());
        assert!(!Report { integrity: "a: page 7".into(), ..report() }.passed());
        assert!(report().table(Paint { colour: false }).contains("PASSED"));
        assert!(Report { lost: 1, ..report() }.table(Paint { colour: false }).contains("FAILED"));
        assert!(report().table(Paint { colour: false }).contains("acknowledged writes             9\n"));
    }

    #[test]
    fn databases_are_fine_only_if_both_are_sound_and_equal() {
        let sound = verified("ok", "1");
        assert_eq!(integrity(&sound, &sound), "ok");
        assert_eq!(integrity(&sound, &verified("ok", "2")), "the pages differ (a has 1 orders, b 1)");
        assert_eq!(integrity(&sound, &verified("page 3", "1")), "b: page 3");
        assert_eq!(integrity(&verified("page 3", "1"), &sound), "a: page 3");
    }
}
