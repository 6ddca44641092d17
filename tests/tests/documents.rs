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
