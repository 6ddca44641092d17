//! The phases of a rotation as one line.

use arx_proto::admin::v1 as wire;

use super::html::{Html, put};
use super::words::span;

/// The phases on the way forward, and what each is for.
const PHASES: [(&str, &str); 5] = [
    ("prepare", "a new root is made"),
    ("distribute", "everybody takes both roots"),
    ("activate", "the new root signs"),
    ("reissue", "certificates are renewed"),
    ("retire", "everybody drops the old root"),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Passed,
    Present,
    ToCome,
}

/// One phase on the line.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stop {
    name: String,
    purpose: &'static str,
    stage: Stage,
    tale: String,
}

pub(super) fn has_ended(rotation: &wire::Rotation) -> bool {
    matches!(rotation.phase.as_str(), "done" | "aborted")
}

/// Every phase that was entered, and those to come.
fn stops(rotation: &wire::Rotation, now_ms: i64) -> Vec<Stop> {
    let mut stops = Vec::new();
    let purpose = |name: &str| {
        let known = PHASES.iter().find(|(phase, _)| *phase == name);
        known.map_or("", |(_, purpose)| purpose)
    };
    for entered in &rotation.phases {
        let name = match (entered.phase.as_str(), entered.aborting) {
            ("done" | "aborted", _) => continue,
            (phase, true) => format!("{phase}, back"),
            (phase, false) => phase.to_owned(),
        };
        let present = entered.ended_unix_ms == 0;
        let until = if present {
            now_ms
        } else {
            entered.ended_unix_ms
        };
        let took = span(until.abs_diff(entered.started_unix_ms));
        stops.push(Stop {
            purpose: if entered.aborting {
                ""
            } else {
                purpose(&entered.phase)
            },
            name,
            stage: if present {
                Stage::Present
            } else {
                Stage::Passed
            },
            tale: if present {
                format!("for {took}")
            } else {
                format!("took {took}")
            },
        });
    }
    let forward = !rotation.aborting && !rotation.held && !has_ended(rotation);
    let here = PHASES.iter().position(|(name, _)| *name == rotation.phase);
    if let (Some(here), true) = (here, forward) {
        for (name, purpose) in PHASES.iter().skip(here + 1) {
            stops.push(Stop {
                name: (*name).to_owned(),
                purpose,
                stage: Stage::ToCome,
                tale: String::new(),
            });
        }
    }
    stops
}

impl Html {
    pub(super) fn rail(&mut self, rotation: &wire::Rotation, now_ms: i64) {
        self.raw("<ol class=\"rail\">\n");
        for stop in stops(rotation, now_ms) {
            self.raw(match stop.stage {
                Stage::Passed => "<li class=\"passed\"><span class=\"stop\"><span aria-hidden=\"true\">✓ </span>",
                Stage::Present => "<li class=\"present\" aria-current=\"step\"><span class=\"stop\"><span aria-hidden=\"true\">▸ </span>",
                Stage::ToCome => "<li class=\"tocome\"><span class=\"stop\"><span aria-hidden=\"true\">○ </span>",
            });
            put!(self, {stop.name} "</span> <span class=\"tale\">");
            self.raw(match stop.stage {
                Stage::Passed => "done, ",
                Stage::Present => "now, ",
                Stage::ToCome => "to come",
            });
            put!(self, {stop.tale} "</span> <span class=\"purpose\">" {stop.purpose} "</span></li>\n");
        }
        self.raw("</ol>\n");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entered(phase: &str, aborting: bool, started: i64, ended: i64) -> wire::EnteredPhase {
        wire::EnteredPhase {
            phase: phase.to_owned(),
            aborting,
            started_unix_ms: started,
            ended_unix_ms: ended,
            denied: 0,
        }
    }

    fn shown(rotation: &wire::Rotation) -> Vec<(String, Stage)> {
        let stops = stops(rotation, 10_000).into_iter();
        stops.map(|stop| (stop.name, stop.stage)).collect()
    }

    #[test]
    fn what_was_passed_stands_before_what_is_to_come() {
        let rotation = wire::Rotation {
            phase: "distribute".to_owned(),
            phases: vec![
                entered("prepare", false, 1, 2000),
                entered("distribute", false, 2000, 0),
            ],
            ..Default::default()
        };
        let expected = [
            ("prepare", Stage::Passed),
            ("distribute", Stage::Present),
            ("activate", Stage::ToCome),
            ("reissue", Stage::ToCome),
            ("retire", Stage::ToCome),
        ];
        let expected = expected.map(|(name, stage)| (name.to_owned(), stage));
        assert_eq!(shown(&rotation), expected);
    }

    #[test]
    fn on_the_way_back_nothing_is_promised() {
        let mut rotation = wire::Rotation {
            phase: "distribute".to_owned(),
            aborting: true,
            phases: vec![
                entered("prepare", false, 1, 2),
                entered("distribute", false, 2, 3),
                entered("distribute", true, 3, 0),
            ],
            ..Default::default()
        };
        assert_eq!(shown(&rotation).len(), 3);
        assert_eq!(
            shown(&rotation)[2],
            ("distribute, back".to_owned(), Stage::Present)
        );
        rotation.phase = "aborted".to_owned();
        rotation.phases[2].ended_unix_ms = 4;
        rotation.phases.push(entered("aborted", true, 4, 0));
        assert!(
            shown(&rotation)
                .iter()
                .all(|(_, stage)| *stage == Stage::Passed)
        );
    }
}
