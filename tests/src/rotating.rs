//! Rotations of the root, asked for and followed by the admin API.

use std::time::Duration;

use anyhow::Context as _;
use arx_proto::admin::v1::distrust_response::Outcome as Distrusted;
use arx_proto::admin::v1::rotate_root_response::Outcome;
use arx_proto::admin::v1::{
    AbortRotationRequest, ContinueRotationRequest, DistrustRequest, GetBundleRequest,
    RotateRootRequest, Rotation, RotationStatusRequest, Unconfirmed,
};

use crate::mesh::Mesh;
use crate::process::until;

/// A rotation whose times are short.
#[must_use]
pub fn quickly() -> RotateRootRequest {
    RotateRootRequest {
        window_ms: Some(1000),
        dwell_ms: Some(500),
        reason: "a test".to_owned(),
        ..RotateRootRequest::default()
    }
}

/// Begins a rotation.
///
/// # Errors
/// If it does not begin.
pub async fn rotate(mesh: &Mesh, request: RotateRootRequest) -> anyhow::Result<Rotation> {
    let answer = mesh.admin().await?.rotate_root(request).await?.into_inner();
    match answer.outcome {
        Some(Outcome::Rotation(rotation)) => Ok(rotation),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Turns the rotation round.
///
/// # Errors
/// If that is refused.
pub async fn abort(mesh: &Mesh) -> anyhow::Result<Rotation> {
    let request = AbortRotationRequest {
        reason: "a test".to_owned(),
        ..AbortRotationRequest::default()
    };
    let answer = mesh.admin().await?.abort_rotation(request).await?;
    answer.into_inner().rotation.context("there is a rotation")
}

/// Distrusts a root by the first digits of its key identifier, with so long for each gate.
///
/// # Errors
/// If that is refused.
pub async fn distrust(mesh: &Mesh, root: &str, cap: Duration) -> anyhow::Result<Rotation> {
    let request = DistrustRequest {
        authority: root.to_owned(),
        reason: "a test".to_owned(),
        cap_ms: u64::try_from(cap.as_millis()).ok(),
        ..DistrustRequest::default()
    };
    let answer = mesh.admin().await?.distrust(request).await?.into_inner();
    match answer.outcome {
        Some(Distrusted::Rotation(rotation)) => Ok(rotation),
        other => anyhow::bail!("{other:?}"),
    }
}

/// Leaves behind whoever is in the way of the gate of this phase, once it is nobody but whom
/// `meant` says.
///
/// # Errors
/// If somebody else stays in the way, or that is refused.
pub async fn force(
    mesh: &Mesh,
    phase: &str,
    meant: impl Fn(&Unconfirmed) -> bool,
) -> anyhow::Result<()> {
    until("it is forced", || async {
        let stuck = reaches(mesh, "nobody else is in the way", |it| {
            let only = it.unconfirmed_total > 0 && it.unconfirmed.iter().all(&meant);
            it.phase == phase && only
        })
        .await?;
        let request = ContinueRotationRequest {
            force: true,
            reason: "a test".to_owned(),
            digest: stuck.unconfirmed_digest,
            ..ContinueRotationRequest::default()
        };
        match mesh.admin().await?.continue_rotation(request).await {
            Ok(_rotation) => Ok(true),
            // Its bundle is about to be published.
            Err(refused) if refused.message().contains("that is no gate") => Ok(false),
            Err(refused) => Err(refused.into()),
        }
    })
    .await
}

/// The rotation that goes on, or the last one.
///
/// # Errors
/// If there is none.
pub async fn stands(mesh: &Mesh) -> anyhow::Result<Rotation> {
    let request = RotationStatusRequest::default();
    let answer = mesh.admin().await?.rotation_status(request).await?;
    answer.into_inner().rotation.context("there is a rotation")
}

/// Waits until the rotation is where `there` says.
///
/// # Errors
/// If it does not come there, with how it stands instead.
pub async fn reaches(
    mesh: &Mesh,
    what: &str,
    there: impl Fn(&Rotation) -> bool,
) -> anyhow::Result<Rotation> {
    let reached = until(what, || async { Ok(there(&stands(mesh).await?)) }).await;
    let rotation = stands(mesh).await?;
    reached.with_context(|| format!("it stands like this: {rotation:#?}"))?;
    Ok(rotation)
}

/// The published roots, in DER.
///
/// # Errors
/// If the authority does not answer.
pub async fn roots(mesh: &Mesh) -> anyhow::Result<Vec<bytes::Bytes>> {
    let request = GetBundleRequest::default();
    let bundle = mesh.admin().await?.get_bundle(request).await?;
    Ok(bundle.into_inner().roots)
}
