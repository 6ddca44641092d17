//! How a cluster's API server is reached, and what it answers is read.

pub(crate) mod access;
#[cfg(test)]
pub(crate) mod fake;
mod lines;
mod place;

use std::path::Path;
use std::time::Duration;

use arx_identity::crypto;
use http_body_util::{BodyExt as _, Limited};
use kube::config::{KubeConfigOptions, Kubeconfig};

pub(crate) use lines::Lines;
pub(crate) use place::Place;

/// An API server says about once a minute how far a watch has come. After so long without a word
/// it is not to be relied on any more.
pub(crate) const QUIET: Duration = Duration::from_secs(90);

/// Whom to ask, and as whom: by a kubeconfig, or as the pod that this process runs in.
///
/// # Errors
/// What is wrong with the file, or that no cluster is around this process.
pub(crate) async fn config(
    kubeconfig: Option<&Path>,
    deadline: Duration,
) -> Result<kube::Config, String> {
    let mut config = match kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path).map_err(|error| in_short(&error))?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
                .await
                .map_err(|error| in_short(&error))?
        }
        None => kube::Config::incluster().map_err(|error| {
            format!(
                "{}: set kubeconfig, or run inside the cluster",
                in_short(&error)
            )
        })?,
    };
    config.connect_timeout = Some(deadline);
    config.read_timeout = Some(deadline);
    config.default_retry = false;
    Ok(config)
}

/// Pause after so many failures in a row: full jitter below a limit that doubles.
pub(crate) fn pause(failures: u32) -> Duration {
    const FIRST: Duration = Duration::from_millis(500);
    const LONGEST: Duration = Duration::from_secs(30);
    let limit = FIRST.saturating_mul(1 << failures.min(10)).min(LONGEST);
    let random = f64::from(u16::from_be_bytes(crypto::random())) / f64::from(u16::MAX);
    limit.mul_f64(random)
}

/// A whole answer of at most `limit` bytes.
pub(crate) async fn body(body: kube::client::Body, limit: usize) -> Result<Vec<u8>, String> {
    let whole = Limited::new(body, limit).collect().await;
    whole
        .map(|whole| whole.to_bytes().to_vec())
        .map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() {
                format!("the answer is longer than {} KiB", limit >> 10)
            } else {
                "the answer broke off".to_owned()
            }
        })
}

/// An error and its causes in one line: what went wrong stands in the innermost.
pub(crate) fn in_short(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text.push_str(": ");
            text.push_str(&inner_text);
        }
        cause = inner.source();
    }
    if text.len() > 300 {
        let end = (0..=300).rev().find(|end| text.is_char_boundary(*end));
        text.truncate(end.unwrap_or(0));
    }
    text
}

/// A value in a query (RFC 3986, 3.4).
pub(crate) fn encoded(value: &str) -> String {
    let mut text = String::with_capacity(value.len());
    for byte in value.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                text.push(char::from(byte));
            }
            other => text.push_str(&format!("%{other:02X}")),
        }
    }
    text
}
