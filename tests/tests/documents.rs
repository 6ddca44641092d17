//! Documents that point nowhere are worse than none: links, `make` targets and reason
//! codes are checked against what is there.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Files of the project with one of these extensions, whatever was built aside.
fn files(extensions: &[&str]) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut open = vec![root()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                let built = name.starts_with("target") || name == ".git" || name == "arx-data";
                if !built {
                    open.push(path);
                }
            } else if path
                .extension()
                .is_some_and(|e| extensions.contains(&e.to_string_lossy().as_ref()))
            {
                found.push(path);
            }
        }
    }
    ensure!(
        !found.is_empty(),
        "no {extensions:?} below {}",
        root().display()
    );
    found.sort();
    Ok(found)
}

/// The text between each `open` and the next `close`.
fn between<'a>(text: &'a str, open: &'a str, close: char) -> impl Iterator<Item = &'a str> {
    text.split(open)
        .skip(1)
        .filter_map(move |rest| rest.split_once(close))
        .map(|(inner, _)| inner)
}

/// Complete reason codes (`ARX-` and at least one more letter) in a text.
fn codes(text: &str) -> BTreeSet<String> {
    text.split("ARX-")
        .skip(1)
        .map(|rest| {
            let end = rest
                .find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-'))
                .unwrap_or(rest.len());
            rest[..end].trim_end_matches('-')
        })
        .filter(|code| !code.is_empty())
        .map(|code| format!("ARX-{code}"))
        .collect()
}

#[test]
fn relative_links_lead_to_a_file() -> anyhow::Result<()> {
    for path in files(&["md"])? {
        let text = fs::read_to_string(&path)?;
        for link in between(&text, "](", ')') {
            let target = link.split('#').next().unwrap_or_default();
            if target.is_empty() || target.contains("://") || target.starts_with("mailto:") {
                continue;
            }
            let place = path.parent().context("a file has a folder")?.join(target);
            ensure!(
                place.exists(),
                "{}: link to {target}, which is not there",
                path.display()
            );
        }
    }
    Ok(())
}

/// The name by which a heading is linked to: lower case, hyphens for blanks, no other signs.
fn anchor(heading: &str) -> String {
    heading
        .trim_start_matches('#')
        .trim()
        .to_lowercase()
        .chars()
        .filter_map(|c| match c {
            ' ' => Some('-'),
            c if c.is_alphanumeric() || c == '-' || c == '_' => Some(c),
            _ => None,
        })
        .collect()
}

#[test]
fn links_to_a_place_in_a_document_lead_to_a_heading() -> anyhow::Result<()> {
    for path in files(&["md"])? {
        let text = fs::read_to_string(&path)?;
        for link in between(&text, "](", ')') {
            let Some((target, place)) = link.split_once('#') else {
                continue;
            };
            if target.contains("://") {
                continue;
            }
            let other = path.parent().context("a file has a folder")?.join(target);
            let there = match target {
                "" => text.clone(),
                _ => fs::read_to_string(other)?,
            };
            let mut headings = there.lines().filter(|line| line.starts_with('#'));
            ensure!(
                headings.any(|heading| anchor(heading) == place),
                "{}: link to {link}, and there is no such heading",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn make_targets_named_in_documents_exist() -> anyhow::Result<()> {
    let makefile = fs::read_to_string(root().join("Makefile"))?;
    let targets: BTreeSet<_> = makefile
        .lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name)
        .collect();
    for path in files(&["md"])? {
        let text = fs::read_to_string(&path)?;
        for target in between(&text, "`make ", '`') {
            let name = target.split(' ').next().unwrap_or_default();
            ensure!(
                targets.contains(name),
                "{}: no target `make {name}`",
                path.display()
            );
        }
    }
    Ok(())
}

/// Every reason code of the source has its entry in `docs/errors.md` in the form that
/// the page promises, and no entry outlives its code.
#[test]
fn every_reason_code_has_its_page_and_every_page_its_code() -> anyhow::Result<()> {
    let page = fs::read_to_string(root().join("docs/errors.md"))?;
    let mut described = BTreeSet::new();
    for entry in page.split("\n### ").skip(1) {
        let code = entry.lines().next().unwrap_or_default().trim();
        for part in ["**At fault:**", "**Retry:**", "**What to do:**"] {
            ensure!(
                entry.contains(part),
                "docs/errors.md: {code} does not say {part}"
            );
        }
        ensure!(
            described.insert(code.to_owned()),
            "docs/errors.md: {code} twice"
        );
    }
    let mut used = BTreeSet::new();
    for path in files(&["rs"])? {
        if path.components().any(|part| part.as_os_str() == "src") {
            used.extend(codes(&fs::read_to_string(&path)?));
        }
    }
    let missing: Vec<_> = used.difference(&described).collect();
    ensure!(
        missing.is_empty(),
        "codes without an entry in docs/errors.md: {missing:?}"
    );
    let stale: Vec<_> = described.difference(&used).collect();
    ensure!(
        stale.is_empty(),
        "entries of docs/errors.md without a code: {stale:?}"
    );
    Ok(())
}

#[test]
fn reason_codes_named_in_documents_exist() -> anyhow::Result<()> {
    let page = fs::read_to_string(root().join("docs/errors.md"))?;
    let known = codes(&page);
    for path in files(&["md"])? {
        let text = fs::read_to_string(&path)?;
        for code in codes(&text) {
            // `ARX-JOIN-TOKEN-…` means all that begin so.
            let family = format!("{code}-");
            ensure!(
                known.contains(&code) || known.iter().any(|it| it.starts_with(&family)),
                "{} names {code}, which is none",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn metrics_named_in_documents_are_counted() -> anyhow::Result<()> {
    let mut source = String::new();
    for path in files(&["rs"])? {
        if path.components().any(|part| part.as_os_str() == "src") {
            source += &fs::read_to_string(&path)?;
        }
    }
    let page = fs::read_to_string(root().join("docs/operate.md"))?;
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    for quoted in page.split('`').skip(1).step_by(2) {
        let name: String = quoted.chars().take_while(|c| is_name(*c)).collect();
        if !(name.starts_with("arx_") || name.starts_with("process_")) {
            continue;
        }
        // The agent's have their prefix from a sub-registry; units and `_total` are added
        // when they are written out.
        let mut registered = name.trim_start_matches("arx_agent_");
        for added in ["_total", "_info", "_seconds", "_bytes"] {
            registered = registered.trim_end_matches(added);
        }
        ensure!(
            source.contains(&format!("\"{registered}")),
            "docs/operate.md names {name}, which nothing counts"
        );
    }
    Ok(())
}

#[test]
fn tests_that_documents_name_exist() -> anyhow::Result<()> {
    let mut source = String::new();
    for path in files(&["rs"])? {
        source += &fs::read_to_string(&path)?;
    }
    let mut named = 0;
    for page in ["docs/ha.md", "docs/threat-model.md"] {
        let text = fs::read_to_string(root().join(page))?;
        for name in text.split('`').skip(1).step_by(2) {
            // Metrics begin with `arx_`.
            let is_one = name.matches('_').count() > 3
                && !name.starts_with("arx_")
                && name.chars().all(|it| it.is_ascii_lowercase() || it == '_');
            if is_one {
                let exists = source.contains(&format!("fn {name}("));
                ensure!(exists, "{page} names {name}, and there is no such test");
                named += 1;
            }
        }
    }
    ensure!(named > 30, "only {named} tests are named");
    Ok(())
}

#[test]
fn tests_and_faults_that_hold_the_rules_of_a_rotation_exist() -> anyhow::Result<()> {
    let mut source = String::new();
    for path in files(&["rs"])? {
        source += &fs::read_to_string(&path)?;
    }
    let page = "docs/adr/0012-a-rotation-is-a-document-and-a-function.md";
    let page = fs::read_to_string(root().join(page))?;
    let faults = arx_tests::simulation::Fault::ALL.map(|fault| format!("{fault:?}"));
    let mut named = 0;
    for row in page.lines().filter(|line| line.starts_with("| ")) {
        let row = row.strip_suffix('|').unwrap_or(row);
        let Some((row, last)) = row.rsplit_once('|') else {
            continue;
        };
        for name in row.split('`').skip(1).step_by(2) {
            if name.matches('_').count() > 2 {
                let exists = source.contains(&format!("fn {name}("));
                ensure!(exists, "there is no test {name}");
                named += 1;
            }
        }
        for name in last.split('`').skip(1).step_by(2) {
            let exists = faults.iter().any(|fault| fault == name);
            ensure!(exists, "there is no fault {name}");
        }
    }
    ensure!(named > 17, "only {named} tests are named");
    Ok(())
}

#[test]
fn nothing_names_a_path_of_the_machine_it_was_written_on() -> anyhow::Result<()> {
    // Taken apart, so that this file does not name them either.
    let forbidden = [["/work", "/"].concat(), ["/root", "/."].concat()];
    for path in files(&["md", "rs", "toml", "proto", "sh", "service", "yaml", "json"])? {
        let text = fs::read_to_string(&path)?;
        for word in &forbidden {
            ensure!(
                !text.contains(word.as_str()),
                "{} names {word}",
                path.display()
            );
        }
    }
    Ok(())
}

#[test]
fn modules_lie_beside_their_folder() -> anyhow::Result<()> {
    for path in files(&["rs"])? {
        ensure!(
            path.file_name().is_none_or(|name| name != "mod.rs"),
            "{}: write foo.rs beside foo/",
            path.display()
        );
    }
    Ok(())
}
