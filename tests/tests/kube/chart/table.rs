//! The rights in docs/kubernetes.md are those of the chart.

use std::collections::BTreeSet;

use anyhow::{Context as _, ensure};
use arx_tests::kube::Chart;
use serde_json::Value;

use super::rendered::VALUES;

/// In all namespaces or in one, group, resources, verbs, and whether only for objects of some names.
type Rule = (bool, String, Vec<String>, Vec<String>, bool);

/// The rules of the chart, whatever the values are.
fn made() -> anyhow::Result<BTreeSet<Rule>> {
    let texts = |value: &Value| -> Vec<String> {
        let all = value.as_array().into_iter().flatten();
        all.filter_map(|it| Some(it.as_str()?.to_owned())).collect()
    };
    let mut made = BTreeSet::new();
    for values in VALUES {
        for role in Chart::render("arx-system", values)?.objects {
            let everywhere = role["kind"] == "ClusterRole";
            if !everywhere && role["kind"] != "Role" {
                continue;
            }
            for rule in role["rules"].as_array().context("rules")? {
                for group in texts(&rule["apiGroups"]) {
                    let (resources, verbs) = (texts(&rule["resources"]), texts(&rule["verbs"]));
                    let named = !texts(&rule["resourceNames"]).is_empty();
                    made.insert((everywhere, group, resources, verbs, named));
                }
            }
        }
    }
    Ok(made)
}

/// The rows of the tables.
fn told() -> anyhow::Result<BTreeSet<Rule>> {
    let text = std::fs::read_to_string(Chart::folder().join("../../docs/kubernetes.md"))?;
    let (_, section) = text
        .split_once("## What it may do, and why")
        .context("the section")?;
    let words = |cell: &str| -> Vec<String> {
        let words = cell.split(',').map(|word| word.trim().trim_matches('`'));
        words
            .filter(|word| !word.is_empty())
            .map(str::to_owned)
            .collect()
    };
    let (mut told, mut everywhere, mut inside) = (BTreeSet::new(), false, false);
    for line in section.lines() {
        everywhere |= line.contains("(ClusterRole");
        if !line.starts_with('|') || line.starts_with("|---") {
            inside &= line.starts_with('|');
            continue;
        }
        if line.starts_with("| group |") {
            inside = true;
            continue;
        }
        if !inside {
            continue;
        }
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [group, resources, verbs, names, when, why] = cells[..] else {
            anyhow::bail!("{line}");
        };
        ensure!(!when.is_empty() && why.len() > 10, "no reason: {line}");
        let group = group.trim_matches('`').to_owned();
        told.insert((
            everywhere,
            group,
            words(resources),
            words(verbs),
            !names.is_empty(),
        ));
    }
    Ok(told)
}

#[test]
#[ignore = "needs helm: make test-kube"]
fn every_rule_of_the_chart_stands_in_the_tables_with_its_reason_and_no_other() -> anyhow::Result<()>
{
    let (made, told) = (made()?, told()?);
    ensure!(made.len() > 7, "{made:#?}");
    let untold: Vec<_> = made.difference(&told).collect();
    ensure!(untold.is_empty(), "not in docs/kubernetes.md: {untold:#?}");
    let unmade: Vec<_> = told.difference(&made).collect();
    ensure!(unmade.is_empty(), "only in docs/kubernetes.md: {unmade:#?}");
    Ok(())
}
