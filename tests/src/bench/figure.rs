//! Figures, what they must reach, and how they are shown.

use serde_json::{Map, Value, json};

/// What a figure must reach.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Goal {
    /// This part of the raw limit.
    OfRaw(f64),
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
    /// It is only told.
    None,
}

/// One figure.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    id: &'static str,
    unit: &'static str,
    goal: Goal,
    /// One for each repetition.
    values: Vec<f64>,
    raw: Vec<f64>,
    /// Whatever else must hold, and what was found.
    condition: Option<(bool, String)>,
    note: Option<String>,
}

impl Figure {
    pub(crate) fn new(id: &'static str, unit: &'static str, goal: Goal, values: Vec<f64>) -> Self {
        Self {
            id,
            unit,
            goal,
            values,
            raw: Vec::new(),
            condition: None,
            note: None,
        }
    }

    /// The raw limit that was measured between the repetitions.
    pub(crate) fn raw(mut self, raw: Vec<f64>) -> Self {
        self.raw = raw;
        self
    }

    /// Something that must hold beside the goal.
    pub(crate) fn and(mut self, holds: bool, what: String) -> Self {
        self.condition = Some((holds, what));
        self
    }

    /// Something worth knowing.
    pub(crate) fn note(mut self, note: String) -> Self {
        self.note = Some(note);
        self
    }

    fn value(&self) -> f64 {
        median(&self.values)
    }

    fn raw_limit(&self) -> Option<f64> {
        (!self.raw.is_empty()).then(|| median(&self.raw))
    }

    fn ratio(&self) -> Option<f64> {
        self.raw_limit().map(|raw| self.value() / raw)
    }

    fn met(&self) -> bool {
        let reached = match self.goal {
            Goal::OfRaw(part) => self.ratio().is_some_and(|ratio| ratio >= part),
            Goal::AtLeast(least) => self.value() >= least,
            Goal::AtMost(most) => self.value() <= most,
            Goal::Below(limit) => self.value() < limit,
            Goal::None => true,
        };
        reached && self.condition.as_ref().is_none_or(|(holds, _)| *holds)
    }

    fn spread(&self) -> String {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        let most = self.values.iter().copied().fold(0.0, f64::max);
        format!("{} - {}", number(least), number(most))
    }
}

/// The middle value; the mean of the two middle ones where there are two.
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

fn number(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        medium if medium >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// All figures of a run.
#[derive(Debug, Default)]
pub(crate) struct Table {
    figures: Vec<Figure>,
    failures: Vec<(&'static str, String)>,
}

impl Table {
    pub(crate) fn add(&mut self, figures: Vec<Figure>) {
        self.figures.extend(figures);
    }

    /// These could not be measured.
    pub(crate) fn fail(&mut self, ids: &[&'static str], error: &anyhow::Error) {
        self.failures
            .extend(ids.iter().map(|id| (*id, format!("{error:#}"))));
    }

    pub(crate) fn has_failures(&self) -> bool {
        !self.failures.is_empty()
    }

    pub(crate) fn print(&self) {
        println!(
            "{:<22}{:>9} {:<14}{:>18}{:>10}{:>8}  {:<16}{:<5}",
            "figure", "median", "unit", "spread", "raw", "ratio", "goal", "met"
        );
        for figure in &self.figures {
            let goal = match figure.goal {
                Goal::OfRaw(part) => format!(">= {:.0} % of raw", part * 100.0),
                Goal::AtLeast(least) => format!(">= {}", number(least)),
                Goal::AtMost(most) => format!("<= {}", number(most)),
                Goal::Below(limit) => format!("< {}", number(limit)),
                Goal::None => "none".to_owned(),
            };
            println!(
                "{:<22}{:>9} {:<14}{:>18}{:>10}{:>8}  {:<16}{:<5}",
                figure.id,
                number(figure.value()),
                figure.unit,
                figure.spread(),
                figure.raw_limit().map(number).unwrap_or_default(),
                figure
                    .ratio()
                    .map(|ratio| format!("{:.0} %", ratio * 100.0))
                    .unwrap_or_default(),
                goal,
                if figure.met() { "yes" } else { "NO" }
            );
            if let Some((holds, what)) = &figure.condition {
                println!("{:<22}{what}{}", "", if *holds { "" } else { ": MISSED" });
            }
            if let Some(note) = &figure.note {
                println!("{:<22}{note}", "");
            }
        }
        for (id, reason) in &self.failures {
            println!("{id:<22}not measured: {reason}");
        }
    }

    pub(crate) fn json(&self) -> String {
        let mut all = Map::new();
        for figure in &self.figures {
            let goal = match figure.goal {
                Goal::OfRaw(goal)
                | Goal::AtLeast(goal)
                | Goal::AtMost(goal)
                | Goal::Below(goal) => Some(goal),
                Goal::None => None,
            };
            all.insert(
                figure.id.to_owned(),
                json!({
                    "value": figure.value(),
                    "unit": figure.unit,
                    "raw": figure.raw_limit(),
                    "ratio": figure.ratio(),
                    "goal": goal,
                    "met": figure.met(),
                }),
            );
        }
        format!("{:#}\n", Value::Object(all))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_the_median_of_its_repetitions_and_is_held_against_its_goal() {
        assert!((median(&[3.0, 1.0, 2.0]) - 2.0).abs() < 1e-9);
        assert!((median(&[4.0, 1.0, 2.0, 3.0]) - 2.5).abs() < 1e-9);
        let figure = Figure::new("a", "1/s", Goal::OfRaw(0.75), vec![70.0, 80.0, 90.0]);
        assert!(!figure.clone().met(), "there is no raw limit");
        assert!(figure.clone().raw(vec![100.0]).met());
        assert!(!figure.clone().raw(vec![110.0]).met());
        let late = figure.raw(vec![100.0]).and(false, "p99 6 ms".to_owned());
        assert!(!late.met());
        assert!(!Figure::new("b", "ms", Goal::Below(1.0), vec![1.0]).met());
        assert!(Figure::new("b", "ms", Goal::AtMost(1.0), vec![1.0]).met());
    }
}
