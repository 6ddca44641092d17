//! Who somebody is to an API server: client certificates, and kubeconfig files.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kube::config::Kubeconfig;
use serde_json::{Value, json};

use crate::openssl::{Ca, openssl};

/// Days that they are good for.
const DAYS: u32 = 30;

pub(super) fn base64(text: &str) -> String {
    STANDARD.encode(text)
}

/// A certificate for a client of this name and group, and its key, PEM.
pub(super) fn client(
    authority: &Ca,
    folder: &Path,
    name: &str,
    group: &str,
) -> anyhow::Result<(String, String)> {
    let (request, key) = request(folder, name, &format!("/O={group}/CN={name}"))?;
    let extensions = "extendedKeyUsage=clientAuth\n";
    Ok((authority.sign(&request, extensions, DAYS)?, key))
}

/// The files of the API server's certificate and key.
pub(super) fn server_certificate(
    authority: &Ca,
    folder: &Path,
) -> anyhow::Result<(PathBuf, PathBuf)> {
    let (request, _) = request(folder, "api-server", "/CN=kube-apiserver")?;
    let extensions = "extendedKeyUsage=serverAuth\nsubjectAltName=IP:127.0.0.1,DNS:localhost\n";
    let certificate = folder.join("api-server.pem");
    std::fs::write(&certificate, authority.sign(&request, extensions, DAYS)?)?;
    Ok((certificate, folder.join("api-server.key")))
}

/// A request for a certificate of this subject, and its key, PEM; the key is kept beside it.
pub(super) fn request(
    folder: &Path,
    name: &str,
    subject: &str,
) -> anyhow::Result<(String, String)> {
    let key = folder.join(format!("{name}.key"));
    let out = folder.join(format!("{name}.csr"));
    openssl(&[
        "req",
        "-new",
        "-newkey",
        "ec",
        "-pkeyopt",
        "ec_paramgen_curve:prime256v1",
        "-noenc",
        "-subj",
        subject,
        "-keyout",
        key.to_str().context("a path that is text")?,
        "-out",
        out.to_str().context("a path that is text")?,
    ])?;
    Ok((std::fs::read_to_string(out)?, std::fs::read_to_string(key)?))
}

/// A kubeconfig of one cluster and one user.
pub(super) fn written(cluster: &Value, user: &Value) -> anyhow::Result<Kubeconfig> {
    Ok(serde_json::from_value(json!({
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "tests", "cluster": cluster}],
        "users": [{"name": "tests", "user": user}],
        "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": "tests"}}],
        "current-context": "tests",
    }))?)
}

/// The same cluster with another user.
pub(super) fn kubeconfig(of: &Kubeconfig, user: Value) -> anyhow::Result<Kubeconfig> {
    let server = json!({
        "server": server(of)?,
        "certificate-authority-data": base64(&authority(of)?),
    });
    written(&server, &user)
}

/// Where the API server is that the current context names.
pub(super) fn server(of: &Kubeconfig) -> anyhow::Result<String> {
    let server = cluster(of)?.server.clone();
    server.context("a cluster has a server")
}

/// The certificates by which it is verified, PEM.
pub(super) fn authority(of: &Kubeconfig) -> anyhow::Result<String> {
    let cluster = cluster(of)?;
    if let Some(data) = &cluster.certificate_authority_data {
        return Ok(String::from_utf8(STANDARD.decode(data)?)?);
    }
    let path = cluster.certificate_authority.as_ref();
    let path = path.context("a cluster names its certificate authority")?;
    Ok(std::fs::read_to_string(path)?)
}

fn cluster(of: &Kubeconfig) -> anyhow::Result<&kube::config::Cluster> {
    let context = of.current_context.as_ref();
    let context = of.contexts.iter().find(|it| Some(&it.name) == context);
    let name = &context
        .and_then(|it| it.context.as_ref())
        .context("there is a current context")?
        .cluster;
    let cluster = of.clusters.iter().find(|it| it.name == *name);
    cluster
        .and_then(|it| it.cluster.as_ref())
        .with_context(|| format!("there is a cluster {name}"))
}
