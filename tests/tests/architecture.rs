//! Holds the arrows of ARCHITECTURE.md: which crate may know which, and who alone may
//! touch TLS, cryptography and Kubernetes. It reads what Cargo resolves, so an arrow
//! that comes in through a third crate is seen too.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use cargo_metadata::{CargoOpt, Metadata, MetadataCommand, Package, PackageId};

/// Every crate of the workspace, and which of the others it may depend on.
const ARROWS: &[(&str, &[&str])] = &[
    ("arx-identity", &[]),
    ("arx-proto", &[]),
    ("arx-daemon", &["arx-identity"]),
    ("arx-sds", &["arx-identity", "arx-proto"]),
    ("arx-ca", &["arx-identity", "arx-proto", "arx-daemon"]),
    ("arx-signer", &["arx-identity", "arx-proto", "arx-daemon"]),
    (
        "arx-node-agent",
        &["arx-identity", "arx-proto", "arx-daemon", "arx-sds"],
    ),
    ("arx", &["arx-identity", "arx-proto"]),
    (
        "arx-tests",
        &[
            "arx-identity",
            "arx-proto",
            "arx-daemon",
            "arx-sds",
            "arx-ca",
            "arx-node-agent",
        ],
    ),
];

/// The crate that no other depends on.
const TESTS: &str = "arx-tests";

/// Packages that one crate alone may name in its manifest, and why.
const OWNED: &[(&str, &str, &str)] = &[
    (
        "rustls",
        "arx-identity",
        "TLS is accepted and opened in identity::tls",
    ),
    (
        "tokio-rustls",
        "arx-identity",
        "TLS is accepted and opened in identity::tls",
    ),
    (
        "rustls-webpki",
        "arx-identity",
        "chains are verified by identity::verify",
    ),
    (
        "rustls-pki-types",
        "arx-identity",
        "the types of rustls stay inside identity",
    ),
    (
        "aws-lc-rs",
        "arx-identity",
        "one module chooses the cryptography",
    ),
    (
        "ring",
        "arx-identity",
        "one module chooses the cryptography",
    ),
    (
        "kube",
        "arx-ca",
        "nodes have no business with the API server",
    ),
    (
        "k8s-openapi",
        "arx-ca",
        "nodes have no business with the API server",
    ),
    ("redb", "arx-ca", "state lives with the authority"),
];

/// Packages that a crate must not reach by any way, build and test dependencies aside.
const OUT_OF_REACH: &[(&str, &[&str])] = &[
    (
        "arx-identity",
        &["tonic", "prost", "hyper", "h2", "kube", "arx-proto"],
    ),
    ("arx-sds", &["kube", "k8s-openapi", "redb", "arx-ca"]),
    ("arx-node-agent", &["kube", "k8s-openapi", "redb", "arx-ca"]),
    ("arx", &["kube", "k8s-openapi", "redb", "arx-ca", "arx-sds"]),
    ("arx-ca", &["arx-sds", "arx-node-agent"]),
];

/// Packages that may be nowhere, on any platform, under any feature.
const BANNED: &[&str] = &[
    "openssl",
    "openssl-sys",
    "native-tls",
    "boring",
    "boring-sys",
];

fn metadata() -> anyhow::Result<Metadata> {
    // Only this platform's packages are sure to have been downloaded.
    let libc = if cfg!(target_env = "musl") {
        "musl"
    } else {
        "gnu"
    };
    let platform = format!("{}-unknown-linux-{libc}", std::env::consts::ARCH);
    MetadataCommand::new()
        .manifest_path(concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"))
        .features(CargoOpt::SomeFeatures(Vec::new()))
        .other_options(["--locked", "--offline", "--filter-platform", &platform].map(String::from))
        .exec()
        .context("cargo metadata")
}

fn members(metadata: &Metadata) -> BTreeMap<&str, &Package> {
    metadata
        .workspace_packages()
        .into_iter()
        .map(|package| (package.name.as_str(), package))
        .collect()
}

/// Names of everything that `start` reaches through normal dependencies.
fn reach<'a>(metadata: &'a Metadata, start: &PackageId) -> anyhow::Result<BTreeSet<&'a str>> {
    let resolve = metadata.resolve.as_ref().context("nothing resolved")?;
    let nodes: BTreeMap<_, _> = resolve.nodes.iter().map(|n| (&n.id, n)).collect();
    let mut seen = BTreeSet::new();
    let mut open = vec![start];
    while let Some(id) = open.pop() {
        let node = nodes.get(id).context("a dependency was not resolved")?;
        let normal = node.deps.iter().filter(|dependency| {
            dependency
                .dep_kinds
                .iter()
                .any(|info| info.kind == cargo_metadata::DependencyKind::Normal)
        });
        open.extend(
            normal
                .map(|dependency| &dependency.pkg)
                .filter(|id| seen.insert(*id)),
        );
    }
    Ok(seen
        .into_iter()
        .map(|id| metadata[id].name.as_str())
        .collect())
}

#[test]
fn crates_depend_only_along_the_arrows() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let members = members(&metadata);
    let arrows: BTreeMap<_, _> = ARROWS.iter().copied().collect();
    for (name, package) in &members {
        let allowed = arrows.get(name).with_context(|| {
            format!("{name} is new: give it its arrows here and in ARCHITECTURE.md")
        })?;
        for dependency in &package.dependencies {
            let ours = members.contains_key(dependency.name.as_str());
            ensure!(
                !ours || allowed.contains(&dependency.name.as_str()),
                "{name} must not depend on {}",
                dependency.name
            );
        }
    }
    for name in arrows.keys() {
        ensure!(
            members.contains_key(name),
            "{name} is gone: take it off this list"
        );
    }
    Ok(())
}

#[test]
fn tls_cryptography_kubernetes_and_state_each_have_one_owner() -> anyhow::Result<()> {
    let metadata = metadata()?;
    for (package, owner, reason) in OWNED {
        let users: Vec<_> = metadata
            .workspace_packages()
            .into_iter()
            .filter(|member| member.dependencies.iter().any(|d| d.name == *package))
            .map(|member| member.name.as_str())
            // A cluster that is tested against is talked to as people do.
            .filter(|user| *user != TESTS || !["kube", "k8s-openapi"].contains(package))
            .collect();
        ensure!(
            users == [*owner],
            "{package} belongs to {owner} alone ({reason}), but is used by {users:?}"
        );
    }
    Ok(())
}

#[test]
fn what_must_stay_apart_is_apart_through_third_crates_too() -> anyhow::Result<()> {
    let metadata = metadata()?;
    let members = members(&metadata);
    for (name, forbidden) in OUT_OF_REACH {
        let package = members
            .get(name)
            .with_context(|| format!("no crate {name}"))?;
        let reached = reach(&metadata, &package.id)?;
        for other in *forbidden {
            ensure!(
                !reached.contains(other),
                "{name} must not reach {other}: see `cargo tree -p {name} -i {other}`"
            );
        }
    }
    // The walk itself must see far: this arrow is three crates long.
    let agent = members.get("arx-node-agent").context("no agent")?;
    ensure!(reach(&metadata, &agent.id)?.contains("rustls"));
    Ok(())
}

#[test]
fn no_second_tls_stack_is_locked_for_any_platform() {
    let lock = include_str!("../../Cargo.lock");
    for name in BANNED {
        assert!(
            !lock.contains(&format!("name = \"{name}\"\n")),
            "{name} came into Cargo.lock: see `cargo tree --target all -i {name}`"
        );
    }
}

#[test]
fn every_crate_states_the_same_licence_rust_version_and_lints() -> anyhow::Result<()> {
    let metadata = metadata()?;
    for package in metadata.workspace_packages() {
        let name = &package.name;
        ensure!(
            package.license.as_deref() == Some("Apache-2.0"),
            "{name}: licence"
        );
        ensure!(package.rust_version.is_some(), "{name}: rust-version");
        ensure!(package.description.is_some(), "{name}: description");
        let manifest = std::fs::read_to_string(&package.manifest_path)?;
        ensure!(
            manifest.contains("[lints]\nworkspace = true"),
            "{name}: lints of the workspace"
        );
    }
    Ok(())
}

/// Whatever a file of `identity` outside of these does, it does without knowing rustls.
const KNOW_RUSTLS: &[&str] = &["tls.rs", "tls", "crypto.rs"];

#[test]
fn inside_identity_only_tls_and_the_choice_of_provider_know_rustls() -> anyhow::Result<()> {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../identity/src");
    let mut open: Vec<_> = entries(&source)?;
    open.retain(|path| {
        let name = path.file_name().unwrap_or_default();
        !KNOW_RUSTLS.iter().any(|known| name == *known)
    });
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(entries(&path)?);
            continue;
        }
        let text = std::fs::read_to_string(&path)?;
        ensure!(
            !text.contains("rustls::"),
            "{} names rustls: go through identity::tls",
            path.display()
        );
    }
    Ok(())
}

fn entries(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    std::fs::read_dir(folder)?
        .map(|entry| Ok(entry?.path()))
        .collect()
}
